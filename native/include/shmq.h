/* shmq.h: the shared ABI of shmq: what lies in a segment and what may be called on it.
 *
 * One header for the C compiler and for cffi: the text between the fences "cffi: begin" and "cffi: end" is the cdef, so
 * no number and no struct is written twice. Outside the fences: static assertions and the includes.
 *
 * THE SEGMENT. One broker = one segment: a sparse object of a large virtual size of which only reserved parts have memory.
 *
 *   0          +--------------------------------------------------------------+
 *              | shmq_header: magic (stored last), version, fingerprint, geometry, broker-wide words
 *   owners     | shmq_owner[processes] one record per attached process          (reserved at format)
 *   timers     | word[4096]            hints: blocks that became DELAYED        (reserved at format)
 *   l1         | word[indices/4096]    hints: bit = that L0 word may be nonzero (reserved at format)
 *   l0         | word[indices/64]      hints: bit = that block may be FREE      (reserved as the arena grows)
 *   queues     | shmq_queue[queues]    one record of 8 KiB per queue            (reserved at create)
 *   counters   | shmq_counters[owner][queue]; the last row: sums when the record was made   (reserved per owner and 32 queues)
 *   held       | shmq_held[owner][held]   leases and view hazards               (reserved stepwise per owner)
 *   blocks     | shmq_block[indices]   64-byte block headers, never given back  (reserved as the arena grows)
 *   cold       | room for a second line per block (durability)                  (not used by this layout)
 *   rings      | ring slots, key lanes and dedup tables of all queues           (reserved at create, or as they are used)
 *   payload[k] | payload areas of size class k                                  (reserved on demand, given back)
 *              +--------------------------------------------------------------+
 *
 * How many there are of each is in the geometry: it follows from memory_limit and the limits on processes and queues, and is
 * at most SHMQ_OWNERS, SHMQ_QUEUES, SHMQ_HELD and SHMQ_BLOCKS. Block numbers are dealt to the size classes in units of a power of
 * two, SHMQ_UNITS at most: the class of a block is one shift and one look into a table.
 *
 * TRUTH is one 64-bit word per object: block.ctl, owner.word, queue.word. Everything else that points at an object (slots,
 * bitmaps, magazines, timer hints, head and tail, counters) is a hint that any process can rebuild.
 *
 *   ctl   state:4 | flags:4 | owner:12 | gen:44       gen+1 on entering NEW, OWNED and MOVE only
 *   slot  round:40 | idx+1:24                         low 24 bits zero = EMPTY at that round; a zero page is a fresh ring
 *   pos   ring:16 | position:48                       intent, written before each slot CAS; ring = queue*16 + lane
 *   held  flags:4 | gen:36 | idx+1:24                 zero = unused
 *   owner state:2 | epoch:16 | start:24 | pid:22      identity of a process in one word
 *   queue gen:56 | state:8
 *   evt   seq:31 | bit:1                              futex word; bit = somebody may sleep
 *
 * Results: >= 0 fine (a count where there is one); -1..-15 outcomes of a sound call; <= -16 errors.
 */
#ifndef SHMQ_H
#define SHMQ_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

typedef _Atomic(uint64_t) shmq_au64;
typedef _Atomic(uint32_t) shmq_au32;

/* cffi: begin */
#define SHMQ_LAYOUT_VERSION 1
#define SHMQ_OWNERS 1024
#define SHMQ_QUEUES 1024
#define SHMQ_LANES 16
#define SHMQ_LANE_WORK 0
#define SHMQ_LANE_AGAIN 10
#define SHMQ_LEVELS 10
#define SHMQ_KEY_LANES 4096
#define SHMQ_LANES_ORDERED 0x80000000u
#define SHMQ_CLASSES 11
#define SHMQ_UNITS 64
#define SHMQ_BLOCKS 16777216
#define SHMQ_HELD 65536
#define SHMQ_TIMERS 4096
#define SHMQ_NAME_MAX 255
#define SHMQ_FILTER_MAX 288             /* bytes of encoded headers */
#define SHMQ_INDEX_MASK 0xffff          /* a reference to a queue: gen:47 | index:16; the index is its record's number */
#define SHMQ_ATTEMPTS_MAX 4095          /* attempts are counted up to here */
#define SHMQ_RETRIES_UNLIMITED 0xffffffff
#define SHMQ_DEDUP_MOST 16777214        /* ids that a table can hold in one window */
#define SHMQ_DEDUP_DEFAULT 1000000
#define SHMQ_BUCKETS 20                 /* of a histogram of shmq_counters */
#define SHMQ_NO_LATENCIES 62            /* bit of the user word: no latencies are measured */
#define SHMQ_NO_QUEUE 4095
#define SHMQ_NOTES 256

