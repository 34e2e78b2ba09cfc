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

#define EAGER 4096        /* payloads up to this size are copied at once, larger ones on first use */
#define META_SMALL 64     /* headers, ids and keys up to this size become an object only when they are looked at */
#define BIG (256 * 1024)  /* copies from this size on are made without the GIL */
#define CHUNK 64
#define POOL 256

/* Outcomes of a consumer that the core does not know; shmq/_native/pure.py has the same numbers. */
#define CONSUMER_CLOSED (-101)
#define CONSUMER_LIMIT (-102)

enum mode { MANUAL = 0, AUTO = 1, NONE = 2 };
enum kind { ACK = 0, NACK = 1, REJECT = 2, RELEASE = 3 };
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
    if (l->views && kind != ACK) {
        keep = shmq_view_keep(ctx, &l->d);
        if (keep < 0 && keep != SHMQ_STALE) return keep;
    }
    switch (kind) {
    case ACK: rc = l->views ? shmq_settle_viewed(ctx, &l->d) : shmq_ack(ctx, &l->d, 1); break;
    case NACK: rc = shmq_nack(ctx, &l->d, delay_ns, extra, size); break;
    case REJECT: rc = shmq_reject(ctx, &l->d, extra, size); break;
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

/* ---- Delivery -------------------------------------------------------------------------------------------------------- */

static DeliveryObject *delivery_new(ConsumerObject *c) {
    DeliveryObject *o;
    if (c->pooled && pooled) {
        o = pool[--pooled];
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

/* May the memory of its instances be used again for instances of such types? Only if it is all alike: a GC head, our struct,
 * and nothing of a subclass's own before or after. */
static bool type_is_pooled(PyTypeObject *type) {
    unsigned long own = 0;
#ifdef Py_TPFLAGS_MANAGED_DICT
    own |= Py_TPFLAGS_MANAGED_DICT;
#endif
#ifdef Py_TPFLAGS_MANAGED_WEAKREF
    own |= Py_TPFLAGS_MANAGED_WEAKREF;
#endif
    return type->tp_basicsize == (Py_ssize_t)sizeof(DeliveryObject) && type->tp_dictoffset == 0 && type->tp_weaklistoffset == 0
           && PyType_IS_GC(type) && !(type->tp_flags & own);
}

static void delivery_dealloc(DeliveryObject *self) {
    ConsumerObject *c = self->consumer;
    if (self->l.state == LIVE && c) {
        lease *n = PyMem_RawMalloc(sizeof *n);
        if (n) {
            *n = self->l;
            n->orphan = 1;
            n->prev->next = n;
            n->next->prev = n;
        } else {
            (void)lease_settle(c, self->ctx, &self->l, RELEASE, 0, NULL, 0);
        }
    }
    Py_CLEAR(self->payload);
    Py_CLEAR(self->meta);
    Py_CLEAR(self->extra);
    self->consumer = NULL;
    Py_XDECREF(c);
    if (pooled < POOL && type_is_pooled(Py_TYPE(self)))
        pool[pooled++] = self;
    else
        Py_TYPE(self)->tp_free((PyObject *)self);
}

/* Copy what must not wait: headers, and the payload if it is small or `all`. */
static int delivery_copy(DeliveryObject *o, bool all) {
    const shmq_delivery *d = &o->l.d;
    if (d->size <= EAGER || all) {
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

static void view_over(DeliveryObject *self) {
    if (--self->l.views == 0 && self->l.state == VIEWED) {
        self->l.state = SETTLED;
        (void)shmq_view_end(self->ctx, self->l.d.held, self->l.d.idx);
    }
}

static PyObject *ack_failed(DeliveryObject *self, int rc) {
    PyObject *number = PyLong_FromLong(rc), *result;
    if (!number) return NULL;
    result = PyObject_CallMethodObjArgs((PyObject *)self, str_ack_failed, number, NULL);
    Py_DECREF(number);
    return result;
}

static PyObject *delivery_payload(DeliveryObject *self, void *unused) {
    (void)unused;
    if (self->payload) return Py_NewRef(self->payload);
    if (self->l.state != LIVE) return ack_failed(self, SHMQ_STALE);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)self->l.d.size);
    if (!bytes) return NULL;
    if (self->l.d.size < BIG) {
        memcpy(PyBytes_AS_STRING(bytes), self->l.d.data, self->l.d.size);
    } else {
        self->l.views++;   /* another thread may settle meanwhile */
        Py_BEGIN_ALLOW_THREADS
        memcpy(PyBytes_AS_STRING(bytes), self->l.d.data, self->l.d.size);
        Py_END_ALLOW_THREADS
        view_over(self);
    }
    if (self->payload)
        Py_DECREF(bytes);
    else
        self->payload = bytes;
    return Py_NewRef(self->payload);
}

static PyObject *delivery_ack(DeliveryObject *self, PyObject *unused) {
    (void)unused;
    lease *l = &self->l;
    int rc = SHMQ_STALE;
    if (l->state == LIVE) rc = lease_settle(self->consumer, self->ctx, l, ACK, 0, NULL, 0);
    if (rc < 0) return ack_failed(self, rc);
    Py_RETURN_NONE;
}

/* _settle(kind, delay_ns, extra: bytes or None) -> result of the core */
static PyObject *delivery_settle(DeliveryObject *self, PyObject *const *args, Py_ssize_t n) {
    if (n != 3) return PyErr_Format(PyExc_TypeError, "_settle: found %zd arguments, expected 3", n);
    long kind = PyLong_AsLong(args[0]);
    if (kind == -1 && PyErr_Occurred()) return NULL;
    uint64_t delay = PyLong_AsUnsignedLongLong(args[1]);
    if (delay == UINT64_MAX && PyErr_Occurred()) return NULL;
    const char *extra = NULL;
    Py_ssize_t size = 0;
    if (args[2] != Py_None) {
        extra = PyBytes_AsString(args[2]);
        if (!extra) return NULL;
        size = PyBytes_GET_SIZE(args[2]);
    }
    if (self->l.state != LIVE) return PyLong_FromLong(SHMQ_STALE);
    return PyLong_FromLong(lease_settle(self->consumer, self->ctx, &self->l, (int)kind, delay, extra, (uint32_t)size));
}

/* What a message is made of, as both _send and _forward get it: payload, meta or None, ttl, delay, priority, key, dedup. */
typedef struct { shmq_message m; Py_buffer payload, meta; } parts;

static void parts_release(parts *p) {
    if (p->payload.obj) PyBuffer_Release(&p->payload);
    if (p->meta.obj) PyBuffer_Release(&p->meta);
}

static int parts_get(parts *p, PyObject *const *args) {
    memset(p, 0, sizeof *p);
    shmq_message *m = &p->m;
    for (int i = 5; i < 7; i++)
        if (args[i] != Py_None && !PyBytes_CheckExact(args[i])) {
            PyErr_Format(PyExc_TypeError, "found a key that is not bytes");
            return -1;
        }
    m->ttl_ns = PyLong_AsUnsignedLongLong(args[2]);
    m->delay_ns = PyLong_AsUnsignedLongLong(args[3]);
    m->priority = (uint32_t)PyLong_AsUnsignedLong(args[4]);
    if (PyErr_Occurred()) return -1;
    if (args[0] != Py_None && PyObject_GetBuffer(args[0], &p->payload, PyBUF_SIMPLE) < 0) return -1;
    if (args[1] != Py_None && PyObject_GetBuffer(args[1], &p->meta, PyBUF_SIMPLE) < 0) {
        parts_release(p);
        return -1;
    }
    m->data = p->payload.buf;
    m->size = (uint64_t)p->payload.len;
    m->meta = p->meta.buf;
    m->meta_size = (uint32_t)p->meta.len;
    if (args[5] != Py_None) {
        m->key = PyBytes_AS_STRING(args[5]);
        m->key_size = (uint32_t)PyBytes_GET_SIZE(args[5]);
    }
    if (args[6] != Py_None) {
        m->dedup = PyBytes_AS_STRING(args[6]);
        m->dedup_size = (uint32_t)PyBytes_GET_SIZE(args[6]);
    }
    return 0;
}

/* _forward(target, payload or None, meta or None, ttl_ns, delay_ns, priority, key, dedup) -> id, or a negative result */
static PyObject *delivery_forward(DeliveryObject *self, PyObject *const *args, Py_ssize_t n) {
    parts p;
    if (n != 8) return PyErr_Format(PyExc_TypeError, "_forward: found %zd arguments, expected 8", n);
    uint64_t target = PyLong_AsUnsignedLongLong(args[0]);
    if (target == UINT64_MAX && PyErr_Occurred()) return NULL;
    if (parts_get(&p, args + 1) < 0) return NULL;
    int rc = SHMQ_STALE;
    if (self->l.state == LIVE) {
        if (args[1] == Py_None) {   /* its own bytes, from where they lie */
            p.m.data = self->l.d.data;
            p.m.size = self->l.d.size;
        }
        rc = lease_forward(self->consumer, self->ctx, &self->l, target, &p.m);
    }
    parts_release(&p);
    return rc < 0 ? PyLong_FromLong(rc) : PyLong_FromUnsignedLongLong(p.m.id);
}

static PyObject *consumer_self(PyObject *self) { return Py_NewRef(self); }
static int consumer_traverse(ConsumerObject *self, visitproc visit, void *arg) {
    Py_VISIT(self->client);
    Py_VISIT(self->type);
    Py_VISIT(self->empty);
    return 0;
}
/* Is the memory of ctx still there? A Client that is garbage together with us may have been finalized first; it detached then,
 * which gave everything back. */
static bool client_open(PyObject *client) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyObject *closed = PyObject_GetAttrString(client, "closed");
    bool open = closed == Py_False;
    Py_XDECREF(closed);
    PyErr_Restore(type, value, trace);
    return open;
}

/* What a view, its slices and the arrays over them keep alive; when it dies, nobody reads the payload any more. */
typedef struct { PyObject_HEAD DeliveryObject *of; } PayloadObject;

static PyTypeObject PayloadType;

static int payload_getbuffer(PayloadObject *self, Py_buffer *buffer, int flags) {
    shmq_delivery *d = &self->of->l.d;
    return PyBuffer_FillInfo(buffer, (PyObject *)self, (void *)(uintptr_t)d->data, (Py_ssize_t)d->size, 1, flags);
}

static void payload_dealloc(PayloadObject *self) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);   /* a finalizer has nobody to tell */
    if (client_open(self->of->consumer->client)) view_over(self->of);   /* else the entries went with the attachment */
    PyErr_Restore(type, value, trace);
    Py_DECREF(self->of);
    PyObject_Free(self);
}

