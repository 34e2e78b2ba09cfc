/* module.c: the module shmq._native._accel.
 *
 * Its types and names are the process's: one interpreter. What objects share (the pool, the kept names of headers) is kept
 * under the GIL only; the rest has locks (accel.h). It says that it uses the GIL all the same: without it, it was never tried.
 */
#include "accel.h"

struct accel_names str;

static bool names_init(void) {
#define ACCEL_NAME(name, text) \
    if (!(str.name = PyUnicode_InternFromString(text))) return false;
    ACCEL_NAMES(ACCEL_NAME)
#undef ACCEL_NAME
    return true;
}

static int module_exec(PyObject *m) {
    if (!names_init() || !fields_init()) return -1;
    if (PyType_Ready(&PayloadType) < 0 || PyType_Ready(&LoanType) < 0) return -1;
    PyTypeObject *types[] = { &SenderType, &QueueType, &ConsumerType, &DeliveryType, &ItemsType };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (PyModule_AddType(m, types[i]) < 0) return -1;
    PyObject *fingerprint = PyLong_FromUnsignedLongLong(shmq_fingerprint());
    int rc = fingerprint ? PyModule_AddObjectRef(m, "fingerprint", fingerprint) : -1;
    Py_XDECREF(fingerprint);
    return rc;
}

static PyMethodDef functions[] = { { "decode_fields", decode_fields, METH_O, NULL }, { NULL, NULL, 0, NULL } };
static PyModuleDef_Slot slots[] = {
    { Py_mod_exec, (void *)(uintptr_t)module_exec },
#if PY_VERSION_HEX >= 0x030C0000
    { Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED },
#endif
#if PY_VERSION_HEX >= 0x030D0000
    { Py_mod_gil, Py_MOD_GIL_USED },
#endif
    { 0, NULL },
};
static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "shmq._native._accel",
    .m_doc = "The hottest calls of shmq over the CPython API.",
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__accel(void);
PyMODINIT_FUNC PyInit__accel(void) { return PyModuleDef_Init(&module); }