enum shmq_rc {
    SHMQ_OK = 0,
    SHMQ_EMPTY = -1,       /* nothing to take */
    SHMQ_FULL = -2,        /* max_depth or max_bytes reached */
    SHMQ_TIMEOUT = -3,
    SHMQ_CLOSED = -4,      /* the queue was shut down (publish), or shut down and drained (take) */
    SHMQ_INTR = -5,        /* a signal arrived */
    SHMQ_STALE = -6,       /* the lease has moved on: settled, expired or purged */
    SHMQ_GONE = -7,        /* the queue was deleted */
    SHMQ_BUSY = -8,        /* another living process is at it */
    SHMQ_ALIVE = -9,       /* that owner is not dead */
    SHMQ_E_NOMEM = -16,    /* the arena or the file system behind it has no room */
    SHMQ_E_CORRUPT = -17,
    SHMQ_E_LAYOUT = -18,   /* other magic, version or fingerprint */
    SHMQ_E_FORKED = -19,   /* this context belongs to the parent; attach anew */
    SHMQ_E_OWNERS = -20,   /* all owner records in use */
    SHMQ_E_QUEUES = -21,   /* all queue records, or all room for rings, in use */
    SHMQ_E_EXISTS = -22,
    SHMQ_E_NOTFOUND = -23,
    SHMQ_E_ARG = -24,
    SHMQ_E_SYS = -25,      /* a system call failed: detail.sys_errno */
    SHMQ_E_TOOBIG = -26,
    SHMQ_E_HELD = -27,     /* geometry.held_each unsettled deliveries in this process */
    SHMQ_E_DETACHED = -28,
    SHMQ_E_PIDNS = -29     /* made in another pid or time namespace: deaths could not be proven */
};

enum shmq_state {
    SHMQ_VOID = 0,
    SHMQ_FREE = 1,
    SHMQ_NEW = 2,
    SHMQ_READY = 3,
    SHMQ_OWNED = 4,
    SHMQ_MOVE = 5,
    SHMQ_DELAYED = 6,
    SHMQ_LIMBO = 7,
    SHMQ_ATTACHED = 8,
    SHMQ_BAD = 9,
    SHMQ_FAN = 10
};
#define SHMQ_FLAG_VIEWED 1   /* ctl flag: some held entry may outlive the lease; the last free goes by LIMBO */
#define SHMQ_FLAG_CHILD 2    /* ctl flag: a subscriber's share of a block in FAN, which has the payload */
#define SHMQ_FLAG_PARKED 8   /* ctl flag, DELAYED: due, and waits for room at its queue (park.c). MOVE: it was the first of those */
#define SHMQ_FLAG_FRESH 4    /* ctl flag, DELAYED and MOVE: on its first way into a ring, it was in nobody's hands yet */

#define SHMQ_HELD_STARTED 1  /* held flag: handed to the user; a death counts as an attempt */
#define SHMQ_HELD_VIEW 2     /* held flag: no lease any more, only a view keeps the block */

enum shmq_owner_state { SHMQ_OWNER_FREE = 0, SHMQ_OWNER_ALIVE = 1, SHMQ_OWNER_DEAD = 2 };
enum shmq_queue_state { SHMQ_Q_FREE = 0, SHMQ_Q_LIVE = 1, SHMQ_Q_CLOSED = 2, SHMQ_Q_DELETING = 3, SHMQ_Q_RETIRING = 4 };
enum shmq_role { SHMQ_CLIENT = 0, SHMQ_SUPERVISOR = 1, SHMQ_SIDECAR = 2, SHMQ_OBSERVER = 3 };
enum shmq_overflow { SHMQ_BLOCK = 0, SHMQ_REJECT = 1, SHMQ_DROP_OLDEST = 2, SHMQ_DISCONNECT = 3 };
enum shmq_order { SHMQ_FIFO = 0, SHMQ_BY_KEY = 1, SHMQ_STRICT = 2 };
enum shmq_kind { SHMQ_KIND_QUEUE = 0, SHMQ_KIND_TOPIC = 1, SHMQ_KIND_SUBSCRIPTION = 2, SHMQ_KIND_PATTERN = 3, SHMQ_KIND_MEMBER = 4 };
enum shmq_reason { SHMQ_R_NONE = 0, SHMQ_R_RETRIES = 1, SHMQ_R_REJECTED = 2, SHMQ_R_EXPIRED = 3, SHMQ_R_OVERFLOW = 4 };
enum shmq_expired { SHMQ_EXPIRED_DIES = 0, SHMQ_EXPIRED_DROPS = 1 };
enum shmq_durability { SHMQ_DURABILITY_NONE = 0, SHMQ_DURABILITY_SNAPSHOT = 1, SHMQ_DURABILITY_INTERVAL = 2, SHMQ_DURABILITY_SYNC = 3 };
enum shmq_setting { SHMQ_ANONYMOUS = 0, SHMQ_CLOSING = 1, SHMQ_USER_WORD = 2 };   /* words of the header that shmq_set_flag stores */
/* What the two language bindings (native/accel and shmq/_native/pure) agree about; the core knows nothing of it. */
#define SHMQ_EAGER 4096                 /* payloads up to this size are copied at once, larger ones on first use */
#define SHMQ_CHUNK 64                   /* messages in one crossing */
enum shmq_consumer_rc { SHMQ_CONSUMER_CLOSED = -101, SHMQ_CONSUMER_LIMIT = -102 };   /* outcomes beside shmq_rc */
enum shmq_ack_mode { SHMQ_ACK_MANUAL = 0, SHMQ_ACK_AUTO = 1, SHMQ_ACK_NONE = 2 };
enum shmq_settle { SHMQ_ACK = 0, SHMQ_NACK = 1, SHMQ_REJECTED = 2, SHMQ_RELEASE = 3 };
enum shmq_item { SHMQ_ITEM_COMPACT = 1, SHMQ_ITEM_PICKLE = 2, SHMQ_ITEM_BUFFERS = 3 };   /* of shmq.mp: what is in a payload */
#define SHMQ_ITEM_ALIGN 64              /* parts of an item begin at multiples of this */
/* queue flags (the lower 16 are the language binding's own) */
#define SHMQ_COUNTED 0x10000  /* it ends when no process has a handle on it any more (refs.c) */
#define SHMQ_JOINED 0x20000   /* some wait until every message is settled (shmq_wait_settled) */
enum shmq_mark { SHMQ_TRAVELLED = 1, SHMQ_TERMINATED = 2 };   /* a handle may lie in some message; joiners shall not wait any more */
enum shmq_provider { SHMQ_POSIX = 0, SHMQ_SYSV = 1 };