static PyBufferProcs payload_buffer = {(getbufferproc)payload_getbuffer, NULL};

static PyTypeObject PayloadType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "shmq._native._accel.Payload",
    .tp_basicsize = sizeof(PayloadObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_dealloc = (destructor)payload_dealloc,
    .tp_as_buffer = &payload_buffer,
    .tp_doc = PyDoc_STR("A payload in shared memory that somebody looks at."),
};

static PyObject *delivery_view(DeliveryObject *self, PyObject *unused) {
    (void)unused;
    if (self->l.state != LIVE) return ack_failed(self, SHMQ_STALE);
    PayloadObject *payload = PyObject_New(PayloadObject, &PayloadType);
    if (!payload) return NULL;
    payload->of = (DeliveryObject *)Py_NewRef((PyObject *)self);
    self->l.views++;
    PyObject *view = PyMemoryView_FromObject((PyObject *)payload);
    Py_DECREF(payload);
    return view;
}

static PyObject *delivery_address(DeliveryObject *self, void *unused) { (void)unused; return PyLong_FromVoidPtr(&self->l.d); }
static PyObject *delivery_ctx(DeliveryObject *self, void *unused) { (void)unused; return PyLong_FromVoidPtr(self->ctx); }
static PyObject *delivery_meta(DeliveryObject *self, void *unused) {
    (void)unused;
    if (!self->meta && self->small_size) self->meta = PyBytes_FromStringAndSize((const char *)self->small, self->small_size);
    if (self->meta || self->small_size) return Py_XNewRef(self->meta);
    Py_RETURN_NONE;
}
#include "accel_headers.h"

