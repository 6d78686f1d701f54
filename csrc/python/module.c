/* The module clipc._core: initialisation, configuration, exceptions. */
#define CLIPC_IMPORT_NUMPY
#include "python/binding.h"

#include <stdlib.h>
#include <time.h>

#include "core/cpu.h"
#include "core/threads.h"
#include "kernels/elementwise.h"
#include "kernels/gemm.h"

PyObject *clipc_raise(PyObject *module, clipc_status status, const clipc_message *message)
{
    const clipc_module_state *state = PyModule_GetState(module);
    PyObject *type = PyExc_RuntimeError;
    if (PyErr_Occurred()) {
        return NULL;
    }
    switch (status) {
    case CLIPC_ERROR_VALUE:
        type = PyExc_ValueError;
        break;
    case CLIPC_ERROR_TYPE:
        type = PyExc_TypeError;
        break;
    case CLIPC_ERROR_MEMORY:
        type = PyExc_MemoryError;
        break;
    case CLIPC_ERROR_IMAGE:
        type = state->image_error;
        break;
    case CLIPC_ERROR_WEIGHTS:
        type = state->weights_error;
        break;
    case CLIPC_INTERRUPTED:
        type = PyExc_KeyboardInterrupt;
        break;
    case CLIPC_OK:
        break;
    }
    PyErr_SetString(type, message->text);
    return NULL;
}

static double monotonic_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static bool signals_pending(void *context)
{
    clipc_signal_poll *poll = context;
    const double now = monotonic_seconds();
    if (now < poll->next_check) {
        return false;
    }
    poll->next_check = now + 0.1;
    const PyGILState_STATE gil = PyGILState_Ensure();
    const bool raised = PyErr_CheckSignals() != 0;
    PyGILState_Release(gil);
    return raised;
}

void clipc_poll_signals(clipc_workspace *workspace, clipc_signal_poll *poll)
{
    poll->next_check = monotonic_seconds() + 0.1;
    workspace->interrupted = signals_pending;
    workspace->interrupted_context = poll;
}

PyArrayObject *clipc_require_array(PyObject *object, const char *argument, int type, int rank,
                                   const npy_intp *shape)
{
    if (!PyArray_Check(object)) {
        PyErr_Format(PyExc_TypeError, "%s: expected a NumPy array, got %s", argument,
                     Py_TYPE(object)->tp_name);
        return NULL;
    }
    PyArrayObject *array = (PyArrayObject *)object;
    if (PyArray_TYPE(array) != type) {
        PyArray_Descr *wanted = PyArray_DescrFromType(type);
        PyErr_Format(PyExc_TypeError, "%s: expected dtype %S, got %S", argument, (PyObject *)wanted,
                     (PyObject *)PyArray_DESCR(array));
        Py_XDECREF(wanted);
        return NULL;
    }
    bool fits = PyArray_NDIM(array) == rank;
    for (int i = 0; fits && i < rank; i++) {
        fits = shape[i] < 0 || PyArray_DIM(array, i) == shape[i];
    }
    if (!fits) {
        PyObject *expected = PyTuple_New(rank);
        PyObject *found = PyObject_GetAttrString(object, "shape");
        for (int i = 0; expected != NULL && i < rank; i++) {
            PyObject *size = shape[i] < 0 ? PyUnicode_FromString("any") : PyLong_FromSsize_t(shape[i]);
            if (size == NULL) {
                Py_CLEAR(expected);
                break;
            }
            PyTuple_SET_ITEM(expected, i, size);
        }
        if (expected != NULL && found != NULL) {
            PyErr_Format(PyExc_ValueError, "%s: expected shape %R, got %R", argument, expected, found);
        }
        Py_XDECREF(expected);
        Py_XDECREF(found);
        return NULL;
    }
    return (PyArrayObject *)PyArray_FROM_OTF(
        object, type, NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED | NPY_ARRAY_NOTSWAPPED);
}

static PyObject *get_num_threads(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyLong_FromLong(clipc_get_num_threads());
}

