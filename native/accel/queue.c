/* queue.c: publishing by the accelerator, into a queue or a topic: one and many.
 *
 * A full queue is waited for here; what is rare goes to Sender._publish_slow.
 */
#include "accel.h"

static int queue_init(QueueObject *self, PyObject *args, PyObject *kwargs) {
    PyObject *client;
    unsigned long long ctx, qref;
    static char *names[] = { "client", "address", "qref", "waits", "fans", "levels", NULL };
    self->fans = 0;
    self->levels = 10;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OKKp|pI", names, &client, &ctx, &qref, &self->waits, &self->fans, &self->levels))
        return -1;
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

PyObject *call_slow(PyObject *self, PyObject *name, PyObject *const *args, Py_ssize_t n, PyObject *kwnames) {
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

HOT static int send_one(QueueObject *self, shmq_message *m) {
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
bool wait_for_room(QueueObject *self) {
    shmq_ctx *ctx = self->ctx;
    uint64_t qref = self->qref;
    if (PyErr_CheckSignals() < 0) return false;
    Py_BEGIN_ALLOW_THREADS
    shmq_wait_space(ctx, qref, 0, UINT64_MAX);   /* whatever it says, the next publish says it too */
    Py_END_ALLOW_THREADS
    return PyErr_CheckSignals() >= 0;
}

static PyObject *publish_fields(QueueObject *self, PyObject *const *args, PyObject *kwnames) {   /* NULL without an error: Python's */
    shmq_message m = { .data = PyBytes_AS_STRING(args[0]), .size = (uint64_t)PyBytes_GET_SIZE(args[0]), .ttl_ns = SHMQ_DELAY_DEFAULT };
    uint8_t encoded[FIELDS_MOST];
    int rc;
    if (!fields_get(self, &m, encoded, args + 1, kwnames)) return NULL;
    while ((rc = send_one(self, &m)) == SHMQ_FULL && self->waits)
        if (!wait_for_room(self)) return NULL;
    return rc >= 0 ? PyLong_FromUnsignedLongLong(m.id) : NULL;
}

HOT static PyObject *queue_publish(QueueObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames) {
    if (n == 1 && PyBytes_CheckExact(args[0]) && self->ctx && kwnames) {
        PyObject *id = publish_fields(self, args, kwnames);
        if (id || PyErr_Occurred()) return id;
    } else if (n == 1 && PyBytes_CheckExact(args[0]) && self->ctx) {
        shmq_message m = { .data = PyBytes_AS_STRING(args[0]), .size = (uint64_t)PyBytes_GET_SIZE(args[0]), .ttl_ns = SHMQ_DELAY_DEFAULT };
        int rc;
        while ((rc = send_one(self, &m)) == SHMQ_FULL && self->waits)
            if (!wait_for_room(self)) return NULL;
        if (rc >= 0) return PyLong_FromUnsignedLongLong(m.id);
    }
    return call_slow((PyObject *)self, str.publish_slow, args, n, kwnames);
}

/* Publish items[from:] as far as it goes: bytes only, no waiting. Returns how many, with the result that ended it in *rc. */
static Py_ssize_t send_many(QueueObject *self, PyObject *items, Py_ssize_t from, int *rc) {
    shmq_message m[SHMQ_CHUNK];
    Py_ssize_t n = PySequence_Fast_GET_SIZE(items), at = from;
    *rc = SHMQ_OK;
    while (at < n) {
        uint32_t k = 0;
        PyObject **item = PySequence_Fast_ITEMS(items) + at;
        for (; k < SHMQ_CHUNK && at + k < n && PyBytes_CheckExact(item[k]); k++)
            m[k] = (shmq_message){ .data = PyBytes_AS_STRING(item[k]),
                                   .size = (uint64_t)PyBytes_GET_SIZE(item[k]),
                                   .ttl_ns = SHMQ_DELAY_DEFAULT };
        if (!k) break;
        int sent = self->fans ? shmq_topic_publish_many(self->ctx, self->qref, m, k) : shmq_publish_many(self->ctx, self->qref, m, k);
        if (sent < 0) {
            *rc = sent;
            break;
        }
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
        PyObject *result = done ? PyObject_CallMethodObjArgs((PyObject *)self, str.publish_many_slow, rest, done, NULL) : NULL;
        Py_XDECREF(rest);
        Py_XDECREF(done);
        return result;
    }
    return call_slow((PyObject *)self, str.publish_many_slow, args, n, kwnames);
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
    message_parts p;
    if (parts_get(&p, args) < 0) return NULL;
    int rc = send_one(self, &p.m);
    parts_release(&p);
    return rc < 0 ? PyLong_FromLong(rc) : PyLong_FromUnsignedLongLong(p.m.id);
}

static int queue_traverse(QueueObject *self, visitproc visit, void *arg) {
    Py_VISIT(self->client);
    return 0;
}
static int queue_clear(QueueObject *self) {   /* client stays: ctx must not dangle */
    (void)self;
    return 0;
}
static void queue_dealloc(QueueObject *self) {
    PyObject_GC_UnTrack(self);
    Py_CLEAR(self->client);
    Py_TYPE(self)->tp_free((PyObject *)self);
}
static PyObject *queue_ctx(QueueObject *self, void *unused) {
    (void)unused;
    return PyLong_FromVoidPtr(self->ctx);
}

static PyMethodDef sender_methods[] = {
    { "publish", (PyCFunction)(void (*)(void))queue_publish, METH_FASTCALL | METH_KEYWORDS, DOC_SenderBase_publish },
    { "publish_many", (PyCFunction)(void (*)(void))queue_publish_many, METH_FASTCALL | METH_KEYWORDS, DOC_SenderBase_publish_many },
    { "_send", (PyCFunction)(void (*)(void))queue_send, METH_FASTCALL, NULL },
    { "_send_many", (PyCFunction)queue_send_many, METH_VARARGS, NULL },
    { "_bind", (PyCFunction)queue_bind, METH_VARARGS, NULL },
    { NULL, NULL, 0, NULL },
};
static PyGetSetDef queue_getset[] = { { "_ctx", (getter)queue_ctx, NULL, NULL, NULL }, { NULL, NULL, NULL, NULL, NULL } };
static PyMemberDef queue_members[] = {
    { "_qref", T_ULONGLONG, offsetof(QueueObject, qref), READONLY, NULL },
    { "_client", T_OBJECT, offsetof(QueueObject, client), READONLY, NULL },
    { NULL, 0, 0, 0, NULL },
};

PyTypeObject SenderType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "shmq._native._accel.SenderBase",
    .tp_basicsize = sizeof(QueueObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)queue_init,
    .tp_dealloc = (destructor)queue_dealloc,
    .tp_traverse = (traverseproc)queue_traverse,
    .tp_clear = (inquiry)queue_clear,
    .tp_free = PyObject_GC_Del,
    .tp_methods = sender_methods,
    .tp_getset = queue_getset,
    .tp_members = queue_members,
    .tp_doc = PyDoc_STR("The part of Sender that is called for every message."),
};

static PyMethodDef queue_methods[] = {
    { "loan", (PyCFunction)(void (*)(void))queue_loan, METH_FASTCALL | METH_KEYWORDS, DOC_QueueBase_loan },
    { NULL, NULL, 0, NULL },
};

/* The same object, which can lend as well. */
PyTypeObject QueueType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "shmq._native._accel.QueueBase",
    .tp_base = &SenderType,
    .tp_basicsize = sizeof(QueueObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_dealloc = (destructor)queue_dealloc,
    .tp_traverse = (traverseproc)queue_traverse,
    .tp_clear = (inquiry)queue_clear,
    .tp_free = PyObject_GC_Del,
    .tp_methods = queue_methods,
    .tp_doc = PyDoc_STR("The part of Queue that is called for every message."),
};