static PyObject *delivery_settled(DeliveryObject *self, void *unused) { (void)unused; return PyBool_FromLong(self->l.state != LIVE); }
static PyObject *delivery_redelivered(DeliveryObject *self, void *unused) { (void)unused; return PyBool_FromLong((long)self->l.d.redelivered); }
static PyObject *delivery_thread(DeliveryObject *self, void *unused) { (void)unused; return PyLong_FromUnsignedLong(self->l.thread); }

static PyMethodDef delivery_methods[] = {
    {"ack", (PyCFunction)delivery_ack, METH_NOARGS, PyDoc_STR("ack($self, /)\n--\n\nSettle: the message is done and its memory free.\n\nCopies nothing, blocks on nothing.\nRaises: StaleDelivery when the lease has moved on or was settled before.")},
    {"_settle", (PyCFunction)(void (*)(void))delivery_settle, METH_FASTCALL, NULL},
    {"_forward", (PyCFunction)(void (*)(void))delivery_forward, METH_FASTCALL, NULL},
    {"_view", (PyCFunction)delivery_view, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL}};
static PyGetSetDef delivery_getset[] = {
    {"payload", (getter)delivery_payload, NULL, PyDoc_STR("The message's bytes, copied once.\n\nUp to 4 KiB they are copied at delivery, larger ones on first use, which must be before the settle."), NULL},
    {"headers", (getter)delivery_headers, NULL, PyDoc_STR("The message's headers, decoded anew at each use.\n\nA dead letter's include `x-error`, `x-death-reason` (\"retries\", \"rejected\", \"expired\" or\n\"overflow\"), `x-death-queue`, `x-death-time` (seconds since 1970) and `x-attempts`."), NULL},
    {"redelivered", (getter)delivery_redelivered, NULL, PyDoc_STR("True when it was delivered before."), NULL},
    {"_meta", (getter)delivery_meta, NULL, NULL, NULL},
    {"_address", (getter)delivery_address, NULL, NULL, NULL},
    {"_ctx", (getter)delivery_ctx, NULL, NULL, NULL},
    {"_settled", (getter)delivery_settled, NULL, NULL, NULL},
    {"_thread", (getter)delivery_thread, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL}};
#define FIELD(name, type, member) {name, type, (Py_ssize_t)(offsetof(DeliveryObject, l) + offsetof(lease, d) + offsetof(shmq_delivery, member)), READONLY, NULL}
static PyMemberDef delivery_members[] = {
    FIELD("attempt", T_UINT, attempt), FIELD("id", T_ULONGLONG, id), FIELD("priority", T_UINT, priority),
    FIELD("size", T_UINT, size), FIELD("_queue", T_UINT, queue), FIELD("_reason", T_UINT, reason), FIELD("_origin", T_UINT, origin),
    FIELD("_died_attempts", T_UINT, died_attempts), FIELD("_published_ns", T_ULONGLONG, published_ns),
    FIELD("_expires_ns", T_ULONGLONG, expires_ns), FIELD("_died_ns", T_ULONGLONG, died_ns),
    {"_extra", T_OBJECT, offsetof(DeliveryObject, extra), READONLY, NULL},
    {"_consumer", T_OBJECT, offsetof(DeliveryObject, consumer), READONLY, NULL},
    {NULL, 0, 0, 0, NULL}};

static PyTypeObject DeliveryType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "shmq._native._accel.DeliveryBase",
    .tp_basicsize = sizeof(DeliveryObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)delivery_dealloc,
    .tp_methods = delivery_methods,
    .tp_getset = delivery_getset,
    .tp_members = delivery_members,
    .tp_doc = PyDoc_STR("One message in one consumer's hands; the part of Delivery that is called for every message."),
};

/* ---- Queue ----------------------------------------------------------------------------------------------------------- */

static int queue_init(QueueObject *self, PyObject *args, PyObject *kwargs) {
    PyObject *client;
    unsigned long long ctx, qref;
    static char *names[] = {"client", "address", "qref", "waits", "fans", "levels", NULL};
    self->fans = 0;
    self->levels = 10;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OKKp|pI", names, &client, &ctx, &qref, &self->waits, &self->fans, &self->levels)) return -1;
    Py_INCREF(client);
    Py_XSETREF(self->client, client);
    self->ctx = (shmq_ctx *)(uintptr_t)ctx;
    self->qref = qref;
    return 0;
}

static PyObject *queue_bind(QueueObject *self, PyObject *args) {
    unsigned long long ctx, qref;
    if (!PyArg_ParseTuple(args, "KK", &ctx, &qref)) return NULL;
    self->ctx = (shmq_ctx *)(uintptr_t)ctx;
    self->qref = qref;
    Py_RETURN_NONE;
}

static PyObject *call_slow(PyObject *self, PyObject *name, PyObject *const *args, Py_ssize_t n, PyObject *kwnames) {
    PyObject *small[8];
    Py_ssize_t all = n + (kwnames ? PyTuple_GET_SIZE(kwnames) : 0);
    PyObject **stack = all < 8 ? small : PyMem_Malloc((size_t)(all + 1) * sizeof *stack);
    if (!stack) return PyErr_NoMemory();
    stack[0] = self;
    for (Py_ssize_t i = 0; i < all; i++) stack[i + 1] = args[i];
    PyObject *result = PyObject_VectorcallMethod(name, stack, (size_t)n + 1, kwnames);
    if (stack != small) PyMem_Free(stack);
    return result;
}

static int send_one(QueueObject *self, shmq_message *m) {
    int rc;
    int (*publish)(shmq_ctx *, uint64_t, shmq_message *) = self->fans ? shmq_topic_publish : shmq_publish;
    if (m->size < BIG) return publish(self->ctx, self->qref, m);
    shmq_ctx *ctx = self->ctx;
    uint64_t qref = self->qref;
    Py_BEGIN_ALLOW_THREADS
    rc = publish(ctx, qref, m);
    Py_END_ALLOW_THREADS
    return rc;
}

/* Wait, without a time limit, until there may be room again. False: raised. */
static bool wait_for_room(QueueObject *self) {
    shmq_ctx *ctx = self->ctx;
    uint64_t qref = self->qref;
    if (PyErr_CheckSignals() < 0) return false;
    Py_BEGIN_ALLOW_THREADS
    shmq_wait_space(ctx, qref, 0, UINT64_MAX);   /* whatever it says, the next publish says it too */
    Py_END_ALLOW_THREADS
    return PyErr_CheckSignals() >= 0;
}

