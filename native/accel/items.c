/* items.c: put and get of Python objects, for shmq.mp.
 *
 * ItemsBase is the part of shmq.mp.Queue that is called for every item: bytes, and what compact.c takes. Everything
 * else (pickles, views, closed queues, forks) goes to Python: _put_slow, _get_slow, _load.
 *
 * An item is taken for good (SHMQ_TAKE_FREE) but its block stays OWNED(me) until the object exists: killed in between, it goes
 * to another process; interrupted (a BaseException while it is unpickled), it is given back. What cannot be unpickled is gone.
 *
 * The kind of an item is in its headers, as the number "py" (shmq/mp/pickling.py): none at all is bytes.
 */
#include "accel.h"

#define KIND_BYTES 0
#define KIND_OTHER 255
#define ITEMS_CHUNK 64
#define ITEMS_ROOM (64 * 1024)

static const uint8_t META_COMPACT[6] = { 3, 2, 'p', 'y', 1, SHMQ_ITEM_COMPACT };

static int items_init(ItemsObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = { "plain", NULL };
    int plain = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|p", names, &plain)) return -1;
    self->plain = (char)plain;
    return 0;
}

/* _bind(client, address, qref) */
static PyObject *items_bind(ItemsObject *self, PyObject *args) {
    PyObject *client;
    unsigned long long ctx, qref;
    if (!PyArg_ParseTuple(args, "OKK", &client, &ctx, &qref)) return NULL;
    Py_INCREF(client);
    Py_XSETREF(self->client, client);
    self->ctx = (shmq_ctx *)(uintptr_t)ctx;
    self->qref = qref;
    Py_RETURN_NONE;
}

/* The deadline that (block, timeout) stand for: 0 never, 1 at once. */
static int items_deadline(PyObject *block, PyObject *timeout, uint64_t *deadline) {
    int waits = block ? PyObject_IsTrue(block) : 1;
    if (waits < 0) return -1;
    *deadline = waits ? 0 : 1;
    if (!waits || !timeout || timeout == Py_None) return 0;
    double seconds = PyFloat_AsDouble(timeout);
    if (seconds == -1 && PyErr_Occurred()) return -1;
    if (!(seconds > 0)) *deadline = 1;   /* NaN as well */
    else if (seconds < 1e9) *deadline = shmq_now() + (uint64_t)(seconds * 1e9);
    return 0;
}

/* (…, block=True, timeout=None) from position `least` on. */
static int items_arguments(PyObject *const *args, Py_ssize_t n, PyObject *kwnames, Py_ssize_t least, PyObject **block, PyObject **timeout) {
    *block = n > least ? args[least] : NULL;
    *timeout = n > least + 1 ? args[least + 1] : NULL;
    if (n < least || n > least + 2) return -1;
    for (Py_ssize_t i = 0; kwnames && i < PyTuple_GET_SIZE(kwnames); i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i), **where;
        if (PyUnicode_CompareWithASCIIString(name, "block") == 0) where = block;
        else if (PyUnicode_CompareWithASCIIString(name, "timeout") == 0) where = timeout;
        else return -1;
        if (*where) return -1;
        *where = args[n + i];
    }
    return 0;
}

/* ---- putting --------------------------------------------------------------------------------------------------------- */

HOT static bool items_encode(PyObject *x, shmq_message *m, compact_out *room) {
    *m = (shmq_message){ .ttl_ns = SHMQ_DELAY_DEFAULT };
    if (PyBytes_CheckExact(x)) {
        m->data = PyBytes_AS_STRING(x);
        m->size = (uint64_t)PyBytes_GET_SIZE(x);
        return true;
    }
    uint8_t *start = room->at;
    if (!compact_put(room, x, 0, false)) {
        room->at = start;
        return false;
    }
    m->data = start;
    m->size = (uint64_t)(room->at - start);
    m->meta = META_COMPACT;
    m->meta_size = sizeof META_COMPACT;
    return true;
}

/* Wait for room after FULL: 1 = try again, 0 = the time is over, -1 = raised. */
static int items_wait_room(ItemsObject *self, uint64_t deadline, bool *last) {
    if (*last || deadline == 1) return 0;
    if (PyErr_CheckSignals() < 0) return -1;
    shmq_ctx *ctx = self->ctx;
    uint64_t qref = self->qref;
    int rc;
    Py_BEGIN_ALLOW_THREADS
    rc = shmq_wait_space(ctx, qref, deadline, UINT64_MAX);
    Py_END_ALLOW_THREADS
    if (rc == SHMQ_TIMEOUT) *last = true;
    return PyErr_CheckSignals() < 0 ? -1 : 1;
}

