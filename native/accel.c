/* accel.c: the thin CPython binding of the hottest calls: publish, get, payload, ack.
 *
 * Three base types that shmq/queue.py, consumer.py and delivery.py build on. shmq/_native/pure.py has the same three over
 * cffi; both must behave alike, tests/unit run over both. Everything rare goes to a Python method of the subclass:
 *
 *   QueueBase     publish(bytes, **fields) and publish_many(list of bytes) that just work; the rest: _publish_slow, _publish_many_slow
 *   ConsumerBase  get, get_many, __next__ with their waiting; outcomes other than a delivery: _recover(rc, deadline_ns)
 *   DeliveryBase  payload, headers and ack() that just work; the rest: _headers_slow(), _ack_failed(rc)
 *
 * THE GIL is kept on the fast path and protects every member of these objects. It is released only for spinning and
 * sleeping, and for copying BIG payloads. The core's own lock is never held across any of that.
 *
 * LEASES. Each unsettled delivery is a node in its consumer's list, linked before any Python code can run: an exception
 * raised between the take and the user's assignment (Ctrl-C) cannot lose it, close() gives it back. The list does not
 * own: a node lies inside its Delivery; when that one dies unsettled the node is moved to the heap (ORPHAN). Deliveries
 * own their consumer, consumers own no delivery: no cycles, so deliveries need no garbage collection.
 *
 * Objects keep `client` alive: it owns the memory of `ctx`. In a forked child the old ctx reads as zero and every call
 * says SHMQ_E_FORKED; _bind() gives queues and consumers the new one, deliveries keep the old one for good.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <math.h>
#include <stdbool.h>

#include "shmq.h"

#define META_SMALL 64     /* headers, ids and keys up to this size become an object only when they are looked at */
#define BIG (256 * 1024)  /* copies from this size on are made without the GIL */
#define POOL 256

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

static PyTypeObject QueueType, ConsumerType, DeliveryType;
static PyObject *str_publish_slow, *str_publish_many_slow, *str_loan_slow, *str_recover, *str_deadline, *str_ack_failed, *str_ack_many_failed, *str_headers_slow;
static DeliveryObject *pool[POOL];
static unsigned pooled;

/* ---- leases ---------------------------------------------------------------------------------------------------------- */

static void lease_link(ConsumerObject *c, lease *l) {
    l->state = LIVE;
    l->prev = c->leases.prev;
    l->next = &c->leases;
    l->prev->next = l;
    c->leases.prev = l;
    c->unsettled++;
}

static void lease_unlink(ConsumerObject *c, lease *l) {
    l->prev->next = l->next;
    l->next->prev = l->prev;
    l->prev = l->next = NULL;
    c->unsettled--;
    if (l->orphan) PyMem_RawFree(l);
}

/* Settle a LIVE lease that is not in the hands of another call. Returns the core's result; unlinks unless the call failed
 * for a reason that leaves the lease as it is. */
static int lease_settle(ConsumerObject *c, shmq_ctx *ctx, lease *l, int kind, uint64_t delay_ns, const void *extra, uint32_t size) {
    int rc, keep = 0;
    if (l->views && kind != SHMQ_ACK) {
        keep = shmq_view_keep(ctx, &l->d);
        if (keep < 0 && keep != SHMQ_STALE) return keep;
    }
    switch (kind) {
    case SHMQ_ACK: rc = l->views ? shmq_settle_viewed(ctx, &l->d) : shmq_ack(ctx, &l->d, 1); break;
    case SHMQ_NACK: rc = shmq_nack(ctx, &l->d, delay_ns, extra, size); break;
    case SHMQ_REJECTED: rc = shmq_reject(ctx, &l->d, extra, size); break;
    default: rc = shmq_release(ctx, &l->d); break;
    }
    if (rc < 0 && rc != SHMQ_STALE && rc != SHMQ_GONE) {
        if (keep > 0) shmq_view_end(ctx, (uint32_t)keep, l->d.idx);
        return rc;
    }
    if (keep > 0) l->d.held = (uint32_t)keep;
    l->state = l->views ? VIEWED : SETTLED;
    lease_unlink(c, l);
    return rc;
}

/* The same for a forward. Only STALE is for good: any other reason is the target's, and the lease stays. */
static int lease_forward(ConsumerObject *c, shmq_ctx *ctx, lease *l, uint64_t target, shmq_message *m) {
    int rc, keep = 0;
    if (l->views) {
        keep = shmq_view_keep(ctx, &l->d);
        if (keep < 0 && keep != SHMQ_STALE) return keep;
    }
    rc = shmq_forward(ctx, &l->d, target, m);
    if (rc < 0 && rc != SHMQ_STALE) {
        if (keep > 0) shmq_view_end(ctx, (uint32_t)keep, l->d.idx);
        return rc;
    }
    if (keep > 0) l->d.held = (uint32_t)keep;
    l->state = l->views ? VIEWED : SETTLED;
    lease_unlink(c, l);
    return rc;
}

#include "accel_delivery.h"
#include "accel_queue.h"
#include "accel_consumer.h"
#include "accel_compact.h"
#include "accel_items.h"

/* ---- module ---------------------------------------------------------------------------------------------------------- */

static PyMethodDef functions[] = {{"decode_fields", decode_fields, METH_O, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "shmq._native._accel", .m_methods = functions, .m_doc = "The hottest calls of shmq over the CPython API.", .m_size = -1};

PyMODINIT_FUNC PyInit__accel(void);
PyMODINIT_FUNC PyInit__accel(void) {
    static const struct { PyObject **where; const char *text; } names[] = {
        {&str_publish_slow, "_publish_slow"}, {&str_publish_many_slow, "_publish_many_slow"}, {&str_loan_slow, "_loan_slow"}, {&str_recover, "_recover"},
        {&str_deadline, "_deadline"}, {&str_headers_slow, "_headers_slow"}, {&str_ack_failed, "_ack_failed"}, {&str_ack_many_failed, "_ack_many_failed"},
        {&str_put_slow, "_put_slow"}, {&str_get_slow, "_get_slow"}, {&str_load, "_load"}, {&str_full, "_full"}, {&str_none, "_none"}, {&str_ring, "ring"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!(*names[i].where = PyUnicode_InternFromString(names[i].text))) return NULL;
    for (unsigned i = 0; i < FIELDS; i++)
        if (!(field_names[i] = PyUnicode_InternFromString(FIELD_NAMES[i]))) return NULL;
    PyObject *m = PyModule_Create(&module);
    if (!m) return NULL;
    PyObject *fingerprint = PyLong_FromUnsignedLongLong(shmq_fingerprint());
    if (!fingerprint || PyModule_AddType(m, &QueueType) < 0 || PyModule_AddType(m, &ConsumerType) < 0 || PyModule_AddType(m, &DeliveryType) < 0 || PyModule_AddType(m, &ItemsType) < 0 ||
        PyModule_AddObjectRef(m, "fingerprint", fingerprint) < 0) {
        Py_XDECREF(fingerprint);
        Py_DECREF(m);
        return NULL;
    }
    Py_DECREF(fingerprint);
    return m;
}