#include "accel_fields.h"

static PyObject *publish_fields(QueueObject *self, PyObject *const *args, PyObject *kwnames) {   /* NULL without an error: Python's */
    shmq_message m = {.data = PyBytes_AS_STRING(args[0]), .size = (uint64_t)PyBytes_GET_SIZE(args[0]), .ttl_ns = SHMQ_DELAY_DEFAULT};
    uint8_t encoded[FIELDS_MOST];
    int rc;
    if (!fields_get(self, &m, encoded, args + 1, kwnames)) return NULL;
    while ((rc = send_one(self, &m)) == SHMQ_FULL && self->waits)
        if (!wait_for_room(self)) return NULL;
    return rc >= 0 ? PyLong_FromUnsignedLongLong(m.id) : NULL;
}

static PyObject *queue_publish(QueueObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames) {
    if (n == 1 && PyBytes_CheckExact(args[0]) && self->ctx && kwnames) {
        PyObject *id = publish_fields(self, args, kwnames);
        if (id || PyErr_Occurred()) return id;
    } else if (n == 1 && PyBytes_CheckExact(args[0]) && self->ctx) {
        shmq_message m = {.data = PyBytes_AS_STRING(args[0]), .size = (uint64_t)PyBytes_GET_SIZE(args[0]), .ttl_ns = SHMQ_DELAY_DEFAULT};
        int rc;
        while ((rc = send_one(self, &m)) == SHMQ_FULL && self->waits)
            if (!wait_for_room(self)) return NULL;
        if (rc >= 0) return PyLong_FromUnsignedLongLong(m.id);
    }
    return call_slow((PyObject *)self, str_publish_slow, args, n, kwnames);
}

/* Publish items[from:] as far as it goes: bytes only, no waiting. Returns how many, with the result that ended it in *rc. */
static Py_ssize_t send_many(QueueObject *self, PyObject *items, Py_ssize_t from, int *rc) {
    shmq_message m[CHUNK];
    Py_ssize_t n = PySequence_Fast_GET_SIZE(items), at = from;
    *rc = SHMQ_OK;
    while (at < n) {
        uint32_t k = 0;
        PyObject **item = PySequence_Fast_ITEMS(items) + at;
        for (; k < CHUNK && at + k < n && PyBytes_CheckExact(item[k]); k++)
            m[k] = (shmq_message){.data = PyBytes_AS_STRING(item[k]), .size = (uint64_t)PyBytes_GET_SIZE(item[k]), .ttl_ns = SHMQ_DELAY_DEFAULT};
        if (!k) break;
        int sent = self->fans ? shmq_topic_publish_many(self->ctx, self->qref, m, k) : shmq_publish_many(self->ctx, self->qref, m, k);
        if (sent < 0) { *rc = sent; break; }
        at += sent;
        if ((uint32_t)sent < k) continue;   /* the reason comes from the next attempt, at once */
    }
    return at - from;
}

static PyObject *queue_publish_many(QueueObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames) {
    if (n == 1 && !kwnames && self->ctx && (PyList_CheckExact(args[0]) || PyTuple_CheckExact(args[0]))) {
        int rc;
        Py_ssize_t sent = send_many(self, args[0], 0, &rc), all = PySequence_Fast_GET_SIZE(args[0]);
        while (rc == SHMQ_FULL && self->waits) {
            if (!wait_for_room(self)) return NULL;
            if (sent < PySequence_Fast_GET_SIZE(args[0])) sent += send_many(self, args[0], sent, &rc);
            else rc = SHMQ_OK;
        }
        all = PySequence_Fast_GET_SIZE(args[0]);   /* another thread may have changed the list while we waited */
        if (sent >= all) return PyLong_FromSsize_t(sent);
        PyObject *rest = PySequence_GetSlice(args[0], sent, all);
        PyObject *done = rest ? PyLong_FromSsize_t(sent) : NULL;
        PyObject *result = done ? PyObject_CallMethodObjArgs((PyObject *)self, str_publish_many_slow, rest, done, NULL) : NULL;
        Py_XDECREF(rest);
        Py_XDECREF(done);
        return result;
    }
    return call_slow((PyObject *)self, str_publish_many_slow, args, n, kwnames);
}

/* _send_many(list of bytes, from) -> how many went, or the negative result of the first */
static PyObject *queue_send_many(QueueObject *self, PyObject *args) {
    PyObject *items;
    Py_ssize_t from;
    int rc = SHMQ_OK;
    if (!PyArg_ParseTuple(args, "O!n", &PyList_Type, &items, &from)) return NULL;
    Py_ssize_t sent = send_many(self, items, from, &rc);
    return PyLong_FromSsize_t(sent ? sent : rc);
}

/* _send(payload, meta or None, ttl_ns, delay_ns, priority) -> id, or a negative result */
static PyObject *queue_send(QueueObject *self, PyObject *const *args, Py_ssize_t n) {
    if (n != 7) return PyErr_Format(PyExc_TypeError, "_send: found %zd arguments, expected 7", n);
    parts p;
    if (parts_get(&p, args) < 0) return NULL;
    int rc = send_one(self, &p.m);
    parts_release(&p);
    return rc < 0 ? PyLong_FromLong(rc) : PyLong_FromUnsignedLongLong(p.m.id);
}

#include "accel_loan.h"

static int queue_traverse(QueueObject *self, visitproc visit, void *arg) { Py_VISIT(self->client); return 0; }
static int queue_clear(QueueObject *self) { (void)self; return 0; }   /* client stays: ctx must not dangle */
static void queue_dealloc(QueueObject *self) {
    PyObject_GC_UnTrack(self);
    Py_CLEAR(self->client);
    Py_TYPE(self)->tp_free((PyObject *)self);
}
static PyObject *queue_ctx(QueueObject *self, void *unused) { (void)unused; return PyLong_FromVoidPtr(self->ctx); }

