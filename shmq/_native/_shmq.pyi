"""Types of the cffi extension: every function and constant in the fence of native/include/shmq.h.

Generated: `python tests/unit/test_accel.py` writes it anew.

`CData` is where static typing ends: the members of a C struct are known to cffi only.
"""

from typing import Any, Final, TypeAlias

CData: TypeAlias = Any

class FFI:
    NULL: Final[CData]
    buffer: Any
    error: type[Exception]
    errno: int

    def new(self, cdecl: str, init: Any = ...) -> CData: ...
    def cast(self, cdecl: str, source: Any) -> CData: ...
    def from_buffer(self, source: Any, require_writable: bool = ...) -> CData: ...
    def gc(self, cdata: CData, destructor: Any, size: int = ...) -> CData: ...
    def addressof(self, cdata: CData, *fields: str | int) -> CData: ...
    def string(self, cdata: CData, maxlen: int = ...) -> Any: ...
    def unpack(self, cdata: CData, length: int) -> Any: ...
    def memmove(self, dest: Any, src: Any, n: int) -> None: ...
    def typeof(self, cdecl: str | CData) -> Any: ...
    def sizeof(self, cdecl: str | CData) -> int: ...
    def offsetof(self, cdecl: str | CData, *fields: str | int) -> int: ...

ffi: FFI

