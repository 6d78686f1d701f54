/* The module clipc._core: initialisation and configuration. */
#define CLIPC_IMPORT_NUMPY
#include "python/binding.h"

#include <stdlib.h>

#include "core/cpu.h"
#include "core/threads.h"
#include "kernels/elementwise.h"
#include "kernels/gemm.h"

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
    Py_BEGIN_ALLOW_THREADS
    status = clipc_set_num_threads(n, &message);
    Py_END_ALLOW_THREADS
    if (status != CLIPC_OK) {
        return clipc_raise(module, status, &message);
    }
    Py_RETURN_NONE;
}

static PyObject *build_info(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return Py_BuildValue("{s:s,s:s,s:s,s:s,s:s,s:s,s:s}", "isa", clipc_isa_name(clipc_isa_selected()),
                         "isa_detected", clipc_isa_name(clipc_isa_detect()), "elementwise_kernels",
                         clipc_elementwise()->name, "gemm_kernels", clipc_gemm_kernels_name(), "blas",
                         clipc_gemm_library(), "blas_core", clipc_gemm_core_name(), "compiler",
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
    state->image_error = PyObject_GetAttrString(errors, "ImageError");
    state->weights_error = PyObject_GetAttrString(errors, "WeightsError");
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

    PyMethodDef *const tables[] = {module_methods, clipc_image_methods, clipc_detection_methods,
                                   clipc_op_methods, clipc_backward_op_methods};
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