static PyMethodDef queue_methods[] = {
    {"publish", (PyCFunction)(void (*)(void))queue_publish, METH_FASTCALL | METH_KEYWORDS, NULL},
    {"publish_many", (PyCFunction)(void (*)(void))queue_publish_many, METH_FASTCALL | METH_KEYWORDS, NULL},
    {"loan", (PyCFunction)(void (*)(void))queue_loan, METH_FASTCALL | METH_KEYWORDS, NULL},
    {"_send", (PyCFunction)(void (*)(void))queue_send, METH_FASTCALL, NULL},
    {"_send_many", (PyCFunction)queue_send_many, METH_VARARGS, NULL},
    {"_bind", (PyCFunction)queue_bind, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL}};
static PyGetSetDef queue_getset[] = {{"_ctx", (getter)queue_ctx, NULL, NULL, NULL}, {NULL, NULL, NULL, NULL, NULL}};
static PyMemberDef queue_members[] = {
    {"_qref", T_ULONGLONG, offsetof(QueueObject, qref), READONLY, NULL},
    {"_client", T_OBJECT, offsetof(QueueObject, client), READONLY, NULL},
    {NULL, 0, 0, 0, NULL}};

static PyTypeObject QueueType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "shmq._native._accel.QueueBase",
    .tp_basicsize = sizeof(QueueObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)queue_init,
    .tp_dealloc = (destructor)queue_dealloc,
    .tp_traverse = (traverseproc)queue_traverse,
    .tp_clear = (inquiry)queue_clear,
    .tp_free = PyObject_GC_Del,
    .tp_methods = queue_methods,
    .tp_getset = queue_getset,
    .tp_members = queue_members,
    .tp_doc = PyDoc_STR("The part of Queue that is called for every message."),
};

/* ---- Consumer: what it holds ----------------------------------------------------------------------------------------- */

static int consumer_init(ConsumerObject *self, PyObject *args, PyObject *kwargs) {
    PyObject *client;
    PyTypeObject *type;
    unsigned long long ctx, qref, limit, spin;
    int mode;
    unsigned prefetch;
    static char *names[] = {"client", "address", "qref", "mode", "prefetch", "limit", "spin_ns", "delivery", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OKKiIKKO!", names, &client, &ctx, &qref, &mode, &prefetch, &limit, &spin,
                                     &PyType_Type, &type))
        return -1;
    if (!PyType_IsSubtype(type, &DeliveryType) || self->client) {
        PyErr_SetString(PyExc_TypeError, "ConsumerBase: found no DeliveryBase type, or a second __init__");
        return -1;
    }
    self->ahead = PyMem_Calloc(prefetch ? prefetch : 1, sizeof *self->ahead);
    if (!self->ahead) {
        PyErr_NoMemory();
        return -1;
    }
    Py_INCREF(client);
    self->client = client;
    Py_INCREF(type);
    self->type = type;
    self->pooled = type_is_pooled(type);
    self->ctx = (shmq_ctx *)(uintptr_t)ctx;
    self->qref = qref;
    self->mode = mode;
    self->prefetch = prefetch ? prefetch : 1;
    self->max_unsettled = limit ? limit : UINT64_MAX;
    self->spin_ns = spin;
    self->leases.prev = self->leases.next = &self->leases;
    return 0;
}

/* Forget what the parent process holds; it is the parent's to settle. */
static void consumer_forget(ConsumerObject *self) {
    while (self->leases.next != &self->leases) {
        self->leases.next->state = SETTLED;
        lease_unlink(self, self->leases.next);
    }
    self->n = self->at = 0;
}

static PyObject *consumer_bind(ConsumerObject *self, PyObject *args) {
    unsigned long long ctx, qref;
    if (!PyArg_ParseTuple(args, "KK", &ctx, &qref)) return NULL;
    if (self->ctx != (shmq_ctx *)(uintptr_t)ctx) consumer_forget(self);
    self->ctx = (shmq_ctx *)(uintptr_t)ctx;
    self->qref = qref;
    Py_RETURN_NONE;
}

/* Settle the LIVE leases of `thread` that were handed out by the loop (looped 1), otherwise (0), or both (-1). */
static long settle_mine(ConsumerObject *self, unsigned long thread, int looped, int kind, uint64_t delay, const char *extra, uint32_t size) {
    long done = 0;
    lease *next;
    for (lease *l = self->leases.next; l != &self->leases; l = next) {
        next = l->next;
        if (l->state != LIVE || l->thread != thread || (looped >= 0 && l->looped != looped)) continue;
        if (lease_settle(self, self->ctx, l, kind, delay, extra, size) >= 0) done++;
    }
    return done;
}

/* _settle_mine(kind, looped, thread or None, extra or None) -> how many */
static PyObject *consumer_settle_mine(ConsumerObject *self, PyObject *args) {
    int kind, looped;
    PyObject *owner, *extra;
    if (!PyArg_ParseTuple(args, "iiOO", &kind, &looped, &owner, &extra)) return NULL;
    unsigned long thread = owner == Py_None ? PyThread_get_thread_ident() : PyLong_AsUnsignedLong(owner);
    if (PyErr_Occurred()) return NULL;
    if (extra != Py_None && !PyBytes_Check(extra)) return PyErr_Format(PyExc_TypeError, "_settle_mine: extra is not bytes");
    return PyLong_FromLong(settle_mine(self, thread, looped, kind, SHMQ_DELAY_DEFAULT, extra == Py_None ? NULL : PyBytes_AS_STRING(extra),
                                       extra == Py_None ? 0 : (uint32_t)PyBytes_GET_SIZE(extra)));
}

static long give_back(ConsumerObject *self) {
    long given = 0;
    lease *next;
    for (; self->n; self->at++, self->n--)
        if (shmq_release(self->ctx, &self->ahead[self->at]) >= 0) given++;
    for (lease *l = self->leases.next; l != &self->leases; l = next) {
        next = l->next;
        if (l->state != LIVE) continue;
        int rc = lease_settle(self, self->ctx, l, RELEASE, 0, NULL, 0);
        if (rc >= 0) given++;
        else if (rc != SHMQ_STALE && rc != SHMQ_GONE) {   /* detached or another process's: nothing to give */
            l->state = SETTLED;
            lease_unlink(self, l);
        }
    }
    return given;
}

static PyObject *consumer_close(ConsumerObject *self, PyObject *unused) {
    (void)unused;
    self->closed = true;
    return PyLong_FromLong(self->client ? give_back(self) : 0);
}

