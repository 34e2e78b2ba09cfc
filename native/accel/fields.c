/* fields.c: the fields of a message of the accelerator: publish(bytes, headers=…, priority=…, …) without Python code.
 *
 * Only the plain cases are done here: exact types, values in range, up to FIELDS_MOST bytes
 * when encoded. Everything else, every error included, is left to Queue._publish_slow, which does the same and says why not. The
 * encoding of headers is shmq/message.py's; tests/unit/test_message.py holds both to each other. headers.c reads it.
 */
#include "accel.h"

#define SECONDS_MOST 3e9     /* below the hundred years that Python checks */

enum field { HEADERS, PRIORITY, TTL, KEY, DEDUP_ID, FIELDS };   /* a delay is compared with the queue's ttl, by Python */
static const char *const FIELD_NAMES[FIELDS] = { "headers", "priority", "ttl", "key", "dedup_id" };
static PyObject *field_names[FIELDS];   /* interned, as keywords of calls are */

bool fields_init(void) {
    for (unsigned i = 0; i < FIELDS; i++)
        if (!(field_names[i] = PyUnicode_InternFromString(FIELD_NAMES[i]))) return false;
    return true;
}

typedef struct {
    uint8_t *at, *end;
} encoder;

static bool field_put_varint(encoder *e, uint64_t n) {
    for (; n > 0x7f; n >>= 7) {
        if (e->at == e->end) return false;
        *e->at++ = (uint8_t)(n | 0x80);
    }
    if (e->at == e->end) return false;
    *e->at++ = (uint8_t)n;
    return true;
}

static bool field_put_bytes(encoder *e, const char *data, Py_ssize_t n) {
    if (!data || !field_put_varint(e, (uint64_t)n) || e->end - e->at < n) return false;
    memcpy(e->at, data, (size_t)n);
    e->at += n;
    return true;
}

static bool field_put_kind(encoder *e, uint8_t kind) {
    if (e->at == e->end) return false;
    *e->at++ = kind;
    return true;
}

/* The bytes of a str (UTF-8, kept with the object) or bytes; false: neither, or not to be had here. */
static bool text_of(PyObject *value, const char **data, Py_ssize_t *n) {
    if (PyBytes_CheckExact(value)) {
        *data = PyBytes_AS_STRING(value);
        *n = PyBytes_GET_SIZE(value);
        return true;
    }
    if (!PyUnicode_CheckExact(value)) return false;
    *data = PyUnicode_AsUTF8AndSize(value, n);
    if (!*data) PyErr_Clear();   /* lone surrogates: Python encodes them */
    return *data != NULL;
}

/* Two's complement in bit_length / 8 + 1 bytes: one and the same number has one encoding only. */
static bool field_put_int(encoder *e, PyObject *value) {
    int overflow;
    long long v = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow) return false;
    unsigned long long size = v < 0 ? 0 - (unsigned long long)v : (unsigned long long)v;
    unsigned bits = size ? 64 - (unsigned)__builtin_clzll(size) : 0, n = bits / 8 + 1;
    if (!field_put_varint(e, n) || e->end - e->at < (Py_ssize_t)n) return false;
    for (unsigned i = 0; i < n; i++) *e->at++ = (uint8_t)(i < 8 ? (unsigned long long)v >> 8 * i : v < 0 ? 0xff : 0);
    return true;
}

