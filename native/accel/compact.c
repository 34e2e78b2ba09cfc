/* compact.c: small objects of builtin types as a few bytes, faster than any pickle.
 *
 * shmq/mp/compact.py reads and describes the same bytes:
 *
 *   N None   T True   F False   i int: 8 bytes, little-endian   f float: 8 bytes, IEEE 754
 *   a ASCII, u UTF-8, b bytes: length, bytes      ( tuple, [ list: length, items      { dict: length, key and value in turn
 *   length: one byte below 255, or 255 and four bytes, little-endian
 *
 * Only what arrives exactly as a pickle would bring it: exact types, no container that may be there twice (one that somebody
 * else refers to as well, unless it is a tuple with nothing in it that could change). Everything else is left to pickle.
 */
#include "accel.h"

#define COMPACT_DEPTH 12

static bool compact_length(compact_out *o, uint8_t tag, Py_ssize_t n) {
    if (o->end - o->at < 6) return false;
    *o->at++ = tag;
    if (n < 255) {
        *o->at++ = (uint8_t)n;
        return true;
    }
    uint32_t wide = (uint32_t)n;
    *o->at++ = 255;
    memcpy(o->at, &wide, 4);
    o->at += 4;
    return true;
}

static bool compact_bytes(compact_out *o, uint8_t tag, const void *bytes, Py_ssize_t n) {
    if (n > COMPACT_MOST || !compact_length(o, tag, n) || o->end - o->at < n) return false;
    memcpy(o->at, bytes, (size_t)n);
    o->at += n;
    return true;
}

static bool compact_word(compact_out *o, uint8_t tag, const void *word) {
    if (o->end - o->at < 9) return false;
    *o->at++ = tag;
    memcpy(o->at, word, 8);
    o->at += 8;
    return true;
}

/* shared: inside something that may be there twice. False: not for us, or it does not fit; no exception is set. */
bool compact_put(compact_out *o, PyObject *x, int depth, bool shared) {
    PyTypeObject *type = Py_TYPE(x);
    if (type == &PyUnicode_Type) {
        if (PyUnicode_IS_COMPACT_ASCII(x)) return compact_bytes(o, 'a', PyUnicode_DATA(x), PyUnicode_GET_LENGTH(x));
        Py_ssize_t n;
        const char *text = PyUnicode_GET_LENGTH(x) > COMPACT_MOST ? NULL : PyUnicode_AsUTF8AndSize(x, &n);
        if (!text) {   /* a lone surrogate */
            PyErr_Clear();
            return false;
        }
        return compact_bytes(o, 'u', text, n);
    }
    if (type == &PyLong_Type) {
        int overflow;
        long long n = PyLong_AsLongLongAndOverflow(x, &overflow);
        return !overflow && compact_word(o, 'i', &n);
    }
    if (type == &PyFloat_Type) {
        double f = PyFloat_AS_DOUBLE(x);
        return compact_word(o, 'f', &f);
    }
    if (x == Py_None || x == Py_True || x == Py_False) {
        if (o->at == o->end) return false;
        *o->at++ = x == Py_None ? 'N' : x == Py_True ? 'T' : 'F';
        return true;
    }
    if (type == &PyBytes_Type) return compact_bytes(o, 'b', PyBytes_AS_STRING(x), PyBytes_GET_SIZE(x));
    bool twice = depth > 0 && Py_REFCNT(x) > 1;
    if (depth >= COMPACT_DEPTH) return false;
    if (type == &PyTuple_Type) {
        Py_ssize_t n = PyTuple_GET_SIZE(x);
        if (n > COMPACT_MOST || !compact_length(o, '(', n)) return false;
        for (Py_ssize_t i = 0; i < n; i++)
            if (!compact_put(o, PyTuple_GET_ITEM(x, i), depth + 1, shared || twice)) return false;
        return true;
    }
    if (shared || twice) return false;
    if (type == &PyDict_Type) {
        PyObject *key, *value;
        Py_ssize_t at = 0, n = PyDict_GET_SIZE(x);
        if (n > COMPACT_MOST || !compact_length(o, '{', n)) return false;
        while (PyDict_Next(x, &at, &key, &value))
            if (!compact_put(o, key, depth + 1, false) || !compact_put(o, value, depth + 1, false)) return false;
        return true;
    }
    if (type == &PyList_Type) {
        Py_ssize_t n = PyList_GET_SIZE(x);
        if (n > COMPACT_MOST || !compact_length(o, '[', n)) return false;
        for (Py_ssize_t i = 0; i < n; i++)
            if (!compact_put(o, PyList_GET_ITEM(x, i), depth + 1, false)) return false;
        return true;
    }
    return false;
}