/* ---- Consumer: taking ------------------------------------------------------------------------------------------------ */

/* Make `o`, which holds a taken delivery, the user's. Fails only for want of memory: then the delivery went back. */
static int hand_out(ConsumerObject *self, DeliveryObject *o, unsigned long thread, bool looped) {
    if (delivery_copy(o, self->mode == NONE) < 0) {
        (void)shmq_release(self->ctx, &o->l.d);
        return -1;
    }
    if (self->mode == NONE) return 0;   /* acked by the caller */
    o->l.thread = thread;
    o->l.looped = looped;
    lease_link(self, &o->l);
    return 0;
}

/* One delivery into o->l.d, without waiting: 1, or why not. */
static int take_one(ConsumerObject *self, DeliveryObject *o) {
    if (self->closed) return CONSUMER_CLOSED;
    if (self->unsettled >= self->max_unsettled) return CONSUMER_LIMIT;
    if (self->mode == NONE) return shmq_take(self->ctx, self->qref, 1, SHMQ_TAKE_FREE, &o->l.d);
    if (self->prefetch == 1) return shmq_take(self->ctx, self->qref, 1, 0, &o->l.d);
    for (;;) {
        while (self->n) {
            o->l.d = self->ahead[self->at];
            self->at++;
            self->n--;
            int rc = shmq_start(self->ctx, &o->l.d);
            if (rc >= 0) return 1;
            if (rc != SHMQ_STALE) return rc;   /* STALE: given up to a consumer that waited */
        }
        int rc = shmq_take(self->ctx, self->qref, self->prefetch, SHMQ_TAKE_AHEAD, self->ahead);
        if (rc <= 0) return rc;
        self->at = 0;
        self->n = (uint32_t)rc;
    }
}

/* Absolute deadline from a timeout: 0 = none. Numbers here, anything else by the Python method. */
static int deadline_of(PyObject *self, PyObject *timeout, uint64_t *deadline) {
    double seconds = -1;
    *deadline = 0;
    if (!timeout || timeout == Py_None) return 0;
    if (PyFloat_CheckExact(timeout)) seconds = PyFloat_AS_DOUBLE(timeout);
    else if (PyLong_CheckExact(timeout)) {
        seconds = PyLong_AsDouble(timeout);
        if (seconds == -1 && PyErr_Occurred()) PyErr_Clear();
    }
    if (seconds >= 0 && seconds < 1e9) {
        *deadline = seconds == 0 ? 1 : shmq_now() + (uint64_t)(seconds * 1e9);
        return 0;
    }
    PyObject *ns = PyObject_CallMethodObjArgs(self, str_deadline, timeout, NULL);
    if (!ns) return -1;
    *deadline = PyLong_AsUnsignedLongLong(ns);
    Py_DECREF(ns);
    return *deadline == UINT64_MAX && PyErr_Occurred() ? -1 : 0;
}

/* _recover(rc, deadline_ns): returns for another attempt, or raises. */
static int recover(ConsumerObject *self, int rc, uint64_t deadline) {
    PyObject *code = PyLong_FromLong(rc), *until = PyLong_FromUnsignedLongLong(deadline), *result = NULL;
    if (code && until) result = PyObject_CallMethodObjArgs((PyObject *)self, str_recover, code, until, NULL);
    Py_XDECREF(code);
    Py_XDECREF(until);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* Wait after an attempt that gave `rc`. 1 = try again; 0 = the loop is over (looped and shut down and drained); -1 = raised. */
static int wait_or_recover(ConsumerObject *self, int rc, uint64_t deadline, bool looped, bool *last) {
    if (rc == SHMQ_EMPTY) {
        if (*last || deadline == 1) {
            if (!self->empty || !PyTuple_CheckExact(self->empty) || PyTuple_GET_SIZE(self->empty) != 2)
                return recover(self, SHMQ_TIMEOUT, deadline) < 0 ? -1 : 1;
            PyErr_SetObject(PyTuple_GET_ITEM(self->empty, 0), PyTuple_GET_ITEM(self->empty, 1));
            return -1;
        }
        if (PyErr_CheckSignals() < 0) return -1;
        shmq_ctx *ctx = self->ctx;
        if (shmq_glance(ctx, self->qref) == SHMQ_OK) return 1;   /* an answer within a microsecond: dropping the GIL costs as much */
        uint64_t qref = self->qref, spin = self->spin_ns;
        Py_BEGIN_ALLOW_THREADS
        rc = shmq_wait_items(ctx, qref, deadline, spin);
        Py_END_ALLOW_THREADS
        if (rc == SHMQ_INTR) return PyErr_CheckSignals() < 0 ? -1 : 1;
        if (rc == SHMQ_TIMEOUT) *last = true;
        /* Whatever else it says, the next take says it too, after a look at what is there. */
        return 1;
    }
    if (looped && (rc == SHMQ_CLOSED || rc == CONSUMER_CLOSED)) return 0;
    return recover(self, rc, deadline) < 0 ? -1 : 1;
}

static PyObject *consumer_get_until(ConsumerObject *self, uint64_t deadline, bool looped) {
    unsigned long thread = 0;
    bool last = false;
    if (!self->client) return PyErr_Format(PyExc_TypeError, "ConsumerBase: __init__ was not called");
    if (self->mode == AUTO) {
        thread = PyThread_get_thread_ident();
        if (self->unsettled) settle_mine(self, thread, -1, ACK, 0, NULL, 0);
    }
    DeliveryObject *o = delivery_new(self);
    if (!o) return NULL;
    for (;;) {
        int rc = take_one(self, o);
        if (rc > 0) {
            o->ctx = self->ctx;
            if (hand_out(self, o, thread, looped) < 0) break;
            if (self->mode == NONE) (void)shmq_ack(self->ctx, &o->l.d, 1);
            return (PyObject *)o;
        }
        if (wait_or_recover(self, rc, deadline, looped, &last) <= 0) break;
    }
    Py_DECREF(o);
    return NULL;
}

static int get_arguments(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames, Py_ssize_t least, uint64_t *deadline) {
    PyObject *timeout = n > least ? args[least] : NULL;
    if (kwnames && PyTuple_GET_SIZE(kwnames) == 1 && n == least && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, 0), "timeout") == 0)
        timeout = args[n];
    else if (n < least || n > least + 1 || (kwnames && PyTuple_GET_SIZE(kwnames)))
        return PyErr_Format(PyExc_TypeError, "found other arguments, expected %s; see help()", least ? "get_many(max_n, timeout=None)" : "get(timeout=None)"), -1;
    return deadline_of(self, timeout, deadline);
}

