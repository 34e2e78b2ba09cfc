/* loan.c: a loan of the accelerator: memory of a message to be, as a context manager over the buffer protocol.
 *
 * The block is NEW(me) from __enter__ on. `exports` counts who can still write to it:
 * it is published by __exit__ only when nobody can, and freed when the last one is gone otherwise. What is rare (fields, a
 * full queue, a fork) is done by Queue._loan_slow and Queue._loan_wait in Python.
 */
#include "accel.h"

typedef struct {
    PyObject_HEAD
    QueueObject *queue;
    PyObject *view, *inner;      /* weak reference to what __enter__ gave out; the slow loan, where it had to be one */
    shmq_delivery loan;          /* ctl == 0: no block (any more) */
    uint64_t nbytes;
    Py_ssize_t exports;
    int entered, done;           /* done: the block is freed as soon as nobody can write to it */
} LoanObject;

static void loan_abort(LoanObject *self) {
    if (self->loan.ctl && self->queue && self->queue->ctx) shmq_loan_abort(self->queue->ctx, &self->loan);
    self->loan.ctl = 0;
}

static int loan_getbuffer(LoanObject *self, Py_buffer *buffer, int flags) {
    if (!self->loan.ctl || self->done) {
        PyErr_SetString(PyExc_BufferError, "loan: found its block over, expected an open one; call queue.loan() again");
        return -1;
    }
    if (PyBuffer_FillInfo(buffer, (PyObject *)self, (void *)(uintptr_t)self->loan.data, (Py_ssize_t)self->nbytes, 0, flags) < 0) return -1;
    self->exports++;
    return 0;
}

static void loan_releasebuffer(LoanObject *self, Py_buffer *buffer) {
    (void)buffer;
    if (--self->exports == 0 && self->done) loan_abort(self);
}

static PyObject *loan_enter(LoanObject *self, PyObject *unused) {
    (void)unused;
    if (self->entered) {
        PyErr_SetString(PyExc_RuntimeError, "loan: found it entered before, expected a new one; call queue.loan() again");
        return NULL;
    }
    self->entered = 1;
    int rc = self->queue->ctx ? shmq_loan(self->queue->ctx, self->queue->qref, self->nbytes, 0, &self->loan) : SHMQ_E_DETACHED;
    if (rc != SHMQ_OK) {   /* forked, no memory, deleted: Python knows what to do and what to say */
        self->loan.ctl = 0;
        self->inner = PyObject_CallMethod((PyObject *)self->queue, "_loan_slow", "K", (unsigned long long)self->nbytes);
        return self->inner ? PyObject_CallMethod(self->inner, "__enter__", NULL) : NULL;
    }
    PyObject *view = PyMemoryView_FromObject((PyObject *)self);
    self->view = view ? PyWeakref_NewRef(view, NULL) : NULL;   /* weak: the view holds us already */
    if (!self->view) {
        self->done = 1;
        if (view) Py_DECREF(view);   /* the last export frees the block */
        else loan_abort(self);
        return NULL;
    }
    return view;
}

static PyObject *loan_exit(LoanObject *self, PyObject *const *args, Py_ssize_t n) {
    if (n != 3) return PyErr_Format(PyExc_TypeError, "__exit__: found %zd arguments, expected 3", n);
    if (self->inner) return PyObject_CallMethod(self->inner, "__exit__", "OOO", args[0], args[1], args[2]);
    if (!self->view) Py_RETURN_NONE;
    PyObject *view = PyObject_CallNoArgs(self->view);   /* None when nobody kept it */
    Py_CLEAR(self->view);
    if (!view) return NULL;
    if (view != Py_None) {
        PyObject *released = PyObject_CallMethod(view, "release", NULL);
        Py_XDECREF(released);
        if (!released && PyErr_ExceptionMatches(PyExc_BufferError)) PyErr_Clear();   /* an array over it: counted in exports */
        else if (!released) {
            Py_DECREF(view);
            self->done = 1;
            return NULL;
        }
    }
    Py_DECREF(view);
    if (args[0] != Py_None || self->exports) {
        self->done = 1;
        if (!self->exports) loan_abort(self);
        if (args[0] != Py_None) Py_RETURN_NONE;
        return PyObject_CallMethod((PyObject *)self->queue, "_loan_refused", NULL);
    }
    shmq_message m = { .ttl_ns = SHMQ_DELAY_DEFAULT };
    shmq_delivery mine = self->loan;
    self->loan.ctl = 0;   /* from here on it is published, or handed to Python, or freed */
    int rc;
    while ((rc = shmq_loan_publish(self->queue->ctx, self->queue->qref, &mine, &m)) == SHMQ_FULL && self->queue->waits)
        if (!wait_for_room(self->queue)) {
            shmq_loan_abort(self->queue->ctx, &mine);
            return NULL;
        }
    if (rc == SHMQ_OK) Py_RETURN_NONE;
    PyObject *sent = PyObject_CallMethod((PyObject *)self->queue, "_loan_wait", "K", (unsigned long long)(uintptr_t)&mine);
    if (!sent) shmq_loan_abort(self->queue->ctx, &mine);   /* an exception before it knew of the block; else it is over already */
    return sent;
}

static void loan_dealloc(LoanObject *self) {
    loan_abort(self);
    Py_CLEAR(self->view);
    Py_CLEAR(self->inner);
    Py_CLEAR(self->queue);
    PyObject_Free(self);
}

/* queue.loan(nbytes): here for a plain number, in Python for everything else */
PyObject *queue_loan(QueueObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames) {
    if (n == 1 && !kwnames && PyLong_CheckExact(args[0])) {
        unsigned long long nbytes = PyLong_AsUnsignedLongLong(args[0]);
        if (nbytes <= UINT32_MAX) {
            LoanObject *loan = PyObject_New(LoanObject, &LoanType);
            if (!loan) return NULL;
            loan->queue = (QueueObject *)Py_NewRef((PyObject *)self);
            loan->view = loan->inner = NULL;
            loan->loan.ctl = 0;
            loan->nbytes = nbytes;
            loan->exports = 0;
            loan->entered = loan->done = 0;
            return (PyObject *)loan;
        }
        PyErr_Clear();
    }
    return call_slow((PyObject *)self, str.loan_slow, args, n, kwnames);
}

static PyMethodDef loan_methods[] = {
    { "__enter__", (PyCFunction)loan_enter, METH_NOARGS, NULL },
    { "__exit__", (PyCFunction)(void (*)(void))loan_exit, METH_FASTCALL, NULL },
    { NULL, NULL, 0, NULL },
};
static PyBufferProcs loan_buffer = { (getbufferproc)loan_getbuffer, (releasebufferproc)loan_releasebuffer };

PyTypeObject LoanType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "shmq._native._accel.Loan",
    .tp_basicsize = sizeof(LoanObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_dealloc = (destructor)loan_dealloc,
    .tp_methods = loan_methods,
    .tp_as_buffer = &loan_buffer,
    .tp_doc = PyDoc_STR("Memory of a message to be; see Queue.loan."),
};
