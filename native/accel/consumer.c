/* consumer.c: a consumer of the accelerator: what it holds, taking, waiting, settling many.
 *
 * Outcomes other than a delivery go to Consumer._recover.
 */
#include "accel.h"

#define RAISED (-1000)   /* no result of the core */

/* ---- Consumer: what it holds ----------------------------------------------------------------------------------------- */

static int consumer_init(ConsumerObject *self, PyObject *args, PyObject *kwargs) {
    PyObject *client;
    PyTypeObject *type;
    unsigned long long ctx, qref, limit, spin;
    int mode;
    unsigned prefetch;
    static char *names[] = { "client", "address", "qref", "mode", "prefetch", "limit", "spin_ns", "delivery", NULL };
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OKKiIKKO!", names, &client, &ctx, &qref, &mode, &prefetch, &limit, &spin, &PyType_Type,
                                     &type))
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
    self->pooled = delivery_type_pooled(type);
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

static PyObject *consumer_bind_inside(ConsumerObject *self, PyObject *args) {
    unsigned long long ctx, qref;
    if (!PyArg_ParseTuple(args, "KK", &ctx, &qref)) return NULL;
    if (self->ctx != (shmq_ctx *)(uintptr_t)ctx) consumer_forget(self);
    self->ctx = (shmq_ctx *)(uintptr_t)ctx;
    self->qref = qref;
    Py_RETURN_NONE;
}
UNDER_LOCK(self, consumer_bind, (ConsumerObject * self, PyObject *args), (self, args))