typedef struct {             /* header.geometry: immutable after format; copied privately at attach */
    uint64_t total;          /* virtual bytes of the segment */
    uint64_t owners, timers, l1, l0, queues, counters, held, blocks, cold, rings, rings_size;
    uint64_t payload[SHMQ_CLASSES];   /* offset of the class's payload region */
    uint64_t stride[SHMQ_CLASSES];    /* bytes per payload area */
    uint64_t limit[SHMQ_CLASSES];     /* blocks the class may grow to */
    uint64_t first[SHMQ_CLASSES];     /* index of the class's first block */
    uint64_t indices, unit_lg;        /* block indices dealt out to classes, in units of 2^unit_lg */
    uint64_t processes, queue_count, held_each;   /* owner records, queue records, entries of each held table */
    uint64_t memory_limit;
    uint64_t max_message;    /* bytes */
    uint64_t default_ttl_ns;
} shmq_geometry;

typedef struct {             /* the first pages of a segment */
    shmq_au64 magic;         /* "SHMQ0001", stored last by format */
    uint64_t version;
    uint64_t fingerprint;    /* of offsets and sizes, of this build */
    uint64_t provider;
    uint64_t uid;
    uint64_t pidns;          /* inode of the creator's pid namespace */
    uint64_t timens;         /* inode of its time namespace; 0 = this kernel has none */
    uint64_t created_ns;
    uint64_t boot;           /* hash of the boot id: a segment never outlives a boot, a file might */
    shmq_geometry geometry;
    uint64_t checksum;       /* of all above but magic */
    char name[256];          /* the broker's name; System V segments have no other */
    uint8_t pad0[40];
    shmq_au64 claim;         /* System V: owner word of who serves the segment; at this place in every layout (sysv.c) */
    shmq_au64 admin;         /* owner word of who changes queue records; 0 = nobody */
    shmq_au64 anonymous;     /* 1 = the supervisor ends the broker when the last client is gone */
    shmq_au64 closing;       /* 1 = graceful shutdown has begun */
    shmq_au64 user_word;     /* defaults of upper floors; bit 62: no latencies are measured */
    uint64_t secret[2];      /* keys the hashes of keys and deduplication ids; written by format */
    uint8_t pad7[16];
    shmq_au64 era;           /* grows when a record is made, and when one that is deleted is out of everybody's sight (collect.c) */
    uint8_t pad1[56];
    shmq_au64 next_id;       /* message ids are handed out from here in lots */
    uint8_t pad2[120];
    shmq_au32 attach_evt;    /* changes with every attach, detach and declared death */
    shmq_au32 timer_evt;     /* changes with every timer hint */
    shmq_au32 timer_tail;
    shmq_au32 timer_lost;    /* 1 = a timer hint may be missing: scan all blocks */
    shmq_au32 queue_hwm;     /* records ever used */
    shmq_au32 owner_hwm;
    shmq_au32 leases;        /* 1 = some queue has an ack_timeout */
    shmq_au32 corrupt;       /* words found impossible and put right or quarantined */
    shmq_au32 topology;      /* changes with every queue, topic and subscription made, closed or deleted */
    /* 1 = some process may not use membarrier: who attaches from now on has a fence in each operation; never 0 again */
    shmq_au32 fences;
    shmq_au32 unreached;     /* 1 = the fast membarrier does not reach some process: deletions use the slow one; never 0 again */
    uint8_t pad3[84];
    shmq_au64 next_expiry;   /* no message expires before this, as far as known; a hint for the sweep */
    uint8_t pad4[120];
    shmq_au64 payload_bytes; /* memory behind payloads; a hint, counted anew by every trim */
    uint8_t pad5[120];
    struct {
        shmq_au64 n;
        uint8_t pad[120];
    } hwm[SHMQ_CLASSES];   /* blocks ever made, per class */
} shmq_header;