static bool field_put_header(encoder *e, PyObject *name, PyObject *value) {
    const char *n, *v = NULL;
    Py_ssize_t n_size, v_size = 0;
    if (!PyUnicode_CheckExact(name) || !text_of(name, &n, &n_size)) return false;
    uint8_t kind;
    if (text_of(value, &v, &v_size)) kind = PyUnicode_CheckExact(value) ? 5 : 6;
    else if (value == Py_None) kind = 0;
    else if (PyBool_Check(value)) kind = value == Py_True ? 2 : 1;
    else if (PyLong_CheckExact(value)) kind = 3;
    else if (PyFloat_CheckExact(value)) kind = 4;
    else return false;
    if (!field_put_kind(e, kind) || !field_put_bytes(e, n, n_size)) return false;
    if (v) return field_put_bytes(e, v, v_size);
    if (kind == 3) return field_put_int(e, value);
    if (kind != 4) return true;
    double d = PyFloat_AS_DOUBLE(value);
    if (e->end - e->at < 8 || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__) return false;
    memcpy(e->at, &d, 8);
    e->at += 8;
    return true;
}

/* Nanoseconds of a plain number of seconds above zero, rounded as round() does; 0: not one. */
static uint64_t plain_seconds(PyObject *value) {
    double s;
    if (PyFloat_CheckExact(value)) s = PyFloat_AS_DOUBLE(value);
    else if (PyLong_CheckExact(value)) {
        s = PyLong_AsDouble(value);
        if (s == -1.0 && PyErr_Occurred()) PyErr_Clear();
    } else return 0;
    return s > 1e-8 && s < SECONDS_MOST ? (uint64_t)llrint(s * 1e9) : 0;
}

/* The id or the key: its bytes. */
static bool own_of(PyObject *value, const void **data, uint32_t *size) {
    const char *text;
    Py_ssize_t n;
    if (!text_of(value, &text, &n) || n > FIELDS_MOST) return false;
    *data = text;
    *size = (uint32_t)n;
    return true;
}

/* It has no name in the encoding: 0 where one would stand. */
static bool field_put_own(encoder *e, PyObject *value, uint8_t kind, const void *data, uint32_t size) {
    return field_put_kind(e, PyUnicode_CheckExact(value) ? kind : kind + 2) && field_put_kind(e, 0) && field_put_bytes(e, data, size);
}

/* The keyword arguments of a publish. false: Python's business. */
bool fields_get(const QueueObject *self, shmq_message *m, uint8_t *buffer, PyObject *const *values, PyObject *kwnames) {
    PyObject *of[FIELDS] = { NULL };
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(kwnames); i++) {
        unsigned f = 0;
        while (f < FIELDS && PyTuple_GET_ITEM(kwnames, i) != field_names[f]) f++;
        if (f == FIELDS) return false;
        if (values[i] != Py_None) of[f] = values[i];
        else if (f == PRIORITY) return false;
    }
    encoder e = { buffer, buffer + FIELDS_MOST };
    if (of[DEDUP_ID]) {
        if (!own_of(of[DEDUP_ID], &m->dedup, &m->dedup_size)) return false;
        if (!self->fans) shmq_publish_soon(self->ctx, self->qref, m);   /* the queue's table is fetched while the rest is encoded */
        if (!field_put_own(&e, of[DEDUP_ID], 7, m->dedup, m->dedup_size)) return false;
    }
    if (of[KEY] && !(own_of(of[KEY], &m->key, &m->key_size) && field_put_own(&e, of[KEY], 8, m->key, m->key_size))) return false;
    if (of[HEADERS]) {
        PyObject *name, *value;
        Py_ssize_t at = 0;
        if (!PyDict_CheckExact(of[HEADERS])) return false;
        while (PyDict_Next(of[HEADERS], &at, &name, &value))
            if (!field_put_header(&e, name, value)) return false;
    }
    if (of[PRIORITY]) {
        long p = PyLong_CheckExact(of[PRIORITY]) ? PyLong_AsLong(of[PRIORITY]) : -1;
        if (p < 0) {
            PyErr_Clear();
            return false;
        }
        if (p >= (long)self->levels) return false;
        m->priority = (uint32_t)p;
    }
    if (of[TTL] && (m->ttl_ns = plain_seconds(of[TTL])) == 0) return false;
    m->meta_size = (uint32_t)(e.at - buffer);
    m->meta = m->meta_size ? buffer : NULL;
    return true;
}