HOT static PyObject *items_put(ItemsObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames) {
    uint8_t bytes[COMPACT_MOST];
    compact_out room = { bytes, bytes + sizeof bytes };
    PyObject *block, *timeout;
    shmq_message m;
    if (!self->ctx || self->closed || n < 1 || items_arguments(args, n, kwnames, 1, &block, &timeout) < 0
        || !items_encode(args[0], &m, &room))
        return call_slow((PyObject *)self, str.put_slow, args, n, kwnames);
    uint64_t deadline = 0;
    bool last = false, known = false;
    int rc;
    shmq_ctx *ctx = self->ctx;
    uint64_t qref = self->qref;
    for (;;) {
        if (m.size < BIG) {
            rc = shmq_publish(ctx, qref, &m);
        } else {
            Py_BEGIN_ALLOW_THREADS
            rc = shmq_publish(ctx, qref, &m);
            Py_END_ALLOW_THREADS
        }
        if (rc >= 0) break;
        if (rc != SHMQ_FULL) return call_slow((PyObject *)self, str.put_slow, args, n, kwnames);
        if (!known && items_deadline(block, timeout, &deadline) < 0) return NULL;
        known = true;
        int again = items_wait_room(self, deadline, &last);
        if (again < 0) return NULL;
        if (!again) return PyObject_CallMethodNoArgs((PyObject *)self, str.full);
    }
    self->used = 1;
    Py_RETURN_NONE;
}

/* _put_some(list or tuple, from) -> (how many went, result that ended it: 0 = an item that is not for us, or the end) */
static PyObject *items_put_some(ItemsObject *self, PyObject *args) {
    PyObject *items;
    Py_ssize_t from, sent = 0;
    int rc = SHMQ_OK;
    if (!PyArg_ParseTuple(args, "On", &items, &from)) return NULL;
    if (!PyList_CheckExact(items) && !PyTuple_CheckExact(items))
        return PyErr_Format(PyExc_TypeError, "_put_some: found %.100s, expected a list or tuple", Py_TYPE(items)->tp_name);
    uint8_t *space = PyMem_Malloc(ITEMS_ROOM);
    if (!space) return PyErr_NoMemory();
    while (self->ctx && !self->closed && from + sent < PySequence_Fast_GET_SIZE(items)) {
        shmq_message m[ITEMS_CHUNK];
        compact_out room = { space, space + ITEMS_ROOM };
        uint32_t k = 0;
        Py_ssize_t left = PySequence_Fast_GET_SIZE(items) - from - sent;
        while (k < ITEMS_CHUNK && k < left && items_encode(PySequence_Fast_GET_ITEM(items, from + sent + k), &m[k], &room)) k++;
        if (!k) break;
        rc = shmq_publish_many(self->ctx, self->qref, m, k);
        if (rc < 0) break;
        sent += rc;
        self->used = 1;
        rc = SHMQ_OK;
    }
    PyMem_Free(space);
    return Py_BuildValue("ni", sent, rc);
}

/* ---- getting --------------------------------------------------------------------------------------------------------- */

static int kind_of(const shmq_delivery *d) {
    if (d->meta_size == 0) return KIND_BYTES;
    if (d->meta_size >= sizeof META_COMPACT && memcmp(d->meta, META_COMPACT, 5) == 0)
        return d->meta[5] == SHMQ_ITEM_COMPACT ? SHMQ_ITEM_COMPACT : KIND_OTHER;
    return KIND_BYTES;   /* published by somebody else, with headers of their own */
}

HOT static PyObject *items_decode(ItemsObject *self, const shmq_delivery *d) {
    int kind = kind_of(d);
    if (kind == SHMQ_ITEM_COMPACT) {
        compact_in in = { d->data, d->data + d->size };
        PyObject *x = compact_get(&in, 0);
        if (x && in.at == in.end) return x;
        Py_XDECREF(x);
        if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_MemoryError)) return NULL;
        PyErr_Clear();   /* what no put has written: Python finds the same, and says it */
    }
    if (kind == KIND_BYTES) {
        PyObject *bytes = PyBytes_FromStringAndSize(d->size < BIG ? (const char *)d->data : NULL, (Py_ssize_t)d->size);
        if (!bytes || d->size < BIG) return bytes;
        Py_BEGIN_ALLOW_THREADS
        memcpy(PyBytes_AS_STRING(bytes), d->data, d->size);
        Py_END_ALLOW_THREADS
        return bytes;
    }
    PyObject *view = PyMemoryView_FromMemory((char *)(uintptr_t)d->data, (Py_ssize_t)d->size, PyBUF_READ), *x = NULL;
    PyObject *meta = view ? PyBytes_FromStringAndSize((const char *)d->meta, (Py_ssize_t)d->meta_size) : NULL;
    if (meta) x = PyObject_CallMethodObjArgs((PyObject *)self, str.load, meta, view, NULL);
    Py_XDECREF(meta);
    Py_XDECREF(view);
    return x;
}

