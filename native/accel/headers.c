/* headers.c: the headers of a delivery, decoded.
 *
 * Anything that the encoder (fields.c, shmq/message.py) does not write is left to Python, which says what is wrong.
 *
 * The same few names come with message after message: their strings are kept, up to NAMES of them, with the hash that a dict
 * wants already worked out. Which one is thrown out is left to chance: the next one of its place.
 */
#include "accel.h"

#define NAMES 64
#define NAME_MOST 32

typedef struct {
    const uint8_t *at, *end;
} decoder;

static const char *field_get_bytes(decoder *d, Py_ssize_t *n) {   /* NULL: nothing that the encoder writes */
    uint64_t size = 0;
    for (unsigned shift = 0;; shift += 7) {
        if (d->at == d->end || shift > 28) return NULL;
        size |= (uint64_t)(*d->at & 0x7f) << shift;
        if (*d->at++ < 0x80) break;
    }
    if (size > (uint64_t)(d->end - d->at)) return NULL;
    *n = (Py_ssize_t)size;
    d->at += size;
    return (const char *)d->at - size;
}

static PyObject *field_get_text(decoder *d, bool text) {
    Py_ssize_t n;
    const char *data = field_get_bytes(d, &n);
    if (!data) return NULL;
    return text ? PyUnicode_DecodeUTF8(data, n, "surrogatepass") : PyBytes_FromStringAndSize(data, n);
}

static PyObject *kept_names[NAMES];   /* ASCII all */

/* A header's name. */
static PyObject *field_get_name(decoder *d) {
    Py_ssize_t n;
    const char *data = field_get_bytes(d, &n);
    if (!data) return NULL;
    if (!SHARED_CACHES || n == 0 || n > NAME_MOST) return PyUnicode_DecodeUTF8(data, n, "surrogatepass");
    uint64_t first = 0, last = 0;
    memcpy(&first, data, n < 8 ? (size_t)n : 8);
    memcpy(&last, data + (n < 8 ? 0 : n - 8), n < 8 ? (size_t)n : 8);
    PyObject **place = &kept_names[((first ^ last * 31 ^ (uint64_t)n) * UINT64_C(0x9e3779b97f4a7c15)) >> 58];
    if (*place && PyUnicode_GET_LENGTH(*place) == n && memcmp(PyUnicode_1BYTE_DATA(*place), data, (size_t)n) == 0) return Py_NewRef(*place);
    PyObject *name = PyUnicode_DecodeUTF8(data, n, "surrogatepass");
    if (name && PyUnicode_IS_COMPACT_ASCII(name)) Py_XSETREF(*place, Py_NewRef(name));
    return name;
}

static PyObject *field_get_int(decoder *d) {
    Py_ssize_t n;
    const char *data = field_get_bytes(d, &n);
    if (!data || n < 1 || n > 8) return NULL;
    unsigned long long v = (signed char)data[n - 1] < 0 ? ~0ull : 0;
    for (Py_ssize_t i = n; i-- > 0;) v = v << 8 | (unsigned char)data[i];
    return PyLong_FromLongLong((long long)v);
}

static PyObject *field_get_value(decoder *d, uint8_t kind) {
    double x;
    switch (kind) {
    case 0: return Py_NewRef(Py_None);
    case 1: return Py_NewRef(Py_False);
    case 2: return Py_NewRef(Py_True);
    case 3: return field_get_int(d);
    case 4:
        if (d->end - d->at < 8 || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__) return NULL;
        memcpy(&x, d->at, 8);
        d->at += 8;
        return PyFloat_FromDouble(x);
    case 5:
    case 7:
    case 8: return field_get_text(d, true);
    case 6:
    case 9:
    case 10: return field_get_text(d, false);
    default: return NULL;
    }
}

/* Headers into a dict; the key and the id, where they are asked for. */
static bool headers_get(decoder d, PyObject *headers, PyObject **key, PyObject **dedup) {
    while (d.at < d.end) {
        uint8_t kind = *d.at++;
        PyObject *name = field_get_name(&d), *value = NULL;
        Py_ssize_t n;
        bool sound = name != NULL;
        if (sound && kind > 6 && !key) sound = kind < 11 && field_get_bytes(&d, &n) != NULL;
        else if (sound) {
            value = field_get_value(&d, kind);
            sound = value != NULL;
            if (sound && kind < 7) sound = PyDict_SetItem(headers, name, value) == 0;
            else if (sound) Py_XSETREF(*(kind & 1 ? dedup : key), Py_NewRef(value));
        }
        Py_XDECREF(name);
        Py_XDECREF(value);
        if (!sound) return false;
    }
    return true;
}

/* decode_headers(bytes) -> (headers, key or None, dedup_id or None); None: let Python decode it, or say what is wrong */
PyObject *decode_fields(PyObject *module, PyObject *blob) {
    (void)module;
    if (!PyBytes_CheckExact(blob)) Py_RETURN_NONE;
    const uint8_t *at = (const uint8_t *)PyBytes_AS_STRING(blob);
    PyObject *headers = PyDict_New(), *key = Py_NewRef(Py_None), *dedup = Py_NewRef(Py_None), *result = NULL;
    if (headers && headers_get((decoder){ at, at + PyBytes_GET_SIZE(blob) }, headers, &key, &dedup))
        result = PyTuple_Pack(3, headers, key, dedup);
    else if (!PyErr_Occurred() || !PyErr_ExceptionMatches(PyExc_MemoryError)) {
        PyErr_Clear();
        result = Py_NewRef(Py_None);
    }
    Py_XDECREF(headers);
    Py_DECREF(key);
    Py_DECREF(dedup);
    return result;
}

/* Of a delivery that is nobody's error: those it was published with. Else, and where there is something wrong: Python's. */
PyObject *delivery_headers_inside(DeliveryObject *self, void *unused) {
    (void)unused;
    if (!self->extra && !self->l.d.reason) {
        PyObject *headers = PyDict_New();
        if (!headers) return NULL;
        const uint8_t *at = self->meta ? (const uint8_t *)PyBytes_AS_STRING(self->meta) : self->small;
        Py_ssize_t n = self->meta ? PyBytes_GET_SIZE(self->meta) : self->small_size;
        if (headers_get((decoder){ at, at + n }, headers, NULL, NULL)) return headers;
        Py_DECREF(headers);
        PyErr_Clear();
    }
    return PyObject_CallMethodNoArgs((PyObject *)self, str.headers_slow);
}
