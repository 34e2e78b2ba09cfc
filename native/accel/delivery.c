/* delivery.c: a delivery of the accelerator: a message in hand, its payload, and the ways to settle it.
 *
 * The head of accel.h says how deliveries and consumers know each other.
 */
#include "accel.h"

DeliveryObject *delivery_pool[POOL];   /* freed instances, most recent last */
unsigned delivery_pooled;

/* May the memory of its instances be used again for instances of such types? Only if it is all alike: a GC head, our struct,
 * and nothing of a subclass's own before or after. */
bool delivery_type_pooled(PyTypeObject *type) {
    unsigned long own = 0;
#ifdef Py_TPFLAGS_MANAGED_DICT
    own |= Py_TPFLAGS_MANAGED_DICT;
#endif
#ifdef Py_TPFLAGS_MANAGED_WEAKREF
    own |= Py_TPFLAGS_MANAGED_WEAKREF;
#endif
    return SHARED_CACHES && type->tp_basicsize == (Py_ssize_t)sizeof(DeliveryObject) && type->tp_dictoffset == 0
           && type->tp_weaklistoffset == 0 && PyType_IS_GC(type) && !(type->tp_flags & own);
}

/* The lease of a delivery that dies unsettled goes on without it. */
static void make_orphan(ConsumerObject *c, DeliveryObject *self) {
    if (self->l.state != LIVE) return;
    lease *n = PyMem_RawMalloc(sizeof *n);
    if (!n) {
        (void)lease_settle(c, self->ctx, &self->l, SHMQ_RELEASE, 0, NULL, 0);
        return;
    }
    *n = self->l;
    n->orphan = 1;
    n->prev->next = n;
    n->next->prev = n;
}

HOT static void delivery_dealloc(DeliveryObject *self) {
    ConsumerObject *c = self->consumer;
    if (c) LOCKED(c, make_orphan(c, self));
    Py_CLEAR(self->payload);
    Py_CLEAR(self->meta);
    Py_CLEAR(self->extra);
    self->consumer = NULL;
    Py_XDECREF(c);
    if (delivery_pooled < POOL && delivery_type_pooled(Py_TYPE(self))) delivery_pool[delivery_pooled++] = self;
    else Py_TYPE(self)->tp_free((PyObject *)self);
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
    result = PyObject_CallMethodObjArgs((PyObject *)self, str.ack_failed, number, NULL);
    Py_DECREF(number);
    return result;
}

static PyObject *delivery_payload_inside(DeliveryObject *self, void *unused) {
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
    if (self->payload) Py_DECREF(bytes);
    else self->payload = bytes;
    return Py_NewRef(self->payload);
}
UNDER_LOCK(self->consumer, delivery_payload, (DeliveryObject * self, void *unused), (self, unused))

static PyObject *delivery_ack_inside(DeliveryObject *self, PyObject *unused) {
    (void)unused;
    lease *l = &self->l;
    int rc = SHMQ_STALE;
    if (l->state == LIVE) rc = lease_settle(self->consumer, self->ctx, l, SHMQ_ACK, 0, NULL, 0);
    if (rc < 0) return ack_failed(self, rc);
    Py_RETURN_NONE;
}
UNDER_LOCK(self->consumer, delivery_ack, (DeliveryObject * self, PyObject *unused), (self, unused))

/* _settle(kind, delay_ns, extra: bytes or None) -> result of the core */
static PyObject *delivery_settle_inside(DeliveryObject *self, PyObject *const *args, Py_ssize_t n) {
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
UNDER_LOCK(self->consumer, delivery_settle, (DeliveryObject * self, PyObject *const *args, Py_ssize_t n), (self, args, n))

void parts_release(message_parts *p) {
    if (p->payload.obj) PyBuffer_Release(&p->payload);
    if (p->meta.obj) PyBuffer_Release(&p->meta);
}

int parts_get(message_parts *p, PyObject *const *args) {
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
static PyObject *delivery_forward_inside(DeliveryObject *self, PyObject *const *args, Py_ssize_t n) {
    message_parts p;
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
UNDER_LOCK(self->consumer, delivery_forward, (DeliveryObject * self, PyObject *const *args, Py_ssize_t n), (self, args, n))

/* Is the memory of ctx still there? A Client that is garbage together with us may have been finalized first; it detached then,
 * which gave everything back. */
bool client_open(PyObject *client) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyObject *closed = PyObject_GetAttrString(client, "closed");
    bool open = closed == Py_False;
    Py_XDECREF(closed);
    PyErr_Restore(type, value, trace);
    return open;
}

/* What a view, its slices and the arrays over them keep alive; when it dies, nobody reads the payload any more. */
typedef struct {
    PyObject_HEAD
    DeliveryObject *of;
} PayloadObject;

static int payload_getbuffer(PayloadObject *self, Py_buffer *buffer, int flags) {
    shmq_delivery *d = &self->of->l.d;
    return PyBuffer_FillInfo(buffer, (PyObject *)self, (void *)(uintptr_t)d->data, (Py_ssize_t)d->size, 1, flags);
}

static void payload_dealloc(PayloadObject *self) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);   /* a finalizer has nobody to tell */
    if (client_open(self->of->consumer->client))
        LOCKED(self->of->consumer, view_over(self->of));   /* else the entries went with the attachment */
    PyErr_Restore(type, value, trace);
    Py_DECREF(self->of);
    PyObject_Free(self);
}