typedef struct {             /* one attached process; word is the truth */
    shmq_au64 word;
    shmq_au64 op;            /* odd = inside an operation; only the owner writes it */
    shmq_au32 held_hwm;      /* held entries ever used by this attachment */
    shmq_au32 held_cap;      /* held entries with memory behind them; outlives the attachment */
    shmq_au32 counters;      /* bit i = counters of queues 32i..32i+31 have memory; outlives the attachment */
    shmq_au32 role;
    shmq_au64 start;         /* full start time in clock ticks since boot */
    shmq_au64 stack;         /* address of the main stack: changes with exec */
    shmq_au64 attached_ns;
    shmq_au32 settled;       /* 1 = every handle that this process has is counted (refs.c) */
    shmq_au32 fenced;        /* 1 = this attachment has a fence in each operation */
    shmq_au64 image;         /* which program of that process attached: another one after exec; 0 = unknown */
    shmq_au64 era;           /* of the operation: header.era when it began:48 | the record that it may touch:16, all ones = any */
    uint8_t pad[48];
} shmq_owner;

typedef struct {
    shmq_au64 word;
    shmq_au64 deadline;
} shmq_held;   /* deadline: CLOCK_MONOTONIC ns, 0 = none */

typedef struct {             /* one block; only the owner of NEW or MOVE writes anything but ctl */
    shmq_au64 ctl;
    shmq_au64 pos;
    /* spare:3 | leaving:1 | tied:1 | forward:1 | dedup:1 | meta:1 | prio:4 | again:1 | reason:3 | died:12 | attempts:12 |
     * origin:12 | home:12 */
    shmq_au64 fate;
    shmq_au64 id;
    shmq_au64 published_ns;
    shmq_au64 expires_ns;    /* 0 = never.  Dead letters, which never do: when it died */
    shmq_au64 due_ns;        /* DELAYED: when to fire */
    /* of a child: the block that has the payload. Else payload bytes; meta: at the next multiple of 8 follow its length (4 bytes)
     * and its bytes */
    shmq_au32 size;
    shmq_au32 extra;         /* attached block+1:24 | reserved:8, in units of the class; 0 = no memory behind the payload */
} shmq_block;

typedef struct {             /* what a queue was made with; immutable */
    uint64_t max_depth;      /* messages ready at a time */
    uint64_t max_bytes;      /* payload bytes ready at a time, 0 = no bound */
    uint64_t ttl_ns;         /* 0 = never */
    uint64_t backoff_ns, backoff_max_ns;
    uint64_t ack_timeout_ns; /* 0 = liveness only */
    uint64_t dedup_window_ns;
    /* queue word of the dead-letter queue when it was made. It is found by its name ever after: shmq_queue.dead_name */
    uint64_t dead_word;
    uint32_t dead_letter;    /* its number then, or SHMQ_NO_QUEUE */
    uint32_t overflow;
    uint32_t max_retries;
    uint32_t jitter_ppm;     /* spread of the backoff, parts per million */
    uint32_t priorities;
    uint32_t order;
    uint32_t durability;
    uint32_t flags;
    uint64_t aging_ns;       /* a waiting message gains a level each time this passes; 0 = never */
    uint64_t topic;          /* reference of the topic that a subscription belongs to, or 0 */
    uint32_t kind;
    uint32_t expired;        /* 1 = expired messages are dropped, 0 = dead-lettered */
    uint32_t dedup_capacity; /* ids remembered at a time */
    uint32_t reserved;
} shmq_queue_options;

/* ready: memory is reserved, of a long ring its first chunk */
typedef struct {
    uint64_t offset;
    uint32_t lg;
    uint32_t ready;
} shmq_ring_place;
typedef struct {
    shmq_au64 head;
    uint8_t pad0[120];
    shmq_au64 tail;
    uint8_t pad1[120];
} shmq_ring_ends;