/* Settle the LIVE leases of `thread` that were handed out by the loop (looped 1), otherwise (0), or both (-1). */
static long settle_mine(ConsumerObject *self, unsigned long thread, int looped, int kind, uint64_t delay, const char *extra,
                        uint32_t size) {
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
static PyObject *consumer_settle_mine_inside(ConsumerObject *self, PyObject *args) {
    int kind, looped;
    PyObject *owner, *extra;
    if (!PyArg_ParseTuple(args, "iiOO", &kind, &looped, &owner, &extra)) return NULL;
    unsigned long thread = owner == Py_None ? PyThread_get_thread_ident() : PyLong_AsUnsignedLong(owner);
    if (PyErr_Occurred()) return NULL;
    if (extra != Py_None && !PyBytes_Check(extra)) return PyErr_Format(PyExc_TypeError, "_settle_mine: extra is not bytes");
    return PyLong_FromLong(settle_mine(self, thread, looped, kind, SHMQ_DELAY_DEFAULT, extra == Py_None ? NULL : PyBytes_AS_STRING(extra),
                                       extra == Py_None ? 0 : (uint32_t)PyBytes_GET_SIZE(extra)));
}
UNDER_LOCK(self, consumer_settle_mine, (ConsumerObject * self, PyObject *args), (self, args))

static long give_back(ConsumerObject *self) {
    long given = 0;
    lease *next;
    for (; self->n; self->at++, self->n--)
        if (shmq_release(self->ctx, &self->ahead[self->at]) >= 0) given++;
    for (lease *l = self->leases.next; l != &self->leases; l = next) {
        next = l->next;
        if (l->state != LIVE) continue;
        int rc = lease_settle(self, self->ctx, l, SHMQ_RELEASE, 0, NULL, 0);
        if (rc >= 0) given++;
        else if (rc != SHMQ_STALE && rc != SHMQ_GONE) {
            /* detached or another process's: nothing to give */
            l->state = SETTLED;
            lease_unlink(self, l);
        }
    }
    return given;
}

static PyObject *consumer_close_inside(ConsumerObject *self, PyObject *unused) {
    (void)unused;
    self->closed = true;
    return PyLong_FromLong(self->client ? give_back(self) : 0);
}
UNDER_LOCK(self, consumer_close, (ConsumerObject * self, PyObject *unused), (self, unused))

/* ---- Consumer: taking ------------------------------------------------------------------------------------------------ */

/* Make `o`, which holds a taken delivery, the user's. Fails only for want of memory: then the delivery went back. */
HOT static int hand_out(ConsumerObject *self, DeliveryObject *o, unsigned long thread, bool looped) {
    if (delivery_copy(o, self->mode == SHMQ_ACK_NONE) < 0) {
        (void)shmq_release(self->ctx, &o->l.d);
        return -1;
    }
    if (self->mode == SHMQ_ACK_NONE) return 0;   /* acked by the caller */
    o->l.thread = thread;
    o->l.looped = looped;
    lease_link(self, &o->l);
    return 0;
}

/* One delivery into o->l.d, without waiting: 1, or why not. */
HOT static int take_one(ConsumerObject *self, DeliveryObject *o) {
    if (self->closed) return SHMQ_CONSUMER_CLOSED;
    if (self->unsettled >= self->max_unsettled) return SHMQ_CONSUMER_LIMIT;
    if (self->mode == SHMQ_ACK_NONE) return shmq_take(self->ctx, self->qref, 1, SHMQ_TAKE_FREE, &o->l.d);
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

/* The same, and make it the user's. RAISED: it went back. */
HOT static int take_into(ConsumerObject *self, DeliveryObject *o, unsigned long thread, bool looped) {
    int rc = take_one(self, o);
    if (rc <= 0) return rc;
    o->ctx = self->ctx;
    if (hand_out(self, o, thread, looped) < 0) return RAISED;
    if (self->mode == SHMQ_ACK_NONE) (void)shmq_ack(self->ctx, &o->l.d, 1);
    return 1;
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
    PyObject *ns = PyObject_CallMethodObjArgs(self, str.deadline, timeout, NULL);
    if (!ns) return -1;
    *deadline = PyLong_AsUnsignedLongLong(ns);
    Py_DECREF(ns);
    return *deadline == UINT64_MAX && PyErr_Occurred() ? -1 : 0;
}

/* _recover(rc, deadline_ns): returns for another attempt, or raises. */
static int recover(ConsumerObject *self, int rc, uint64_t deadline) {
    PyObject *code = PyLong_FromLong(rc), *until = PyLong_FromUnsignedLongLong(deadline), *result = NULL;
    if (code && until) result = PyObject_CallMethodObjArgs((PyObject *)self, str.recover, code, until, NULL);
    Py_XDECREF(code);
    Py_XDECREF(until);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* Wait for the first message, without the GIL. 1 = try again, -1 = raised; *last: the time is over, but for one more try. */
int wait_for_items(shmq_ctx *ctx, uint64_t qref, uint64_t deadline, uint64_t spin_ns, bool *last) {
    if (PyErr_CheckSignals() < 0) return -1;
    int rc = shmq_glance(ctx, qref, deadline);
    if (rc == SHMQ_OK) return 1;   /* an answer within a microsecond: dropping the GIL costs as much */
    if (rc != SHMQ_TIMEOUT) {
        Py_BEGIN_ALLOW_THREADS
        rc = shmq_wait_items(ctx, qref, deadline, spin_ns);
        Py_END_ALLOW_THREADS
    }
    if (rc == SHMQ_INTR) return PyErr_CheckSignals() < 0 ? -1 : 1;
    if (rc == SHMQ_TIMEOUT) *last = true;
    return 1;   /* whatever else it says, the next take says it too, after a look at what is there */
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
        return wait_for_items(self->ctx, self->qref, deadline, self->spin_ns, last);
    }
    if (looped && (rc == SHMQ_CLOSED || rc == SHMQ_CONSUMER_CLOSED)) return 0;
    return recover(self, rc, deadline) < 0 ? -1 : 1;
}

HOT static PyObject *consumer_get_until_inside(ConsumerObject *self, uint64_t deadline, bool looped) {
    unsigned long thread = 0;
    bool last = false;
    if (!self->client) return PyErr_Format(PyExc_TypeError, "ConsumerBase: __init__ was not called");
    if (self->mode == SHMQ_ACK_AUTO) {
        thread = PyThread_get_thread_ident();
        if (self->unsettled) settle_mine(self, thread, -1, SHMQ_ACK, 0, NULL, 0);
    }
    DeliveryObject *o = delivery_new(self);
    if (!o) return NULL;
    for (;;) {
        int rc = take_into(self, o, thread, looped);
        if (rc > 0) return (PyObject *)o;
        if (rc == RAISED || wait_or_recover(self, rc, deadline, looped, &last) <= 0) break;
    }
    Py_DECREF(o);
    return NULL;
}
UNDER_LOCK(self, consumer_get_until, (ConsumerObject * self, uint64_t deadline, bool looped), (self, deadline, looped))

static int get_arguments(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames, Py_ssize_t least, uint64_t *deadline) {
    PyObject *timeout = n > least ? args[least] : NULL;
    if (kwnames && PyTuple_GET_SIZE(kwnames) == 1 && n == least
        && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, 0), "timeout") == 0)
        timeout = args[n];
    else if (n < least || n > least + 1 || (kwnames && PyTuple_GET_SIZE(kwnames)))
        return PyErr_Format(PyExc_TypeError, "found other arguments, expected %s; see help()",
                            least ? "get_many(max_n, timeout=None)" : "get(timeout=None)"),
               -1;
    return deadline_of(self, timeout, deadline);
}