static PyBufferProcs payload_buffer = { (getbufferproc)payload_getbuffer, NULL };

PyTypeObject PayloadType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "shmq._native._accel.Payload",
    .tp_basicsize = sizeof(PayloadObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_dealloc = (destructor)payload_dealloc,
    .tp_as_buffer = &payload_buffer,
    .tp_doc = PyDoc_STR("A payload in shared memory that somebody looks at."),
};

static PyObject *delivery_view_inside(DeliveryObject *self, PyObject *unused) {
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
UNDER_LOCK(self->consumer, delivery_view, (DeliveryObject * self, PyObject *unused), (self, unused))

UNDER_LOCK(self->consumer, delivery_headers, (DeliveryObject * self, void *unused), (self, unused))
static PyObject *delivery_address(DeliveryObject *self, void *unused) {
    (void)unused;
    return PyLong_FromVoidPtr(&self->l.d);
}
static PyObject *delivery_ctx(DeliveryObject *self, void *unused) {
    (void)unused;
    return PyLong_FromVoidPtr(self->ctx);
}
static PyObject *delivery_meta_inside(DeliveryObject *self, void *unused) {
    (void)unused;
    if (!self->meta && self->small_size) self->meta = PyBytes_FromStringAndSize((const char *)self->small, self->small_size);
    if (self->meta || self->small_size) return Py_XNewRef(self->meta);
    Py_RETURN_NONE;
}
UNDER_LOCK(self->consumer, delivery_meta, (DeliveryObject * self, void *unused), (self, unused))

static PyObject *delivery_settled(DeliveryObject *self, void *unused) {
    (void)unused;
    return PyBool_FromLong(self->l.state != LIVE);
}
static PyObject *delivery_redelivered(DeliveryObject *self, void *unused) {
    (void)unused;
    return PyBool_FromLong((long)self->l.d.redelivered);
}
static PyObject *delivery_thread(DeliveryObject *self, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLong(self->l.thread);
}

static PyMethodDef delivery_methods[] = {
    { "ack", (PyCFunction)delivery_ack, METH_NOARGS, DOC_DeliveryBase_ack },
    { "_settle", (PyCFunction)(void (*)(void))delivery_settle, METH_FASTCALL, NULL },
    { "_forward", (PyCFunction)(void (*)(void))delivery_forward, METH_FASTCALL, NULL },
    { "_view", (PyCFunction)delivery_view, METH_NOARGS, NULL },
    { NULL, NULL, 0, NULL },
};
static PyGetSetDef delivery_getset[] = {
    { "payload", (getter)delivery_payload, NULL, DOC_DeliveryBase_payload, NULL },
    { "headers", (getter)delivery_headers, NULL, DOC_DeliveryBase_headers, NULL },
    { "redelivered", (getter)delivery_redelivered, NULL, DOC_DeliveryBase_redelivered, NULL },
    { "_meta", (getter)delivery_meta, NULL, NULL, NULL },
    { "_address", (getter)delivery_address, NULL, NULL, NULL },
    { "_ctx", (getter)delivery_ctx, NULL, NULL, NULL },
    { "_settled", (getter)delivery_settled, NULL, NULL, NULL },
    { "_thread", (getter)delivery_thread, NULL, NULL, NULL },
    { NULL, NULL, NULL, NULL, NULL },
};
#define MEMBER(name, type, member, doc) \
    { name, type, (Py_ssize_t)(offsetof(DeliveryObject, l) + offsetof(lease, d) + offsetof(shmq_delivery, member)), READONLY, doc }
#define PUBLIC(member, type) MEMBER(#member, type, member, DOC_DeliveryBase_##member)
#define FIELD(name, type, member) MEMBER(name, type, member, NULL)
static PyMemberDef delivery_members[] = {
    PUBLIC(attempt, T_UINT),
    PUBLIC(id, T_ULONGLONG),
    PUBLIC(priority, T_UINT),
    PUBLIC(size, T_UINT),
    FIELD("_queue", T_UINT, queue),
    FIELD("_reason", T_UINT, reason),
    FIELD("_origin", T_UINT, origin),
    FIELD("_died_attempts", T_UINT, died_attempts),
    FIELD("_published_ns", T_ULONGLONG, published_ns),
    FIELD("_expires_ns", T_ULONGLONG, expires_ns),
    FIELD("_died_ns", T_ULONGLONG, died_ns),
    { "_extra", T_OBJECT, offsetof(DeliveryObject, extra), READONLY, NULL },
    { "_consumer", T_OBJECT, offsetof(DeliveryObject, consumer), READONLY, NULL },
    { NULL, 0, 0, 0, NULL },
};

PyTypeObject DeliveryType = {
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