static PyObject *set_num_threads(PyObject *module, PyObject *argument)
{
    clipc_message message;
    clipc_status status;
    const Py_ssize_t asked = PyNumber_AsSsize_t(argument, NULL); /* clips what is too large */
    if (asked == -1 && PyErr_Occurred()) {
        return NULL;
    }
    const int n = asked > INT_MAX ? INT_MAX : asked < INT_MIN ? INT_MIN : (int)asked;
    Py_BEGIN_ALLOW_THREADS status = clipc_set_num_threads(n, &message);
    Py_END_ALLOW_THREADS if (status != CLIPC_OK)
    {
        return clipc_raise(module, status, &message);
    }
    Py_RETURN_NONE;
}

static PyObject *build_info(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return Py_BuildValue("{s:s,s:s,s:s,s:s,s:s,s:s}", "isa", clipc_isa_name(clipc_isa_selected()),
                         "isa_detected", clipc_isa_name(clipc_isa_detect()), "elementwise_kernels",
                         clipc_elementwise()->name, "blas", clipc_gemm_library(), "blas_core",
                         clipc_gemm_core_name(), "compiler",
#if defined(__VERSION__)
#if defined(__clang__)
                         __VERSION__
#else
                         "GCC " __VERSION__
#endif
#else
                         "unknown"
#endif
    );
}

static PyMethodDef module_methods[] = {
    {"get_num_threads", get_num_threads, METH_NOARGS, PyDoc_STR("get_num_threads() -> int")},
    {"set_num_threads", set_num_threads, METH_O, PyDoc_STR("set_num_threads(n)")},
    {"build_info", build_info, METH_NOARGS,
     PyDoc_STR("build_info() -> dict\n\nInstruction set, kernels, BLAS library and compiler, as strings.")},
    {NULL, NULL, 0, NULL},
};

static PyObject *import_error_class(PyObject *errors, const char *name)
{
    return PyObject_GetAttrString(errors, name);
}

static int module_exec(PyObject *module)
{
    clipc_module_state *state = PyModule_GetState(module);
    clipc_message message;

    if (PyArray_ImportNumPyAPI() < 0) {
        return -1;
    }
    PyObject *errors = PyImport_ImportModule("clipc.errors");
    if (errors == NULL) {
        return -1;
    }
    state->image_error = import_error_class(errors, "ImageError");
    state->weights_error = import_error_class(errors, "WeightsError");
    Py_DECREF(errors);
    if (state->image_error == NULL || state->weights_error == NULL) {
        return -1;
    }
    clipc_status status = clipc_isa_select(getenv("CLIPC_ISA"), &message);
    if (status == CLIPC_OK) {
        status = clipc_threads_init(&message);
    }
    if (status != CLIPC_OK) {
        clipc_raise(module, status, &message);
        return -1;
    }
    clipc_gemm_init();

    PyMethodDef *const tables[] = {module_methods, clipc_image_methods, clipc_op_methods};
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        if (PyModule_AddFunctions(module, tables[i]) < 0) {
            return -1;
        }
    }
    return clipc_add_model_type(module);
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    const clipc_module_state *state = PyModule_GetState(module);
    Py_VISIT(state->image_error);
    Py_VISIT(state->weights_error);
    Py_VISIT(state->model_type);
    return 0;
}

static int module_clear(PyObject *module)
{
    clipc_module_state *state = PyModule_GetState(module);
    Py_CLEAR(state->image_error);
    Py_CLEAR(state->weights_error);
    Py_CLEAR(state->model_type);
    return 0;
}

static void module_free(void *module)
{
    module_clear(module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#if PY_VERSION_HEX >= 0x030C0000
    /* The thread pool and the choice of kernels are one per process, so one interpreter uses them. */
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

static PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "clipc._core",
    .m_doc = PyDoc_STR("The C core of clipc. Use the functions of the package clipc instead."),
    .m_size = sizeof(clipc_module_state),
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__core(void)
{
    return PyModuleDef_Init(&module_definition);
}