class Lib:
    SHMQ_LAYOUT_VERSION: Final[int]
    SHMQ_OWNERS: Final[int]
    SHMQ_QUEUES: Final[int]
    SHMQ_LANES: Final[int]
    SHMQ_LANE_WORK: Final[int]
    SHMQ_LANE_AGAIN: Final[int]
    SHMQ_LEVELS: Final[int]
    SHMQ_KEY_LANES: Final[int]
    SHMQ_LANES_ORDERED: Final[int]
    SHMQ_CLASSES: Final[int]
    SHMQ_UNITS: Final[int]
    SHMQ_BLOCKS: Final[int]
    SHMQ_HELD: Final[int]
    SHMQ_TIMERS: Final[int]
    SHMQ_NAME_MAX: Final[int]
    SHMQ_FILTER_MAX: Final[int]
    SHMQ_INDEX_MASK: Final[int]
    SHMQ_ATTEMPTS_MAX: Final[int]
    SHMQ_RETRIES_UNLIMITED: Final[int]
    SHMQ_DEDUP_MOST: Final[int]
    SHMQ_DEDUP_DEFAULT: Final[int]
    SHMQ_BUCKETS: Final[int]
    SHMQ_NO_LATENCIES: Final[int]
    SHMQ_NO_QUEUE: Final[int]
    SHMQ_NOTES: Final[int]
    SHMQ_FLAG_VIEWED: Final[int]
    SHMQ_FLAG_CHILD: Final[int]
    SHMQ_FLAG_PARKED: Final[int]
    SHMQ_FLAG_FRESH: Final[int]
    SHMQ_HELD_STARTED: Final[int]
    SHMQ_HELD_VIEW: Final[int]
    SHMQ_EAGER: Final[int]
    SHMQ_CHUNK: Final[int]
    SHMQ_ITEM_ALIGN: Final[int]
    SHMQ_COUNTED: Final[int]
    SHMQ_JOINED: Final[int]
    SHMQ_WAIT_MANY: Final[int]
    SHMQ_FOR_ITEMS: Final[int]
    SHMQ_FOR_SPACE: Final[int]
    SHMQ_FOR_CALL: Final[int]
    SHMQ_TAKE_FREE: Final[int]
    SHMQ_TAKE_AHEAD: Final[int]
    SHMQ_DELAY_DEFAULT: Final[int]
    SHMQ_WORD_ATTACH: Final[int]
    SHMQ_WORD_TIMER: Final[int]
    SHMQ_OK: Final[int]
    SHMQ_EMPTY: Final[int]
    SHMQ_FULL: Final[int]
    SHMQ_TIMEOUT: Final[int]
    SHMQ_CLOSED: Final[int]
    SHMQ_INTR: Final[int]
    SHMQ_STALE: Final[int]
    SHMQ_GONE: Final[int]
    SHMQ_BUSY: Final[int]
    SHMQ_ALIVE: Final[int]
    SHMQ_E_NOMEM: Final[int]
    SHMQ_E_CORRUPT: Final[int]
    SHMQ_E_LAYOUT: Final[int]
    SHMQ_E_FORKED: Final[int]
    SHMQ_E_OWNERS: Final[int]
    SHMQ_E_QUEUES: Final[int]
    SHMQ_E_EXISTS: Final[int]
    SHMQ_E_NOTFOUND: Final[int]
    SHMQ_E_ARG: Final[int]
    SHMQ_E_SYS: Final[int]
    SHMQ_E_TOOBIG: Final[int]
    SHMQ_E_HELD: Final[int]
    SHMQ_E_DETACHED: Final[int]
    SHMQ_E_PIDNS: Final[int]
    SHMQ_VOID: Final[int]
    SHMQ_FREE: Final[int]
    SHMQ_NEW: Final[int]
    SHMQ_READY: Final[int]
    SHMQ_OWNED: Final[int]
    SHMQ_MOVE: Final[int]
    SHMQ_DELAYED: Final[int]
    SHMQ_LIMBO: Final[int]
    SHMQ_ATTACHED: Final[int]
    SHMQ_BAD: Final[int]
    SHMQ_FAN: Final[int]
    SHMQ_OWNER_FREE: Final[int]
    SHMQ_OWNER_ALIVE: Final[int]
    SHMQ_OWNER_DEAD: Final[int]
    SHMQ_Q_FREE: Final[int]
    SHMQ_Q_LIVE: Final[int]
    SHMQ_Q_CLOSED: Final[int]
    SHMQ_Q_DELETING: Final[int]
    SHMQ_Q_RETIRING: Final[int]
    SHMQ_CLIENT: Final[int]
    SHMQ_SUPERVISOR: Final[int]
    SHMQ_SIDECAR: Final[int]
    SHMQ_OBSERVER: Final[int]
    SHMQ_BLOCK: Final[int]
    SHMQ_REJECT: Final[int]
    SHMQ_DROP_OLDEST: Final[int]
    SHMQ_DISCONNECT: Final[int]
    SHMQ_FIFO: Final[int]
    SHMQ_BY_KEY: Final[int]
    SHMQ_STRICT: Final[int]
    SHMQ_KIND_QUEUE: Final[int]
    SHMQ_KIND_TOPIC: Final[int]
    SHMQ_KIND_SUBSCRIPTION: Final[int]
    SHMQ_KIND_PATTERN: Final[int]
    SHMQ_KIND_MEMBER: Final[int]
    SHMQ_R_NONE: Final[int]
    SHMQ_R_RETRIES: Final[int]
    SHMQ_R_REJECTED: Final[int]
    SHMQ_R_EXPIRED: Final[int]
    SHMQ_R_OVERFLOW: Final[int]
    SHMQ_EXPIRED_DIES: Final[int]
    SHMQ_EXPIRED_DROPS: Final[int]
    SHMQ_DURABILITY_NONE: Final[int]
    SHMQ_DURABILITY_SNAPSHOT: Final[int]
    SHMQ_DURABILITY_INTERVAL: Final[int]
    SHMQ_DURABILITY_SYNC: Final[int]
    SHMQ_ANONYMOUS: Final[int]
    SHMQ_CLOSING: Final[int]
    SHMQ_USER_WORD: Final[int]
    SHMQ_CONSUMER_CLOSED: Final[int]
    SHMQ_CONSUMER_LIMIT: Final[int]
    SHMQ_ACK_MANUAL: Final[int]
    SHMQ_ACK_AUTO: Final[int]
    SHMQ_ACK_NONE: Final[int]
    SHMQ_ACK: Final[int]
    SHMQ_NACK: Final[int]
    SHMQ_REJECTED: Final[int]
    SHMQ_RELEASE: Final[int]
    SHMQ_ITEM_COMPACT: Final[int]
    SHMQ_ITEM_PICKLE: Final[int]
    SHMQ_ITEM_BUFFERS: Final[int]
    SHMQ_TRAVELLED: Final[int]
    SHMQ_TERMINATED: Final[int]
    SHMQ_POSIX: Final[int]
    SHMQ_SYSV: Final[int]

    @staticmethod
    def shmq_ctx_new() -> CData:
        """shmq_ctx *shmq_ctx_new(void);"""

    @staticmethod
    def shmq_ctx_delete(ctx: CData, /) -> None:
        """void shmq_ctx_delete(shmq_ctx *ctx);"""

    @staticmethod
    def shmq_ctx_detail(ctx: CData, out: CData, /) -> None:
        """void shmq_ctx_detail(shmq_ctx *ctx, shmq_detail *out);"""

    @staticmethod
    def shmq_what(what: int, /) -> CData:
        """const char *shmq_what(uint32_t what);"""

    @staticmethod
    def shmq_fingerprint() -> int:
        """uint64_t shmq_fingerprint(void);"""

    @staticmethod
    def shmq_plan(config: CData, out: CData, /) -> int:
        """uint64_t shmq_plan(const shmq_config *config, shmq_geometry *out);"""

    @staticmethod
    def shmq_map_fd(ctx: CData, fd: int, size: int, /) -> int:
        """int shmq_map_fd(shmq_ctx *ctx, int fd, uint64_t size);"""

    @staticmethod
    def shmq_map_address(ctx: CData, base: CData, size: int, inode: int, /) -> int:
        """int shmq_map_address(shmq_ctx *ctx, void *base, uint64_t size, uint64_t inode);"""

    @staticmethod
    def shmq_sysv_look(id: int, out: CData, /) -> int:
        """int shmq_sysv_look(int id, shmq_sysv_info *out);"""

    @staticmethod
    def shmq_sysv_claim(id: int, base: CData, size: int, /) -> int:
        """int shmq_sysv_claim(int id, void *base, uint64_t size);"""

    @staticmethod
    def shmq_sysv_drop(base: CData, /) -> None:
        """void shmq_sysv_drop(void *base);"""

    @staticmethod
    def shmq_format(ctx: CData, config: CData, /) -> int:
        """int shmq_format(shmq_ctx *ctx, const shmq_config *config);"""

    @staticmethod
    def shmq_verify(ctx: CData, /) -> int:
        """int shmq_verify(shmq_ctx *ctx);"""

    @staticmethod
    def shmq_check_header(
        bytes: CData | bytes, n: int, file_size: int, out: CData, total: CData, /
    ) -> int:
        """int shmq_check_header(const void *bytes, uint64_t n, uint64_t file_size, shmq_detail *out, uint64_t *total);"""

    @staticmethod
    def shmq_unmap(ctx: CData, /) -> int:
        """int shmq_unmap(shmq_ctx *ctx);"""

    @staticmethod
    def shmq_segment_snapshot(ctx: CData, out: CData, /) -> int:
        """int shmq_segment_snapshot(shmq_ctx *ctx, shmq_segment_info *out);"""

    @staticmethod
    def shmq_geometry_of(ctx: CData, out: CData, /) -> int:
        """int shmq_geometry_of(shmq_ctx *ctx, shmq_geometry *out);"""

    @staticmethod
    def shmq_now() -> int:
        """uint64_t shmq_now(void);"""

    @staticmethod
    def shmq_set_flag(ctx: CData, which: int, value: int, /) -> int:
        """int shmq_set_flag(shmq_ctx *ctx, uint32_t which, uint64_t value);"""

    @staticmethod
    def shmq_attach(ctx: CData, role: int, /) -> int:
        """int shmq_attach(shmq_ctx *ctx, uint32_t role);"""

    @staticmethod
    def shmq_detach(ctx: CData, /) -> int:
        """int shmq_detach(shmq_ctx *ctx);"""

    @staticmethod
    def shmq_attached(ctx: CData, /) -> int:
        """int shmq_attached(shmq_ctx *ctx);"""

    @staticmethod
    def shmq_self(ctx: CData, /) -> int:
        """int shmq_self(shmq_ctx *ctx);"""

    @staticmethod
    def shmq_owner_snapshot(ctx: CData, owner: int, out: CData, /) -> int:
        """int shmq_owner_snapshot(shmq_ctx *ctx, uint32_t owner, shmq_owner_info *out);"""

    @staticmethod
    def shmq_owner_prove(ctx: CData, owner: int, look_for_exec: int, /) -> int:
        """int shmq_owner_prove(shmq_ctx *ctx, uint32_t owner, int look_for_exec);"""

    @staticmethod
    def shmq_owner_declare(ctx: CData, owner: int, word: int, /) -> int:
        """int shmq_owner_declare(shmq_ctx *ctx, uint32_t owner, uint64_t word);"""

    @staticmethod
    def shmq_recover(ctx: CData, owner: int, /) -> int:
        """int shmq_recover(shmq_ctx *ctx, uint32_t owner);"""

    @staticmethod
    def shmq_reap(ctx: CData, look_for_exec: int, /) -> int:
        """int shmq_reap(shmq_ctx *ctx, int look_for_exec);"""

    @staticmethod
    def shmq_follow_parent(signal: int, /) -> int:
        """int shmq_follow_parent(int signal);"""

    @staticmethod
    def shmq_queue_create(ctx: CData, name: CData | bytes, options: CData, /) -> int:
        """int64_t shmq_queue_create(shmq_ctx *ctx, const char *name, const shmq_queue_options *options);"""

    @staticmethod
    def shmq_queue_open(ctx: CData, name: CData | bytes, /) -> int:
        """int64_t shmq_queue_open(shmq_ctx *ctx, const char *name);"""

    @staticmethod
    def shmq_queue_adopt(ctx: CData, index: int, /) -> int:
        """int64_t shmq_queue_adopt(shmq_ctx *ctx, uint32_t index);"""

    @staticmethod
    def shmq_queue_close(ctx: CData, queue: int, /) -> int:
        """int shmq_queue_close(shmq_ctx *ctx, uint64_t queue);"""

    @staticmethod
    def shmq_queue_delete(ctx: CData, queue: int, /) -> int:
        """int shmq_queue_delete(shmq_ctx *ctx, uint64_t queue);"""

    @staticmethod
    def shmq_queue_collect(ctx: CData, /) -> int:
        """int shmq_queue_collect(shmq_ctx *ctx);"""

    @staticmethod
    def shmq_queue_snapshot(ctx: CData, index: int, out: CData, /) -> int:
        """int shmq_queue_snapshot(shmq_ctx *ctx, uint32_t index, shmq_queue_info *out);"""

    @staticmethod
    def shmq_queue_census(ctx: CData, queue: int, out: CData, /) -> int:
        """int shmq_queue_census(shmq_ctx *ctx, uint64_t queue, shmq_census *out);"""

    @staticmethod
    def shmq_census_all(ctx: CData, out: CData, n: int, /) -> int:
        """int shmq_census_all(shmq_ctx *ctx, shmq_census *out, uint32_t n);"""

    @staticmethod
    def shmq_depth(ctx: CData, queue: int, /) -> int:
        """int64_t shmq_depth(shmq_ctx *ctx, uint64_t queue);"""

    @staticmethod
    def shmq_purge(ctx: CData, queue: int, /) -> int:
        """int64_t shmq_purge(shmq_ctx *ctx, uint64_t queue);"""

    @staticmethod
    def shmq_queue_discard(ctx: CData, queue: int, /) -> int:
        """int shmq_queue_discard(shmq_ctx *ctx, uint64_t queue);"""

    @staticmethod
    def shmq_queue_mark(ctx: CData, queue: int, marks: int, /) -> int:
        """int shmq_queue_mark(shmq_ctx *ctx, uint64_t queue, uint32_t marks);"""

    @staticmethod
    def shmq_ref(ctx: CData, queue: int, on: int, /) -> int:
        """int shmq_ref(shmq_ctx *ctx, uint64_t queue, int on);"""

    @staticmethod
    def shmq_refs(ctx: CData, queue: int, /) -> int:
        """int shmq_refs(shmq_ctx *ctx, uint64_t queue);"""

    @staticmethod
    def shmq_refs_none(ctx: CData, index: int, /) -> int:
        """int64_t shmq_refs_none(shmq_ctx *ctx, uint32_t index);"""

    @staticmethod
    def shmq_refs_settled(ctx: CData, /) -> int:
        """int shmq_refs_settled(shmq_ctx *ctx);"""

    @staticmethod
    def shmq_refs_collect(ctx: CData, queues: CData, n: int, /) -> int:
        """int shmq_refs_collect(shmq_ctx *ctx, const uint64_t *queues, uint32_t n);"""

    @staticmethod
    def shmq_publish_soon(ctx: CData, queue: int, message: CData, /) -> None:
        """void shmq_publish_soon(shmq_ctx *ctx, uint64_t queue, shmq_message *message);"""

    @staticmethod
    def shmq_publish(ctx: CData, queue: int, message: CData, /) -> int:
        """int shmq_publish(shmq_ctx *ctx, uint64_t queue, shmq_message *message);"""

    @staticmethod
    def shmq_publish_many(ctx: CData, queue: int, messages: CData, n: int, /) -> int:
        """int shmq_publish_many(shmq_ctx *ctx, uint64_t queue, shmq_message *messages, uint32_t n);"""

    @staticmethod
    def shmq_loan(ctx: CData, queue: int, size: int, meta_size: int, out: CData, /) -> int:
        """int shmq_loan(shmq_ctx *ctx, uint64_t queue, uint64_t size, uint32_t meta_size, shmq_delivery *out);"""

    @staticmethod
    def shmq_loan_publish(ctx: CData, queue: int, loan: CData, message: CData, /) -> int:
        """int shmq_loan_publish(shmq_ctx *ctx, uint64_t queue, shmq_delivery *loan, shmq_message *message);"""

    @staticmethod
    def shmq_loan_abort(ctx: CData, loan: CData, /) -> int:
        """int shmq_loan_abort(shmq_ctx *ctx, shmq_delivery *loan);"""

    @staticmethod
    def shmq_take(ctx: CData, queue: int, max: int, flags: int, out: CData, /) -> int:
        """int shmq_take(shmq_ctx *ctx, uint64_t queue, uint32_t max, uint32_t flags, shmq_delivery *out);"""

    @staticmethod
    def shmq_start(ctx: CData, delivery: CData, /) -> int:
        """int shmq_start(shmq_ctx *ctx, shmq_delivery *delivery);"""

    @staticmethod
    def shmq_ack(ctx: CData, deliveries: CData, n: int, /) -> int:
        """int shmq_ack(shmq_ctx *ctx, shmq_delivery *deliveries, uint32_t n);"""

    @staticmethod
    def shmq_nack(
        ctx: CData, delivery: CData, delay_ns: int, extra: CData | bytes, extra_size: int, /
    ) -> int:
        """int shmq_nack(shmq_ctx *ctx, shmq_delivery *delivery, uint64_t delay_ns, const void *extra, uint32_t extra_size);"""

    @staticmethod
    def shmq_reject(ctx: CData, delivery: CData, extra: CData | bytes, extra_size: int, /) -> int:
        """int shmq_reject(shmq_ctx *ctx, shmq_delivery *delivery, const void *extra, uint32_t extra_size);"""

    @staticmethod
    def shmq_release(ctx: CData, delivery: CData, /) -> int:
        """int shmq_release(shmq_ctx *ctx, shmq_delivery *delivery);"""

    @staticmethod
    def shmq_forward(ctx: CData, delivery: CData, target: int, message: CData, /) -> int:
        """int shmq_forward(shmq_ctx *ctx, shmq_delivery *delivery, uint64_t target, shmq_message *message);"""

    @staticmethod
    def shmq_touch(ctx: CData, delivery: CData, extend_ns: int, /) -> int:
        """int shmq_touch(shmq_ctx *ctx, shmq_delivery *delivery, uint64_t extend_ns);"""

    @staticmethod
    def shmq_settle_viewed(ctx: CData, delivery: CData, /) -> int:
        """int shmq_settle_viewed(shmq_ctx *ctx, shmq_delivery *delivery);"""

    @staticmethod
    def shmq_view_keep(ctx: CData, delivery: CData, /) -> int:
        """int shmq_view_keep(shmq_ctx *ctx, shmq_delivery *delivery);"""

    @staticmethod
    def shmq_view_end(ctx: CData, held: int, idx: int, /) -> int:
        """int shmq_view_end(shmq_ctx *ctx, uint32_t held, uint32_t idx);"""

    @staticmethod
    def shmq_peek(ctx: CData, queue: int, cursor: CData, out: CData, /) -> int:
        """int shmq_peek(shmq_ctx *ctx, uint64_t queue, uint64_t *cursor, shmq_delivery *out);"""

    @staticmethod
    def shmq_wait_items(ctx: CData, queue: int, deadline_ns: int, spin_ns: int, /) -> int:
        """int shmq_wait_items(shmq_ctx *ctx, uint64_t queue, uint64_t deadline_ns, uint64_t spin_ns);"""

    @staticmethod
    def shmq_glance(ctx: CData, queue: int, deadline_ns: int, /) -> int:
        """int shmq_glance(shmq_ctx *ctx, uint64_t queue, uint64_t deadline_ns);"""

    @staticmethod
    def shmq_wait_space(ctx: CData, queue: int, deadline_ns: int, spin_ns: int, /) -> int:
        """int shmq_wait_space(shmq_ctx *ctx, uint64_t queue, uint64_t deadline_ns, uint64_t spin_ns);"""

    @staticmethod
    def shmq_wait_settled(ctx: CData, queue: int, deadline_ns: int, /) -> int:
        """int shmq_wait_settled(shmq_ctx *ctx, uint64_t queue, uint64_t deadline_ns);"""

    @staticmethod
    def shmq_wait_word(ctx: CData, which: int, seen: int, deadline_ns: int, /) -> int:
        """int shmq_wait_word(shmq_ctx *ctx, uint32_t which, uint32_t seen, uint64_t deadline_ns);"""

    @staticmethod
    def shmq_read_word(ctx: CData, which: int, /) -> int:
        """uint32_t shmq_read_word(shmq_ctx *ctx, uint32_t which);"""

    @staticmethod
    def shmq_wake_queue(ctx: CData, queue: int, /) -> int:
        """int shmq_wake_queue(shmq_ctx *ctx, uint64_t queue);"""

    @staticmethod
    def shmq_pass(ctx: CData, queue: int, what: int, /) -> int:
        """int shmq_pass(shmq_ctx *ctx, uint64_t queue, uint32_t what);"""

    @staticmethod
    def shmq_waits_many() -> int:
        """int shmq_waits_many(void);"""

    @staticmethod
    def shmq_wait_many(set: CData, seen: int, deadline_ns: int, /) -> int:
        """int shmq_wait_many(shmq_wait_set *set, uint32_t seen, uint64_t deadline_ns);"""

    @staticmethod
    def shmq_wait_seen(set: CData, /) -> int:
        """uint32_t shmq_wait_seen(shmq_wait_set *set);"""

    @staticmethod
    def shmq_wait_nudge(set: CData, /) -> None:
        """void shmq_wait_nudge(shmq_wait_set *set);"""

    @staticmethod
    def shmq_timers_collect(ctx: CData, idx: CData, due: CData, max: int, scan: CData, /) -> int:
        """int shmq_timers_collect(shmq_ctx *ctx, uint32_t *idx, uint64_t *due, uint32_t max, uint32_t *scan);"""

    @staticmethod
    def shmq_timers_scan(ctx: CData, from_: CData, idx: CData, due: CData, max: int, /) -> int:
        """int shmq_timers_scan(shmq_ctx *ctx, uint32_t *from, uint32_t *idx, uint64_t *due, uint32_t max);"""

    @staticmethod
    def shmq_timer_fire(ctx: CData, idx: int, now: int, due: CData, /) -> int:
        """int shmq_timer_fire(shmq_ctx *ctx, uint32_t idx, uint64_t now, uint64_t *due);"""

    @staticmethod
    def shmq_leases_expire(ctx: CData, now: int, next: CData, /) -> int:
        """int shmq_leases_expire(shmq_ctx *ctx, uint64_t now, uint64_t *next);"""

    @staticmethod
    def shmq_leases_late(ctx: CData, /) -> int:
        """int shmq_leases_late(shmq_ctx *ctx);"""

    @staticmethod
    def shmq_expire_scan(
        ctx: CData,
        from_: CData,
        now: int,
        soon: int,
        idx: CData,
        due: CData,
        n: int,
        first: CData,
        /,
    ) -> int:
        """int shmq_expire_scan(shmq_ctx *ctx, uint32_t *from, uint64_t now, uint64_t soon, uint32_t *idx, uint64_t *due, uint32_t n, uint64_t *first);"""

    @staticmethod
    def shmq_expire(ctx: CData, idx: CData, n: int, now: int, /) -> int:
        """int shmq_expire(shmq_ctx *ctx, const uint32_t *idx, uint32_t n, uint64_t now);"""

    @staticmethod
    def shmq_next_expiry(ctx: CData, /) -> int:
        """uint64_t shmq_next_expiry(shmq_ctx *ctx);"""

    @staticmethod
    def shmq_trim(ctx: CData, keep_bytes: int, /) -> int:
        """int64_t shmq_trim(shmq_ctx *ctx, uint64_t keep_bytes);"""

    @staticmethod
    def shmq_bytes_resync(ctx: CData, queue: int, /) -> int:
        """int shmq_bytes_resync(shmq_ctx *ctx, uint64_t queue);"""

    @staticmethod
    def shmq_parked_sweep(ctx: CData, /) -> int:
        """int shmq_parked_sweep(shmq_ctx *ctx);"""

    @staticmethod
    def shmq_topic_subscribe(
        ctx: CData,
        name: CData | bytes,
        options: CData,
        filter: CData | bytes,
        filter_size: int,
        ephemeral: int,
        /,
    ) -> int:
        """int64_t shmq_topic_subscribe(shmq_ctx *ctx, const char *name, const shmq_queue_options *options, const void *filter, uint32_t filter_size, uint32_t ephemeral);"""

    @staticmethod
    def shmq_topic_publish(ctx: CData, topic: int, message: CData, /) -> int:
        """int shmq_topic_publish(shmq_ctx *ctx, uint64_t topic, shmq_message *message);"""

    @staticmethod
    def shmq_topic_publish_many(ctx: CData, topic: int, messages: CData, n: int, /) -> int:
        """int shmq_topic_publish_many(shmq_ctx *ctx, uint64_t topic, shmq_message *messages, uint32_t n);"""

    @staticmethod
    def shmq_topic_blocker(ctx: CData, topic: int, /) -> int:
        """int64_t shmq_topic_blocker(shmq_ctx *ctx, uint64_t topic);"""

    @staticmethod
    def shmq_topic_subscribers(ctx: CData, topic: int, out: CData, max: int, /) -> int:
        """int shmq_topic_subscribers(shmq_ctx *ctx, uint64_t topic, uint64_t *out, uint32_t max);"""

    @staticmethod
    def shmq_topic_sweep(ctx: CData, /) -> int:
        """int shmq_topic_sweep(shmq_ctx *ctx);"""

    @staticmethod
    def shmq_topic_matches(
        pattern: CData | bytes, pattern_size: int, topic: CData | bytes, topic_size: int, /
    ) -> int:
        """int shmq_topic_matches(const char *pattern, uint32_t pattern_size, const char *topic, uint32_t topic_size);"""

    @staticmethod
    def shmq_member_turn(ctx: CData, member: int, taken: int, /) -> int:
        """int64_t shmq_member_turn(shmq_ctx *ctx, uint64_t member, uint64_t taken);"""

    @staticmethod
    def shmq_audit(ctx: CData, out: CData, /) -> int:
        """int shmq_audit(shmq_ctx *ctx, shmq_audit_report *out);"""

    @staticmethod
    def shmq_block_snapshot(ctx: CData, idx: int, ctl: CData, pos: CData, fate: CData, /) -> int:
        """int shmq_block_snapshot(shmq_ctx *ctx, uint32_t idx, uint64_t *ctl, uint64_t *pos, uint64_t *fate);"""

lib: Lib