static PyObject *consumer_get(ConsumerObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames) {
    uint64_t deadline = 0;
    if ((n || kwnames) && get_arguments((PyObject *)self, args, n, kwnames, 0, &deadline) < 0) return NULL;
    return consumer_get_until(self, deadline, false);
}

static PyObject *consumer_next(ConsumerObject *self) { return consumer_get_until(self, 0, true); }

/* Up to n deliveries into `list` without waiting: how many, or why none. -1000 = raised. */
static int take_many(ConsumerObject *self, PyObject *list, Py_ssize_t n, unsigned long thread) {
    shmq_delivery d[CHUNK];
    int got = 0, rc = SHMQ_EMPTY;
    if (self->closed) return CONSUMER_CLOSED;
    if (self->unsettled >= self->max_unsettled) return CONSUMER_LIMIT;
    if ((uint64_t)n > self->max_unsettled - self->unsettled) n = (Py_ssize_t)(self->max_unsettled - self->unsettled);
    while (got < n) {
        uint32_t want = n - got < CHUNK ? (uint32_t)(n - got) : CHUNK, k = 0;
        bool from_ahead = self->mode != NONE && self->n;
        if (self->mode == NONE) {
            rc = shmq_take(self->ctx, self->qref, want, SHMQ_TAKE_FREE, d);
        } else if (from_ahead) {
            d[0] = self->ahead[self->at];
            self->at++;
            self->n--;
            rc = shmq_start(self->ctx, &d[0]);
            if (rc == SHMQ_STALE) continue;
            if (rc >= 0) rc = 1;
        } else {
            rc = shmq_take(self->ctx, self->qref, want, 0, d);
        }
        if (rc <= 0) break;
        for (; k < (uint32_t)rc; k++) {
            DeliveryObject *o = delivery_new(self);
            if (!o) break;
            o->l.d = d[k];
            if (hand_out(self, o, thread, false) < 0) {
                Py_DECREF(o);
                k++;
                break;
            }
            int bad = PyList_Append(list, (PyObject *)o);
            Py_DECREF(o);
            if (bad < 0) {   /* with a lease: it is an orphan now, close() gives it back */
                k++;
                break;
            }
        }
        if (self->mode == NONE && k) (void)shmq_ack(self->ctx, d, k);
        if (PyErr_Occurred()) {
            for (; k < (uint32_t)rc; k++) (void)shmq_release(self->ctx, &d[k]);
            return -1000;
        }
        got += rc;
        if (!from_ahead && (uint32_t)rc < want) break;
    }
    return got ? got : rc;
}

static PyObject *consumer_get_many(ConsumerObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames) {
    uint64_t deadline = 0;
    unsigned long thread = 0;
    bool last = false;
    if (!self->client) return PyErr_Format(PyExc_TypeError, "ConsumerBase: __init__ was not called");
    if (get_arguments((PyObject *)self, args, n, kwnames, 1, &deadline) < 0) return NULL;
    Py_ssize_t max_n = PyNumber_AsSsize_t(args[0], PyExc_OverflowError);
    if (max_n == -1 && PyErr_Occurred()) return NULL;
    if (max_n < 1) return PyErr_Format(PyExc_ValueError, "max_n: found %zd, expected 1 or more; say how many deliveries you want at most", max_n);
    if (self->mode == AUTO) {
        thread = PyThread_get_thread_ident();
        if (self->unsettled) settle_mine(self, thread, -1, ACK, 0, NULL, 0);
    }
    PyObject *list = PyList_New(0);
    if (!list) return NULL;
    for (;;) {
        int rc = take_many(self, list, max_n, thread);
        if (rc > 0) return list;
        if (rc == -1000 || wait_or_recover(self, rc, deadline, false, &last) <= 0) break;
    }
    Py_DECREF(list);
    return NULL;
}

/* _poll(thread, looped) -> Delivery, or None when there is nothing now: the get of asyncio, where a task is a thread. */
static PyObject *consumer_poll(ConsumerObject *self, PyObject *args) {
    unsigned long thread;
    int looped;
    if (!PyArg_ParseTuple(args, "kp", &thread, &looped)) return NULL;
    if (!self->client) return PyErr_Format(PyExc_TypeError, "ConsumerBase: __init__ was not called");
    DeliveryObject *o = delivery_new(self);
    if (!o) return NULL;
    for (;;) {
        int rc = take_one(self, o);
        if (rc > 0) {
            o->ctx = self->ctx;
            if (hand_out(self, o, thread, looped) < 0) break;
            if (self->mode == NONE) (void)shmq_ack(self->ctx, &o->l.d, 1);
            return (PyObject *)o;
        }
        if (rc == SHMQ_EMPTY) {
            Py_DECREF(o);
            Py_RETURN_NONE;
        }
        if (recover(self, rc, 1) < 0) break;
    }
    Py_DECREF(o);
    return NULL;
}

/* ---- Consumer: settling many ----------------------------------------------------------------------------------------- */

typedef struct { shmq_delivery d[CHUNK]; DeliveryObject *o[CHUNK]; uint32_t n; Py_ssize_t acked, stale; } ack_batch;

static int ack_flush(ConsumerObject *self, ack_batch *b) {
    int rc = b->n ? shmq_ack(self->ctx, b->d, b->n) : 0;
    bool failed = rc < 0 && rc != SHMQ_STALE;
    for (uint32_t i = 0; i < b->n; i++) {
        if (failed) {
            b->o[i]->l.state = LIVE;
            continue;
        }
        b->o[i]->l.state = SETTLED;
        lease_unlink(self, &b->o[i]->l);
    }
    if (!failed) {
        b->acked += rc > 0 ? rc : 0;
        b->stale += (Py_ssize_t)b->n - (rc > 0 ? rc : 0);
    }
    b->n = 0;
    return failed ? rc : 0;
}

