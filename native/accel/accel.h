/* accel.h: what the files of the accelerator share: its objects, leases, and the names that it calls in Python.
 *
 * shmq/_sender.py, queue.py, consumer.py, delivery.py and mp/items.py build on these base types. shmq/_native/pure has the
 * same over cffi; both must behave alike, tests/unit run over both. Everything rare goes to a Python method of the subclass:
 *
 *   SenderBase    publish(bytes, **fields) and publish_many(list of bytes) that just work; the rest: _publish_slow, _publish_many_slow    queue.c
 *   QueueBase     and loan; the rest: _loan_slow, _loan_wait
 *   ConsumerBase  get, get_many, __next__ with their waiting; outcomes other than a delivery: _recover(rc, deadline_ns)              consumer.c
 *   DeliveryBase  payload, headers and ack() that just work; the rest: _headers_slow(), _ack_failed(rc)                              delivery.c
 *   ItemsBase     put and get of objects, for shmq.mp                                                                                items.c
 *
 * THE GIL is kept on the fast path and protects every member of these objects; without it, a lock per consumer (LOCKED).
 * It is released only for spinning and sleeping, and for copying BIG payloads. The core's own lock is never held across
 * any of that.
 *
 * LEASES. Each unsettled delivery is a node in its consumer's list, linked before any Python code can run: an exception
 * raised between the take and the user's assignment (Ctrl-C) cannot lose it, close() gives it back. The list does not
 * own: a node lies inside its Delivery; when that one dies unsettled the node is moved to the heap (ORPHAN). Deliveries
 * own their consumer, consumers own no delivery: no cycles, so deliveries need no garbage collection.
 *
 * Objects keep `client` alive: it owns the memory of `ctx`. In a forked child the old ctx reads as zero and every call
 * says SHMQ_E_FORKED; _bind() gives queues and consumers the new one, deliveries keep the old one for good.
 */
#ifndef SHMQ_ACCEL_H
#define SHMQ_ACCEL_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <math.h>
#include <stdbool.h>

#include "shmq.h"

#define META_SMALL 64     /* headers, ids and keys up to this size become an object only when they are looked at */
#define BIG (256 * 1024)  /* copies from this size on are made without the GIL */
#define POOL 256
#define HOT __attribute__((hot))   /* as in atomic.h */

enum lease_state { SETTLED = 0, LIVE = 1, VIEWED = 2, PENDING = 3 };  /* VIEWED: settled, views still read the block */

typedef struct lease {
    shmq_delivery d;
    struct lease *prev, *next;   /* in the consumer's list while LIVE */
    unsigned long thread;        /* who got it; only ack="auto" asks */
    uint32_t views;
    uint8_t state;
    uint8_t looped;              /* handed out by __next__ */
    uint8_t orphan;              /* a node of its own on the heap */
} lease;

typedef struct {
    PyObject_HEAD
    shmq_ctx *ctx;
    uint64_t qref;
    PyObject *client;
    int waits;                   /* a full queue is waited for; otherwise Python decides */
    int fans;                    /* it is a topic */
    unsigned levels;             /* priorities that it takes */
} QueueObject;

typedef struct {
    PyObject_HEAD
    shmq_ctx *ctx;
    uint64_t qref;
    PyObject *client;
    PyTypeObject *type;          /* of the deliveries */
    lease leases;                /* sentinel of the list */
    uint64_t unsettled, max_unsettled, spin_ns;
    PyObject *empty;             /* (QueueEmpty, its text): a poll that finds nothing costs no call into Python */
    shmq_delivery *ahead;        /* read-ahead: taken, not started: [at, at + n) */
    uint32_t prefetch, at, n;
    int mode;
    bool closed, pooled;
} ConsumerObject;

typedef struct {
    PyObject_HEAD
    lease l;
    shmq_ctx *ctx;
    ConsumerObject *consumer;
    PyObject *payload, *meta, *extra;   /* NULL = not copied / none */
    uint8_t small_size, small[META_SMALL];   /* meta that is no object yet; size 0 = there is none */
} DeliveryObject;

typedef struct {
    PyObject_HEAD
    shmq_ctx *ctx;               /* NULL: not bound yet */
    uint64_t qref;
    PyObject *client, *bell;     /* bell: what to tell after each take, or NULL */
    char closed, used, plain;    /* plain: takes are for good; otherwise get is Python's */
} ItemsObject;

/* What a message is made of, as both _send and _forward get it: payload, meta or None, ttl, delay, priority, key, dedup. */
typedef struct {
    shmq_message m;
    Py_buffer payload, meta;
} message_parts;

#include "docs.h"   /* made from shmq/_native/pure by native/accel_docs.py */

extern PyTypeObject SenderType, QueueType, ConsumerType, DeliveryType, ItemsType;

/* ---- names that are looked up in Python: one struct, filled when the module is made ------------------------------------ */

/* clang-format off */
#define ACCEL_NAMES(X) \
    X(publish_slow, "_publish_slow") X(publish_many_slow, "_publish_many_slow") X(loan_slow, "_loan_slow") X(recover, "_recover") \
    X(deadline, "_deadline") X(headers_slow, "_headers_slow") X(ack_failed, "_ack_failed") X(ack_many_failed, "_ack_many_failed") \
    X(put_slow, "_put_slow") X(get_slow, "_get_slow") X(load, "_load") X(full, "_full") X(none, "_none") X(ring, "ring")
/* clang-format on */
#define ACCEL_NAME(name, text) PyObject *name;
struct accel_names {
    ACCEL_NAMES(ACCEL_NAME)
};
#undef ACCEL_NAME
extern struct accel_names str;

/* ---- locks: what the GIL guards, for a Python without it ---------------------------------------------------------------- */