typedef struct {
    shmq_au64 word;
    uint64_t created_ns;
    shmq_au32 lanes;         /* bit n = the ring of level n > 0 has been used; SHMQ_LANES_ORDERED = order is not fifo */
    shmq_au32 parked;        /* count:31 | some:1    messages may wait for room here; the count changes with each that begins to */
    shmq_queue_options options;
    shmq_au32 marks;         /* enum shmq_mark */
    struct {
        shmq_au32 n;
    } chunks[11];   /* by lane: so many chunks of a long ring have memory; 0 = it is short and has all of it */
    uint8_t pad0[56];
    char name[256];
    shmq_au32 evt;           /* consumers sleep here */
    uint8_t pad1[124];
    shmq_au32 space;         /* producers sleep here */
    uint32_t ahead;          /* 1 = some consumer reads ahead: an idle one may look for what it can have */
    shmq_au64 bytes;         /* ready payload bytes, kept only when max_bytes is set; a hint, resynchronised by the sidecar */
    uint8_t pad3[112];
    shmq_ring_ends ends[11];
    shmq_ring_place place[11];
    shmq_ring_place keys;    /* order = key, strict: what each lane is busy with */
    shmq_ring_place dedup;   /* the table of ids */
    uint64_t ephemeral;      /* owner word of the process with which a subscription ends, or 0 */
    uint32_t ephemeral_owner;   /* its record */
    uint32_t filter_size;
    uint8_t filter[SHMQ_FILTER_MAX];     /* encoded headers that a message must have, all of them, to get into the subscription */
    char dead_name[256];     /* name of the dead-letter queue; empty: none */
    shmq_au64 turn;          /* who sends on what waits for room: record+1:16 | epoch:16 | pid:32, or 0 */
    uint8_t pad4[120];
    shmq_au64 tickets;       /* given to those that wait for room: they are sent on in this order */
    shmq_au32 disturbed;     /* changes when a message may have been put back in front of others that wait */
    uint8_t pad5[116];
    struct {
        shmq_au64 word;
    } note[SHMQ_NOTES];   /* count:40 | idx+1:24 of the last that began to wait */
    shmq_au64 born;          /* header.era when it was made */
    shmq_au64 ended;         /* which operations may still touch it: those that began before this era. 0 = not known yet (collect.c) */
    uint8_t pad6[1520];
} shmq_queue;

typedef struct {             /* one writer each: the owner; monotone, never reset; for metrics only */
    shmq_au64 published, published_bytes, delivered, delivered_bytes, acked, nacked, rejected, redelivered;
    shmq_au64 dead_lettered, expired, dropped, recovered, returned, wakes, sleeps, full;
    shmq_au64 deduped, forwarded, disconnected, spare0;
    /* no counts: the attachment's owner word and the queue's gen while it has a handle (SHMQ_COUNTED) */
    shmq_au64 ref_owner, ref_queue;
    shmq_au64 waited_ns, held_ns;
    /* sampled: publish to delivery, delivery to ack; bucket i: up to 1, 3, 10, 30 ... microseconds, the last: above 1000 s */
    struct {
        shmq_au64 n;
    } waited[SHMQ_BUCKETS], held[SHMQ_BUCKETS];
} shmq_counters;

typedef struct shmq_ctx shmq_ctx;   /* one process's attachment; in private memory that a fork wipes */

typedef struct {             /* what went wrong, for the text of the error */
    int32_t sys_errno;
    uint32_t what;           /* a word for the structure: see shmq_what() */
    uint64_t offset, found, expected;
} shmq_detail;

typedef struct {
    uint64_t memory_limit;   /* bytes of memory for payloads, those of all size classes together */
    uint64_t max_message;
    uint64_t default_ttl_ns;
    uint32_t provider;
    uint32_t anonymous;
    uint32_t max_processes;  /* attached at a time; 0 = SHMQ_OWNERS */
    uint32_t max_queues;     /* at a time; 0 = SHMQ_QUEUES */
} shmq_config;

typedef struct {
    const void *data;
    const void *meta;        /* encoded headers, or NULL */
    uint64_t size;
    uint64_t ttl_ns;         /* 0 = never, UINT64_MAX = the queue's default */
    uint64_t delay_ns;
    uint64_t id;             /* out */
    uint32_t meta_size;
    uint32_t priority;
    const void *key;         /* order = key: messages of equal keys keep their order */
    const void *dedup;       /* deduplication id, or NULL */
    uint32_t key_size;
    uint32_t dedup_size;
    uint64_t spot, spotted;  /* of shmq_publish_soon(): what it found out of dedup, and for which broker; else 0 */
} shmq_message;

typedef struct {
    uint64_t ctl;            /* the exact word that proves the lease */
    uint32_t idx;
    uint32_t held;           /* entry + 1 in the held table; 0 = none (taken for good) */
    const uint8_t *data;
    const uint8_t *meta;
    const uint8_t *extra;    /* encoded headers added after the publish (x-error), or NULL */
    uint32_t size;
    uint32_t meta_size;
    uint32_t extra_size;
    uint32_t attempt;        /* this one included */
    uint32_t queue;          /* its number */
    uint32_t priority;
    uint32_t reason;         /* shmq_reason when it is a dead letter */
    uint32_t origin;         /* number of the queue where it died */
    uint32_t died_attempts;
    uint32_t redelivered;
    uint64_t id, published_ns, expires_ns, died_ns;
} shmq_delivery;