static PyObject *compact_bad(void) {   /* shmq/mp/compact.py says what is wrong: items_decode() asks it */
    PyErr_SetNone(PyExc_ValueError);
    return NULL;
}

/* Each element takes at least one byte, so a length beyond what is left is a lie. */
static Py_ssize_t compact_count(compact_in *in, Py_ssize_t each) {
    if (in->at == in->end) return -1;
    Py_ssize_t n = *in->at++;
    if (n == 255) {
        uint32_t wide;
        if (in->end - in->at < 4) return -1;
        memcpy(&wide, in->at, 4);
        in->at += 4;
        n = (Py_ssize_t)wide;
    }
    return n * each > in->end - in->at ? -1 : n;
}

PyObject *compact_get(compact_in *in, int depth) {
    if (in->at == in->end || depth > COMPACT_DEPTH) return compact_bad();
    uint8_t tag = *in->at++;
    Py_ssize_t n;
    PyObject *x;
    switch (tag) {
    case 'N': Py_RETURN_NONE;
    case 'T': Py_RETURN_TRUE;
    case 'F': Py_RETURN_FALSE;
    case 'i': {
        long long i;
        if (in->end - in->at < 8) return compact_bad();
        memcpy(&i, in->at, 8);
        in->at += 8;
        return PyLong_FromLongLong(i);
    }
    case 'f': {
        double f;
        if (in->end - in->at < 8) return compact_bad();
        memcpy(&f, in->at, 8);
        in->at += 8;
        return PyFloat_FromDouble(f);
    }
    case 'a':
    case 'u':
    case 'b':
        if ((n = compact_count(in, 1)) < 0) return compact_bad();
        in->at += n;
        if (tag == 'b') return PyBytes_FromStringAndSize((const char *)in->at - n, n);
        return PyUnicode_DecodeUTF8((const char *)in->at - n, n, NULL);
    case '(':
        if ((n = compact_count(in, 1)) < 0) return compact_bad();
        x = PyTuple_New(n);
        for (Py_ssize_t i = 0; x && i < n; i++) {
            PyObject *item = compact_get(in, depth + 1);
            if (!item) {
                Py_DECREF(x);
                return NULL;
            }
            PyTuple_SET_ITEM(x, i, item);
        }
        return x;
    case '[':
        if ((n = compact_count(in, 1)) < 0) return compact_bad();
        x = PyList_New(n);
        for (Py_ssize_t i = 0; x && i < n; i++) {
            PyObject *item = compact_get(in, depth + 1);
            if (!item) {
                Py_DECREF(x);
                return NULL;
            }
            PyList_SET_ITEM(x, i, item);
        }
        return x;
    case '{':
        if ((n = compact_count(in, 2)) < 0) return compact_bad();
        x = PyDict_New();
        for (Py_ssize_t i = 0; x && i < n; i++) {
            PyObject *key = compact_get(in, depth + 1), *value = key ? compact_get(in, depth + 1) : NULL;
            int bad = value ? PyDict_SetItem(x, key, value) : -1;
            Py_XDECREF(key);
            Py_XDECREF(value);
            if (bad < 0) {
                Py_DECREF(x);
                return NULL;
            }
        }
        return x;
    default: return compact_bad();
    }
}