HOT static PyObject *consumer_get(ConsumerObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames) {
    uint64_t deadline = 0;
    if ((n || kwnames) && get_arguments((PyObject *)self, args, n, kwnames, 0, &deadline) < 0) return NULL;
    return consumer_get_until(self, deadline, false);
}

static PyObject *consumer_next(ConsumerObject *self) { return consumer_get_until(self, 0, true); }

/* Up to n deliveries into `list` without waiting: how many, or why none. RAISED: an exception is set. */
static int take_many(ConsumerObject *self, PyObject *list, Py_ssize_t n, unsigned long thread) {
    shmq_delivery d[SHMQ_CHUNK];
    int got = 0, rc = SHMQ_EMPTY;
    if (self->closed) return SHMQ_CONSUMER_CLOSED;
    if (self->unsettled >= self->max_unsettled) return SHMQ_CONSUMER_LIMIT;
    if ((uint64_t)n > self->max_unsettled - self->unsettled) n = (Py_ssize_t)(self->max_unsettled - self->unsettled);
    while (got < n) {
        uint32_t want = n - got < SHMQ_CHUNK ? (uint32_t)(n - got) : SHMQ_CHUNK, k = 0;
        bool from_ahead = self->mode != SHMQ_ACK_NONE && self->n;
        if (self->mode == SHMQ_ACK_NONE) {
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
        if (self->mode == SHMQ_ACK_NONE && k) (void)shmq_ack(self->ctx, d, k);
        if (PyErr_Occurred()) {
            for (; k < (uint32_t)rc; k++) (void)shmq_release(self->ctx, &d[k]);
            return RAISED;
        }
        got += rc;
        if (!from_ahead && (uint32_t)rc < want) break;
    }
    return got ? got : rc;
}

static PyObject *consumer_get_many_inside(ConsumerObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames) {
    uint64_t deadline = 0;
    unsigned long thread = 0;
    bool last = false;
    if (!self->client) return PyErr_Format(PyExc_TypeError, "ConsumerBase: __init__ was not called");
    if (get_arguments((PyObject *)self, args, n, kwnames, 1, &deadline) < 0) return NULL;
    Py_ssize_t max_n = PyNumber_AsSsize_t(args[0], PyExc_OverflowError);
    if (max_n == -1 && PyErr_Occurred()) return NULL;
    if (max_n < 1)
        return PyErr_Format(PyExc_ValueError, "max_n: found %zd, expected 1 or more; say how many deliveries you want at most", max_n);
    if (self->mode == SHMQ_ACK_AUTO) {
        thread = PyThread_get_thread_ident();
        if (self->unsettled) settle_mine(self, thread, -1, SHMQ_ACK, 0, NULL, 0);
    }
    PyObject *list = PyList_New(0);
    if (!list) return NULL;
    for (;;) {
        int rc = take_many(self, list, max_n, thread);
        if (rc > 0) return list;
        if (rc == RAISED || wait_or_recover(self, rc, deadline, false, &last) <= 0) break;
    }
    Py_DECREF(list);
    return NULL;
}
UNDER_LOCK(self, consumer_get_many, (ConsumerObject * self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames),
           (self, args, n, kwnames))

/* _poll(thread, looped) -> Delivery, or None when there is nothing now: the get of asyncio, where a task is a thread. */
static PyObject *consumer_poll_inside(ConsumerObject *self, PyObject *args) {
    unsigned long thread;
    int looped;
    if (!PyArg_ParseTuple(args, "kp", &thread, &looped)) return NULL;
    if (!self->client) return PyErr_Format(PyExc_TypeError, "ConsumerBase: __init__ was not called");
    DeliveryObject *o = delivery_new(self);
    if (!o) return NULL;
    for (;;) {
        int rc = take_into(self, o, thread, looped);
        if (rc > 0) return (PyObject *)o;
        if (rc == SHMQ_EMPTY) {
            Py_DECREF(o);
            Py_RETURN_NONE;
        }
        if (rc == RAISED || recover(self, rc, 1) < 0) break;
    }
    Py_DECREF(o);
    return NULL;
}
UNDER_LOCK(self, consumer_poll, (ConsumerObject * self, PyObject *args), (self, args))

/* ---- Consumer: settling many ----------------------------------------------------------------------------------------- */

typedef struct {
    shmq_delivery d[SHMQ_CHUNK];
    DeliveryObject *o[SHMQ_CHUNK];
    uint32_t n;
    Py_ssize_t acked, stale;
} ack_batch;

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

/* One that does not go with the others. Under its consumer's lock, which it may have waited for. */
static int ack_one(DeliveryObject *o) {
    return o->l.state == LIVE ? lease_settle(o->consumer, o->ctx, &o->l, SHMQ_ACK, 0, NULL, 0) : SHMQ_STALE;
}

static PyObject *consumer_ack_many_inside(ConsumerObject *self, PyObject *deliveries) {
    ack_batch b;
    int rc = 0;
    b.n = 0;
    b.acked = b.stale = 0;
#ifdef Py_GIL_DISABLED   /* another thread may change a list */
    PyObject *all = PySequence_Tuple(deliveries);
#else
    PyObject *all = PySequence_Fast(deliveries, "ack_many: expected a list of deliveries");
#endif
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
            LOCKED(o->consumer, rc = ack_one(o));
            if (rc >= 0) b.acked++;
            else if (rc == SHMQ_STALE) rc = 0, b.stale++;
        } else {
            b.d[b.n] = o->l.d;
            b.o[b.n++] = o;
            o->l.state = PENDING;
            if (b.n == SHMQ_CHUNK) rc = ack_flush(self, &b);
        }
    }
    int flushed = ack_flush(self, &b);
    Py_DECREF(all);
    if (rc >= 0) rc = flushed;
    if (rc >= 0 && !b.stale) return PyLong_FromSsize_t(b.acked);
    PyObject *code = PyLong_FromLong(rc < 0 ? rc : SHMQ_STALE), *acked = PyLong_FromSsize_t(b.acked), *stale = PyLong_FromSsize_t(b.stale),
             *result = NULL;
    if (code && acked && stale) result = PyObject_CallMethodObjArgs((PyObject *)self, str.ack_many_failed, code, acked, stale, NULL);
    Py_XDECREF(code);
    Py_XDECREF(acked);
    Py_XDECREF(stale);
    return result;
}
UNDER_LOCK(self, consumer_ack_many, (ConsumerObject * self, PyObject *deliveries), (self, deliveries))