static PyObject *consumer_ack_many(ConsumerObject *self, PyObject *deliveries) {
    ack_batch b;
    int rc = 0;
    b.n = 0;
    b.acked = b.stale = 0;
    PyObject *all = PySequence_Fast(deliveries, "ack_many: expected a list of deliveries");
    if (!all) return NULL;
    Py_ssize_t n = PySequence_Fast_GET_SIZE(all);
    for (Py_ssize_t i = 0; i < n; i++) {
        if (PyObject_TypeCheck(PySequence_Fast_GET_ITEM(all, i), &DeliveryType)) continue;
        PyErr_Format(PyExc_TypeError, "ack_many: found %.100s at position %zd, expected a Delivery; nothing was acked",
                     Py_TYPE(PySequence_Fast_GET_ITEM(all, i))->tp_name, i);
        Py_DECREF(all);
        return NULL;
    }
    for (Py_ssize_t i = 0; i < n && rc >= 0; i++) {
        DeliveryObject *o = (DeliveryObject *)PySequence_Fast_GET_ITEM(all, i);
        if (o->l.state != LIVE) {
            b.stale++;
        } else if (o->consumer != self || o->ctx != self->ctx || o->l.views) {
            rc = lease_settle(o->consumer, o->ctx, &o->l, ACK, 0, NULL, 0);
            if (rc >= 0) b.acked++;
            else if (rc == SHMQ_STALE) rc = 0, b.stale++;
        } else {
            b.d[b.n] = o->l.d;
            b.o[b.n++] = o;
            o->l.state = PENDING;
            if (b.n == CHUNK) rc = ack_flush(self, &b);
        }
    }
    int flushed = ack_flush(self, &b);
    Py_DECREF(all);
    if (rc >= 0) rc = flushed;
    if (rc >= 0 && !b.stale) return PyLong_FromSsize_t(b.acked);
    PyObject *code = PyLong_FromLong(rc < 0 ? rc : SHMQ_STALE), *acked = PyLong_FromSsize_t(b.acked), *stale = PyLong_FromSsize_t(b.stale), *result = NULL;
    if (code && acked && stale) result = PyObject_CallMethodObjArgs((PyObject *)self, str_ack_many_failed, code, acked, stale, NULL);
    Py_XDECREF(code);
    Py_XDECREF(acked);
    Py_XDECREF(stale);
    return result;
}


static void consumer_dealloc(ConsumerObject *self) {
    PyObject_GC_UnTrack(self);
    if (self->client && (self->n || self->unsettled)) {
        if (client_open(self->client)) give_back(self);
        else consumer_forget(self);
    }
    PyMem_Free(self->ahead);
    Py_CLEAR(self->client);
    Py_CLEAR(self->type);
    Py_CLEAR(self->empty);
    Py_TYPE(self)->tp_free((PyObject *)self);
}
static PyObject *consumer_ctx(ConsumerObject *self, void *unused) { (void)unused; return PyLong_FromVoidPtr(self->ctx); }
static PyObject *consumer_closed(ConsumerObject *self, void *unused) { (void)unused; return PyBool_FromLong(self->closed); }

static PyMethodDef consumer_methods[] = {
    {"get", (PyCFunction)(void (*)(void))consumer_get, METH_FASTCALL | METH_KEYWORDS, PyDoc_STR("get($self, /, timeout=None)\n--\n\nReturn the next delivery; wait up to `timeout` seconds for one (None: for ever, 0: not at all).\n\nRaises: QueueEmpty when the time is over; QueueClosed when the queue is shut down and drained.")},
    {"get_many", (PyCFunction)(void (*)(void))consumer_get_many, METH_FASTCALL | METH_KEYWORDS, PyDoc_STR("get_many($self, /, max_n, timeout=None)\n--\n\nReturn a list of 1 to `max_n` deliveries: what is there now; wait like get() only while there is none.\n\nRaises: QueueEmpty when the time is over; QueueClosed when the queue is shut down and drained.")},
    {"ack_many", (PyCFunction)consumer_ack_many, METH_O, PyDoc_STR("ack_many($self, deliveries, /)\n--\n\nAck all of `deliveries` in few crossings into C; return how many.\n\nRaises: StaleDelivery when the lease of any has moved on; the others are acked all the same.")},
    {"_poll", (PyCFunction)consumer_poll, METH_VARARGS, NULL},
    {"_settle_mine", (PyCFunction)consumer_settle_mine, METH_VARARGS, NULL},
    {"_close", (PyCFunction)consumer_close, METH_NOARGS, NULL},
    {"_bind", (PyCFunction)consumer_bind, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL}};
static PyGetSetDef consumer_getset[] = {
    {"_ctx", (getter)consumer_ctx, NULL, NULL, NULL}, {"closed", (getter)consumer_closed, NULL, PyDoc_STR("True after close()."), NULL}, {NULL, NULL, NULL, NULL, NULL}};
static PyMemberDef consumer_members[] = {
    {"_qref", T_ULONGLONG, offsetof(ConsumerObject, qref), READONLY, NULL},
    {"_client", T_OBJECT, offsetof(ConsumerObject, client), READONLY, NULL},
    {"_empty", T_OBJECT, offsetof(ConsumerObject, empty), 0, NULL},
    {"_mode", T_INT, offsetof(ConsumerObject, mode), READONLY, NULL},
    {"unsettled", T_ULONGLONG, offsetof(ConsumerObject, unsettled), READONLY, PyDoc_STR("Deliveries handed out and not settled.")},
    {"_read_ahead", T_UINT, offsetof(ConsumerObject, n), READONLY, NULL},
    {NULL, 0, 0, 0, NULL}};

static PyTypeObject ConsumerType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "shmq._native._accel.ConsumerBase",
    .tp_basicsize = sizeof(ConsumerObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)consumer_init,
    .tp_dealloc = (destructor)consumer_dealloc,
    .tp_traverse = (traverseproc)consumer_traverse,
    .tp_free = PyObject_GC_Del,
    .tp_iter = consumer_self,
    .tp_iternext = (iternextfunc)consumer_next,
    .tp_methods = consumer_methods,
    .tp_getset = consumer_getset,
    .tp_members = consumer_members,
    .tp_doc = PyDoc_STR("The part of Consumer that is called for every message."),
};

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