#define SHMQ_WAIT_MANY 127   /* queues in a set: futex_waitv takes 128 words, and one is the set's own */
#define SHMQ_FOR_ITEMS 0
#define SHMQ_FOR_SPACE 1
#define SHMQ_FOR_CALL 2       /* for shmq_wake_queue, whatever is there */
typedef struct {             /* one queue that is waited for. `seen` and `slice_ns` are the core's; a fresh entry has 0 there */
    shmq_ctx *ctx;
    uint64_t queue;
    uint64_t slice_ns;
    uint32_t what;           /* SHMQ_FOR_... */
    uint32_t seen;
    int32_t result;          /* out, where it is ready: as of shmq_wait_items or shmq_wait_space */
    uint32_t reserved;
} shmq_wait_one;
typedef struct {             /* in private memory; all but `control` belongs to the thread that waits */
    shmq_au32 control;       /* changes when that thread is to look up from its sleep */
    uint32_t n;
    uint64_t idle_ns;        /* the core's */
    shmq_wait_one one[SHMQ_WAIT_MANY];
    uint8_t ready[SHMQ_WAIT_MANY];   /* out: numbers of those that are, in their order */
    uint8_t pad[1];
} shmq_wait_set;

typedef struct {
    uint64_t total, memory_used, memory_limit, blocks, free_blocks, next_id, created_ns;
    uint64_t owners, queues, corrupt, anonymous, closing, user_word, default_ttl_ns, max_message, provider;
    uint64_t payload_bytes, max_processes, max_queues, held_each;
} shmq_segment_info;

typedef struct {             /* what the kernel says about a System V segment */
    uint64_t size;
    uint64_t attached;       /* mappings, over all processes and namespaces */
    uint32_t uid;            /* whose it is now */
    uint32_t creator;        /* uid of who made it: never changes, and keeps an owner's rights */
    uint32_t mode;
    uint32_t key;
    uint32_t removed;        /* 1 = no name any more; gone with the last mapping */
    uint32_t creator_pid;    /* 0 = not of this pid namespace */
} shmq_sysv_info;
typedef struct {
    uint64_t word, start, stack, attached_ns, op;
    uint32_t state, pid, epoch, role, held, settled;
} shmq_owner_info;
typedef struct {
    uint64_t word, created_ns, ready, bytes;
    shmq_queue_options options;
    uint64_t counters[64];   /* sums of shmq_counters in its order */
    uint32_t state, index, marks;
    char name[256];
    uint64_t ephemeral;
    uint32_t filter_size, owner;   /* owner: the record of the process with which it ends */
    uint8_t filter[SHMQ_FILTER_MAX];
    char dead_name[256];     /* of its dead-letter queue; empty: none */
    uint64_t ref;                  /* how calls name this life of the queue */
} shmq_queue_info;
/* delayed: not yet due; parked: due, wait for room */
typedef struct {
    uint64_t ready, unsettled, delayed, moving, fresh, oldest_ns, bytes, parked;
} shmq_census;
typedef struct {             /* shmq_audit: counts of violated invariants, and of blocks by state */
    uint64_t states[16];
    uint64_t orphans;        /* NEW, OWNED or MOVE of a record that is not alive */
    uint64_t unlinked;       /* READY but in no slot */
    uint64_t dangling;       /* slot names a block that is not takeable from there */
    uint64_t limbo;          /* LIMBO that no living held entry names */
    uint64_t attached;       /* ATTACHED to a block that does not know it */
    uint64_t fans;           /* FAN whose children are all over; children without a FAN that knows them */
    uint64_t held;           /* held entries of the living that name no block */
    uint64_t unhinted;       /* FREE without a hint bit (magazines of the living excepted by the caller) */
    uint64_t bad;            /* words that no history can produce */
} shmq_audit_report;

/* context and segment */
shmq_ctx *shmq_ctx_new(void);
void shmq_ctx_delete(shmq_ctx *ctx);
void shmq_ctx_detail(shmq_ctx *ctx, shmq_detail *out);
const char *shmq_what(uint32_t what);
uint64_t shmq_fingerprint(void);
uint64_t shmq_plan(const shmq_config *config, shmq_geometry *out);
int shmq_map_fd(shmq_ctx *ctx, int fd, uint64_t size);
int shmq_map_address(shmq_ctx *ctx, void *base, uint64_t size, uint64_t inode);
int shmq_sysv_look(int id, shmq_sysv_info *out);
int shmq_sysv_claim(int id, void *base, uint64_t size);
void shmq_sysv_drop(void *base);
int shmq_format(shmq_ctx *ctx, const shmq_config *config);
int shmq_verify(shmq_ctx *ctx);
int shmq_check_header(const void *bytes, uint64_t n, uint64_t file_size, shmq_detail *out, uint64_t *total);
int shmq_unmap(shmq_ctx *ctx);
int shmq_segment_snapshot(shmq_ctx *ctx, shmq_segment_info *out);
int shmq_geometry_of(shmq_ctx *ctx, shmq_geometry *out);
uint64_t shmq_now(void);
int shmq_set_flag(shmq_ctx *ctx, uint32_t which, uint64_t value);