/* A consumer's lock guards its leases, what it has read ahead, and its deliveries: their state, their views, what is copied late. It is
 * held where the GIL is held and given up where that is, so with the GIL it is nothing. Queues and items have none: they are bound
 * anew after a fork, by the one thread that is there. What all objects share is not kept without the GIL. */
#ifndef Py_BEGIN_CRITICAL_SECTION   /* before Python 3.13 */
#define Py_BEGIN_CRITICAL_SECTION(object) {
#define Py_END_CRITICAL_SECTION() }
#endif
#define LOCKED(consumer, statement) \
    do { \
        Py_BEGIN_CRITICAL_SECTION(consumer); \
        statement; \
        Py_END_CRITICAL_SECTION(); \
    } while (0)
/* A function of this name, which is name_inside under the lock of `consumer`. */
#define UNDER_LOCK(consumer, name, parameters, arguments) \
    static PyObject *name parameters { \
        PyObject *result; \
        LOCKED(consumer, result = name##_inside arguments); \
        return result; \
    }
#ifdef Py_GIL_DISABLED
#define SHARED_CACHES false
#else
#define SHARED_CACHES true
#endif

/* ---- leases ---------------------------------------------------------------------------------------------------------- */

static inline void lease_link(ConsumerObject *c, lease *l) {
    l->state = LIVE;
    l->prev = c->leases.prev;
    l->next = &c->leases;
    l->prev->next = l;
    c->leases.prev = l;
    c->unsettled++;
}

static inline void lease_unlink(ConsumerObject *c, lease *l) {
    l->prev->next = l->next;
    l->next->prev = l->prev;
    l->prev = l->next = NULL;
    c->unsettled--;
    if (l->orphan) PyMem_RawFree(l);
}

int lease_settle(ConsumerObject *c, shmq_ctx *ctx, lease *l, int kind, uint64_t delay_ns, const void *extra, uint32_t size);
int lease_forward(ConsumerObject *c, shmq_ctx *ctx, lease *l, uint64_t target, shmq_message *m);

/* ---- delivery.c --------------------------------------------------------------------------------------------------------- */

extern PyTypeObject PayloadType;
extern DeliveryObject *delivery_pool[POOL];   /* freed instances, most recent last */
extern unsigned delivery_pooled;

static inline DeliveryObject *delivery_new(ConsumerObject *c) {
    DeliveryObject *o;
    if (c->pooled && delivery_pooled) {
        o = delivery_pool[--delivery_pooled];
        (void)PyObject_Init((PyObject *)o, c->type);
    } else {
        o = (DeliveryObject *)c->type->tp_alloc(c->type, 0);
        if (!o) return NULL;
        if (PyType_IS_GC(c->type)) PyObject_GC_UnTrack(o);   /* every class made in Python has a GC head; no cycles here */
    }
    o->payload = o->meta = o->extra = NULL;
    o->l.views = 0;
    o->l.state = SETTLED;
    o->l.looped = o->l.orphan = o->small_size = 0;
    o->ctx = c->ctx;
    Py_INCREF(c);
    o->consumer = c;
    return o;
}

/* Copy what must not wait: headers, and the payload if it is small or `all`. */
static inline int delivery_copy(DeliveryObject *o, bool all) {
    const shmq_delivery *d = &o->l.d;
    if (d->size <= SHMQ_EAGER || all) {
        o->payload = PyBytes_FromStringAndSize((const char *)d->data, (Py_ssize_t)d->size);
        if (!o->payload) return -1;
    }
    if (d->meta_size <= META_SMALL) {
        o->small_size = (uint8_t)d->meta_size;
        if (d->meta_size) memcpy(o->small, d->meta, d->meta_size);
    } else {
        o->meta = PyBytes_FromStringAndSize((const char *)d->meta, (Py_ssize_t)d->meta_size);
        if (!o->meta) return -1;
    }
    if (d->extra_size) {
        o->extra = PyBytes_FromStringAndSize((const char *)d->extra, (Py_ssize_t)d->extra_size);
        if (!o->extra) return -1;
    }
    return 0;
}

bool delivery_type_pooled(PyTypeObject *type);
bool client_open(PyObject *client);
int parts_get(message_parts *p, PyObject *const *args);
void parts_release(message_parts *p);

/* ---- headers.c, fields.c: what is beside the payload ---------------------------------------------------------------------- */

#define FIELDS_MOST 2048   /* bytes, encoded */

PyObject *delivery_headers_inside(DeliveryObject *self, void *unused);   /* under the consumer's lock */
PyObject *decode_fields(PyObject *module, PyObject *blob);
bool fields_init(void);
bool fields_get(const QueueObject *self, shmq_message *m, uint8_t *buffer, PyObject *const *values, PyObject *kwnames);

/* ---- queue.c, loan.c ------------------------------------------------------------------------------------------------------ */

extern PyTypeObject LoanType;

PyObject *call_slow(PyObject *self, PyObject *name, PyObject *const *args, Py_ssize_t n, PyObject *kwnames);
bool wait_for_room(QueueObject *self);
int wait_for_items(shmq_ctx *ctx, uint64_t qref, uint64_t deadline, uint64_t spin_ns, bool *last);   /* consumer.c */
PyObject *queue_loan(QueueObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames);

/* ---- compact.c ------------------------------------------------------------------------------------------------------------ */

#define COMPACT_MOST 4096   /* bytes; larger objects gain nothing */

typedef struct {
    uint8_t *at, *end;
} compact_out;
typedef struct {
    const uint8_t *at, *end;
} compact_in;

bool compact_put(compact_out *o, PyObject *x, int depth, bool shared);
PyObject *compact_get(compact_in *in, int depth);
#endif