static PyObject *consumer_self(PyObject *self) { return Py_NewRef(self); }
static int consumer_traverse(ConsumerObject *self, visitproc visit, void *arg) {
    Py_VISIT(self->client);
    Py_VISIT(self->type);
    Py_VISIT(self->empty);
    return 0;
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
static PyObject *consumer_ctx(ConsumerObject *self, void *unused) {
    (void)unused;
    return PyLong_FromVoidPtr(self->ctx);
}
static PyObject *consumer_closed(ConsumerObject *self, void *unused) {
    (void)unused;
    return PyBool_FromLong(self->closed);
}

static PyMethodDef consumer_methods[] = {
    { "get", (PyCFunction)(void (*)(void))consumer_get, METH_FASTCALL | METH_KEYWORDS, DOC_ConsumerBase_get },
    { "get_many", (PyCFunction)(void (*)(void))consumer_get_many, METH_FASTCALL | METH_KEYWORDS, DOC_ConsumerBase_get_many },
    { "ack_many", (PyCFunction)consumer_ack_many, METH_O, DOC_ConsumerBase_ack_many },
    { "_poll", (PyCFunction)consumer_poll, METH_VARARGS, NULL },
    { "_settle_mine", (PyCFunction)consumer_settle_mine, METH_VARARGS, NULL },
    { "_close", (PyCFunction)consumer_close, METH_NOARGS, NULL },
    { "_bind", (PyCFunction)consumer_bind, METH_VARARGS, NULL },
    { NULL, NULL, 0, NULL },
};
static PyGetSetDef consumer_getset[] = {
    { "_ctx", (getter)consumer_ctx, NULL, NULL, NULL },
    { "closed", (getter)consumer_closed, NULL, DOC_ConsumerBase_closed, NULL },
    { NULL, NULL, NULL, NULL, NULL },
};
static PyMemberDef consumer_members[] = {
    { "_qref", T_ULONGLONG, offsetof(ConsumerObject, qref), READONLY, NULL },
    { "_client", T_OBJECT, offsetof(ConsumerObject, client), READONLY, NULL },
    { "_empty", T_OBJECT, offsetof(ConsumerObject, empty), 0, NULL },
    { "_mode", T_INT, offsetof(ConsumerObject, mode), READONLY, NULL },
    { "unsettled", T_ULONGLONG, offsetof(ConsumerObject, unsettled), READONLY, DOC_ConsumerBase_unsettled },
    { "_read_ahead", T_UINT, offsetof(ConsumerObject, n), READONLY, NULL },
    { NULL, 0, 0, 0, NULL },
};

PyTypeObject ConsumerType = {
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