/* What becomes of a taken item whose object could not be made: an error of the item's own ends it, an interruption does not. */
static void items_failed(ItemsObject *self, shmq_delivery *d) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    bool own = type && PyErr_GivenExceptionMatches(type, PyExc_Exception) && !PyErr_GivenExceptionMatches(type, PyExc_MemoryError);
    if (own) (void)shmq_ack(self->ctx, d, 1);
    else (void)shmq_release(self->ctx, d);
    PyErr_Restore(type, value, trace);
}

static int items_ring(ItemsObject *self) {
    if (!self->bell || self->bell == Py_None) return 0;
    PyObject *done = PyObject_CallMethodNoArgs(self->bell, str.ring);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

HOT static PyObject *items_get(ItemsObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames) {
    PyObject *block, *timeout;
    if (!self->ctx || self->closed || !self->plain || items_arguments(args, n, kwnames, 0, &block, &timeout) < 0)
        return call_slow((PyObject *)self, str.get_slow, args, n, kwnames);
    uint64_t deadline = 0;
    bool last = false, known = false;
    shmq_delivery d;
    for (;;) {
        int rc = shmq_take(self->ctx, self->qref, 1, SHMQ_TAKE_FREE, &d);
        if (rc > 0) {
            PyObject *x = items_decode(self, &d);
            if (x) (void)shmq_ack(self->ctx, &d, 1);
            else items_failed(self, &d);
            if (self->bell && x && items_ring(self) < 0) Py_CLEAR(x);
            return x;
        }
        if (rc != SHMQ_EMPTY) return call_slow((PyObject *)self, str.get_slow, args, n, kwnames);
        if (!known && items_deadline(block, timeout, &deadline) < 0) return NULL;
        known = true;
        if (!last && deadline != 1) {
            if (wait_for_items(self->ctx, self->qref, deadline, UINT64_MAX, &last) < 0) return NULL;
            continue;
        }
        if (self->bell && items_ring(self) < 0) return NULL;
        return PyObject_CallMethodNoArgs((PyObject *)self, str.none);
    }
}

/* _get_some(list, n) -> how many were appended without waiting, or why none */
static PyObject *items_get_some(ItemsObject *self, PyObject *args) {
    PyObject *list;
    Py_ssize_t n, got = 0;
    int rc = SHMQ_EMPTY;
    if (!PyArg_ParseTuple(args, "O!n", &PyList_Type, &list, &n)) return NULL;
    while (self->ctx && got < n) {
        shmq_delivery d[ITEMS_CHUNK];
        uint32_t want = n - got < ITEMS_CHUNK ? (uint32_t)(n - got) : ITEMS_CHUNK, k = 0;
        rc = shmq_take(self->ctx, self->qref, want, SHMQ_TAKE_FREE, d);
        if (rc <= 0) break;
        for (; k < (uint32_t)rc; k++) {
            PyObject *x = items_decode(self, &d[k]);
            int bad = x ? PyList_Append(list, x) : -1;
            Py_XDECREF(x);
            if (bad < 0) break;
        }
        if (k) (void)shmq_ack(self->ctx, d, k);
        if (k < (uint32_t)rc) {   /* the others go back, in their order; this one as its error says */
            items_failed(self, &d[k]);
            PyObject *type, *value, *trace;
            PyErr_Fetch(&type, &value, &trace);
            for (uint32_t i = k + 1; i < (uint32_t)rc; i++) (void)shmq_release(self->ctx, &d[i]);
            PyErr_Restore(type, value, trace);
            return NULL;
        }
        got += rc;
        if ((uint32_t)rc < want) break;
    }
    if (self->bell && items_ring(self) < 0) return NULL;
    return PyLong_FromSsize_t(got ? got : rc);
}

/* _send_parts(meta, parts, sizes) -> 0 or a negative result. Each part begins at a multiple of 64; sizes: of all parts, summed
 * with their gaps. One copy, made without the GIL when it takes long. */
static PyObject *items_send_parts(ItemsObject *self, PyObject *args) {
    PyObject *pieces;
    Py_buffer meta;
    unsigned long long size;
    if (!PyArg_ParseTuple(args, "y*O!K", &meta, &PyTuple_Type, &pieces, &size)) return NULL;
    Py_ssize_t n = PyTuple_GET_SIZE(pieces), have = 0;
    Py_buffer *from = PyMem_Calloc(n ? (size_t)n : 1, sizeof *from);
    PyObject *result = NULL;
    if (!from) {
        PyBuffer_Release(&meta);
        return PyErr_NoMemory();
    }
    uint64_t need = 0;
    for (; have < n; have++) {
        if (PyObject_GetBuffer(PyTuple_GET_ITEM(pieces, have), &from[have], PyBUF_SIMPLE) < 0) goto out;
        need = ((need + 63) & ~UINT64_C(63)) + (uint64_t)from[have].len;
    }
    if (need != size) {
        PyErr_SetString(PyExc_ValueError, "_send_parts: the parts have another size");
        goto out;
    }
    shmq_delivery loan;
    shmq_ctx *ctx = self->ctx;
    uint64_t qref = self->qref;
    shmq_message m = { .ttl_ns = SHMQ_DELAY_DEFAULT, .meta = meta.buf, .meta_size = (uint32_t)meta.len };
    int rc = shmq_loan(ctx, qref, size, (uint32_t)meta.len, &loan);
    if (rc == SHMQ_OK) {
        PyThreadState *without_gil = size >= BIG / 4 ? PyEval_SaveThread() : NULL;
        uint64_t at = 0;
        for (Py_ssize_t i = 0; i < n; i++) {
            at = (at + 63) & ~UINT64_C(63);
            memcpy((uint8_t *)(uintptr_t)loan.data + at, from[i].buf, (size_t)from[i].len);
            at += (uint64_t)from[i].len;
        }
        rc = shmq_loan_publish(ctx, qref, &loan, &m);
        if (without_gil) PyEval_RestoreThread(without_gil);
        if (rc != SHMQ_OK) (void)shmq_loan_abort(ctx, &loan);
    }
    result = PyLong_FromLong(rc);
out:
    while (have--) PyBuffer_Release(&from[have]);
    PyMem_Free(from);
    PyBuffer_Release(&meta);
    return result;
}

static int items_traverse(ItemsObject *self, visitproc visit, void *arg) {
    Py_VISIT(self->client);
    Py_VISIT(self->bell);
    return 0;
}
static int items_clear(ItemsObject *self) {   /* client stays: ctx must not dangle */
    Py_CLEAR(self->bell);
    return 0;
}
static void items_dealloc(ItemsObject *self) {
    PyObject_GC_UnTrack(self);
    Py_CLEAR(self->bell);
    Py_CLEAR(self->client);
    Py_TYPE(self)->tp_free((PyObject *)self);
}
static PyObject *items_ctx(ItemsObject *self, void *unused) {
    (void)unused;
    return PyLong_FromVoidPtr(self->ctx);
}

static PyMethodDef items_methods[] = {
    { "put", (PyCFunction)(void (*)(void))items_put, METH_FASTCALL | METH_KEYWORDS, DOC_ItemsBase_put },
    { "get", (PyCFunction)(void (*)(void))items_get, METH_FASTCALL | METH_KEYWORDS, DOC_ItemsBase_get },
    { "_put_some", (PyCFunction)items_put_some, METH_VARARGS, NULL },
    { "_get_some", (PyCFunction)items_get_some, METH_VARARGS, NULL },
    { "_send_parts", (PyCFunction)items_send_parts, METH_VARARGS, NULL },
    { "_bind", (PyCFunction)items_bind, METH_VARARGS, NULL },
    { NULL, NULL, 0, NULL },
};
static PyGetSetDef items_getset[] = { { "_ctx", (getter)items_ctx, NULL, NULL, NULL }, { NULL, NULL, NULL, NULL, NULL } };
static PyMemberDef items_members[] = {
    { "_qref", T_ULONGLONG, offsetof(ItemsObject, qref), READONLY, NULL },
    { "_client", T_OBJECT, offsetof(ItemsObject, client), READONLY, NULL },
    { "_bell", T_OBJECT, offsetof(ItemsObject, bell), 0, NULL },
    { "_closed", T_BOOL, offsetof(ItemsObject, closed), 0, NULL },
    { "_used", T_BOOL, offsetof(ItemsObject, used), 0, NULL },
    { NULL, 0, 0, 0, NULL },
};

PyTypeObject ItemsType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "shmq._native._accel.ItemsBase",
    .tp_basicsize = sizeof(ItemsObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)items_init,
    .tp_dealloc = (destructor)items_dealloc,
    .tp_traverse = (traverseproc)items_traverse,
    .tp_clear = (inquiry)items_clear,
    .tp_free = PyObject_GC_Del,
    .tp_methods = items_methods,
    .tp_getset = items_getset,
    .tp_members = items_members,
    .tp_doc = PyDoc_STR("The part of shmq.mp.Queue that is called for every item."),
};
