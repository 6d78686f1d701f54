#include "python/binding.h"

#include <time.h>

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

PyObject *clipc_take_outputs(PyObject *module, clipc_status status, const clipc_message *message,
                             PyObject **outputs, size_t n)
{
    PyObject *result = NULL;
    if (status != CLIPC_OK) {
        clipc_raise(module, status, message);
    } else if (n == 1) {
        result = Py_NewRef(outputs[0]);
    } else {
        result = PyTuple_New((Py_ssize_t)n);
        for (size_t i = 0; result != NULL && i < n; i++) {
            PyTuple_SET_ITEM(result, (Py_ssize_t)i, Py_NewRef(outputs[i]));
        }
    }
    for (size_t i = 0; i < n; i++) {
        Py_DECREF(outputs[i]);
    }
    return result;
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