/* owners */
int shmq_attach(shmq_ctx *ctx, uint32_t role);
int shmq_detach(shmq_ctx *ctx);
int shmq_attached(shmq_ctx *ctx);
int shmq_self(shmq_ctx *ctx);
int shmq_owner_snapshot(shmq_ctx *ctx, uint32_t owner, shmq_owner_info *out);
int shmq_owner_prove(shmq_ctx *ctx, uint32_t owner, int look_for_exec);
int shmq_owner_declare(shmq_ctx *ctx, uint32_t owner, uint64_t word);
int shmq_recover(shmq_ctx *ctx, uint32_t owner);
int shmq_reap(shmq_ctx *ctx, int look_for_exec);
int shmq_follow_parent(int signal);   /* to be sent to this process when its parent ends */

/* queues */
int64_t shmq_queue_create(shmq_ctx *ctx, const char *name, const shmq_queue_options *options);
int64_t shmq_queue_open(shmq_ctx *ctx, const char *name);
int64_t shmq_queue_adopt(shmq_ctx *ctx, uint32_t index);
int shmq_queue_close(shmq_ctx *ctx, uint64_t queue);
int shmq_queue_delete(shmq_ctx *ctx, uint64_t queue);
int shmq_queue_collect(shmq_ctx *ctx);
int shmq_queue_snapshot(shmq_ctx *ctx, uint32_t index, shmq_queue_info *out);
int shmq_queue_census(shmq_ctx *ctx, uint64_t queue, shmq_census *out);
int shmq_census_all(shmq_ctx *ctx, shmq_census *out, uint32_t n);
int64_t shmq_depth(shmq_ctx *ctx, uint64_t queue);
int64_t shmq_purge(shmq_ctx *ctx, uint64_t queue);
int shmq_queue_discard(shmq_ctx *ctx, uint64_t queue);
int shmq_queue_mark(shmq_ctx *ctx, uint64_t queue, uint32_t marks);
int shmq_ref(shmq_ctx *ctx, uint64_t queue, int on);
int shmq_refs(shmq_ctx *ctx, uint64_t queue);
int64_t shmq_refs_none(shmq_ctx *ctx, uint32_t index);
int shmq_refs_settled(shmq_ctx *ctx);
int shmq_refs_collect(shmq_ctx *ctx, const uint64_t *queues, uint32_t n);

/* messages */
void shmq_publish_soon(shmq_ctx *ctx, uint64_t queue, shmq_message *message);
int shmq_publish(shmq_ctx *ctx, uint64_t queue, shmq_message *message);
int shmq_publish_many(shmq_ctx *ctx, uint64_t queue, shmq_message *messages, uint32_t n);
int shmq_loan(shmq_ctx *ctx, uint64_t queue, uint64_t size, uint32_t meta_size, shmq_delivery *out);
int shmq_loan_publish(shmq_ctx *ctx, uint64_t queue, shmq_delivery *loan, shmq_message *message);
int shmq_loan_abort(shmq_ctx *ctx, shmq_delivery *loan);
int shmq_take(shmq_ctx *ctx, uint64_t queue, uint32_t max, uint32_t flags, shmq_delivery *out);
int shmq_start(shmq_ctx *ctx, shmq_delivery *delivery);
int shmq_ack(shmq_ctx *ctx, shmq_delivery *deliveries, uint32_t n);
int shmq_nack(shmq_ctx *ctx, shmq_delivery *delivery, uint64_t delay_ns, const void *extra, uint32_t extra_size);
int shmq_reject(shmq_ctx *ctx, shmq_delivery *delivery, const void *extra, uint32_t extra_size);
int shmq_release(shmq_ctx *ctx, shmq_delivery *delivery);
int shmq_forward(shmq_ctx *ctx, shmq_delivery *delivery, uint64_t target, shmq_message *message);
int shmq_touch(shmq_ctx *ctx, shmq_delivery *delivery, uint64_t extend_ns);
int shmq_settle_viewed(shmq_ctx *ctx, shmq_delivery *delivery);
int shmq_view_keep(shmq_ctx *ctx, shmq_delivery *delivery);
int shmq_view_end(shmq_ctx *ctx, uint32_t held, uint32_t idx);
int shmq_peek(shmq_ctx *ctx, uint64_t queue, uint64_t *cursor, shmq_delivery *out);
#define SHMQ_TAKE_FREE 1     /* at most once: no held entry; the caller copies, then calls shmq_ack */
#define SHMQ_TAKE_AHEAD 2    /* read-ahead: not STARTED until shmq_start */
#define SHMQ_DELAY_DEFAULT 18446744073709551615ULL   /* nack: the queue's own backoff; also ttl: the queue's own */

/* waiting */
int shmq_wait_items(shmq_ctx *ctx, uint64_t queue, uint64_t deadline_ns, uint64_t spin_ns);
int shmq_glance(shmq_ctx *ctx, uint64_t queue, uint64_t deadline_ns);
int shmq_wait_space(shmq_ctx *ctx, uint64_t queue, uint64_t deadline_ns, uint64_t spin_ns);
int shmq_wait_settled(shmq_ctx *ctx, uint64_t queue, uint64_t deadline_ns);
int shmq_wait_word(shmq_ctx *ctx, uint32_t which, uint32_t seen, uint64_t deadline_ns);
uint32_t shmq_read_word(shmq_ctx *ctx, uint32_t which);
int shmq_wake_queue(shmq_ctx *ctx, uint64_t queue);
int shmq_pass(shmq_ctx *ctx, uint64_t queue, uint32_t what);
int shmq_waits_many(void);
int shmq_wait_many(shmq_wait_set *set, uint32_t seen, uint64_t deadline_ns);
uint32_t shmq_wait_seen(shmq_wait_set *set);
void shmq_wait_nudge(shmq_wait_set *set);
#define SHMQ_WORD_ATTACH 0
#define SHMQ_WORD_TIMER 1

/* the sidecar's work */
int shmq_timers_collect(shmq_ctx *ctx, uint32_t *idx, uint64_t *due, uint32_t max, uint32_t *scan);
int shmq_timers_scan(shmq_ctx *ctx, uint32_t *from, uint32_t *idx, uint64_t *due, uint32_t max);
int shmq_timer_fire(shmq_ctx *ctx, uint32_t idx, uint64_t now, uint64_t *due);
int shmq_leases_expire(shmq_ctx *ctx, uint64_t now, uint64_t *next);
int shmq_leases_late(shmq_ctx *ctx);
int shmq_expire_scan(shmq_ctx *ctx, uint32_t *from, uint64_t now, uint64_t soon, uint32_t *idx, uint64_t *due, uint32_t n, uint64_t *first);
int shmq_expire(shmq_ctx *ctx, const uint32_t *idx, uint32_t n, uint64_t now);
uint64_t shmq_next_expiry(shmq_ctx *ctx);
int64_t shmq_trim(shmq_ctx *ctx, uint64_t keep_bytes);
int shmq_bytes_resync(shmq_ctx *ctx, uint64_t queue);
int shmq_parked_sweep(shmq_ctx *ctx);

/* topics: see topic.c */
int64_t shmq_topic_subscribe(shmq_ctx *ctx, const char *name, const shmq_queue_options *options, const void *filter, uint32_t filter_size,
                             uint32_t ephemeral);
int shmq_topic_publish(shmq_ctx *ctx, uint64_t topic, shmq_message *message);
int shmq_topic_publish_many(shmq_ctx *ctx, uint64_t topic, shmq_message *messages, uint32_t n);
int64_t shmq_topic_blocker(shmq_ctx *ctx, uint64_t topic);
int shmq_topic_subscribers(shmq_ctx *ctx, uint64_t topic, uint64_t *out, uint32_t max);
int shmq_topic_sweep(shmq_ctx *ctx);
int shmq_topic_matches(const char *pattern, uint32_t pattern_size, const char *topic, uint32_t topic_size);
int64_t shmq_member_turn(shmq_ctx *ctx, uint64_t member, uint64_t taken);

/* looking */
int shmq_audit(shmq_ctx *ctx, shmq_audit_report *out);
int shmq_block_snapshot(shmq_ctx *ctx, uint32_t idx, uint64_t *ctl, uint64_t *pos, uint64_t *fate);
/* cffi: end */

#define SHMQ_MAGIC UINT64_C(0x31303030514d4853)   /* "SHMQ0001" in memory order */
#define SHMQ_PAGE 4096u

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "64-bit atomics must be lock-free to work between processes");
_Static_assert(sizeof(shmq_au64) == 8 && sizeof(shmq_au32) == 4, "atomics must be plain words");
_Static_assert(sizeof(shmq_owner) == 128, "an owner record is two lines");
_Static_assert(sizeof(shmq_held) == 16, "held entry");
_Static_assert(sizeof(shmq_block) == 64, "a block header is one line");
_Static_assert(offsetof(shmq_block, size) == 56, "block.size");
_Static_assert(sizeof(shmq_counters) == 512, "counters are eight lines of one writer; the first two are hot");
_Static_assert(sizeof(shmq_queue) == 8192, "a queue record is two pages");
_Static_assert(offsetof(shmq_queue, evt) % 128 == 0, "evt has lines of its own");
_Static_assert(offsetof(shmq_queue, space) % 128 == 0, "space has lines of its own");
_Static_assert(offsetof(shmq_queue, ends) % 128 == 0, "ring ends have lines of their own");
_Static_assert(offsetof(shmq_header, next_id) % 128 == 0, "next_id has lines of its own");
_Static_assert(offsetof(shmq_header, hwm) % 128 == 0, "hwm has lines of its own");
_Static_assert(offsetof(shmq_header, admin) % 128 == 0, "live words start on a line of their own");
_Static_assert(offsetof(shmq_header, claim) == 888, "the claim is at the same place in every layout");
_Static_assert(sizeof(shmq_header) <= 8192, "the header fits its pages");

#endif
