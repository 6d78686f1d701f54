/* What the files of the binding share. The only folder that knows Python.h.
 *
 * A binding function has five steps: parse the arguments, validate them, release the GIL around one call
 * into the core, turn its status into an exception, wrap the result.
 */
#ifndef CLIPC_PYTHON_BINDING_H
#define CLIPC_PYTHON_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define PY_ARRAY_UNIQUE_SYMBOL clipc_numpy_api
#if !defined(CLIPC_IMPORT_NUMPY)
#define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>

#include "core/status.h"
#include "core/workspace.h"
#include "model/loader.h"

typedef struct {
    PyObject *image_error;   /* clipc.errors.ImageError */
    PyObject *weights_error; /* clipc.errors.WeightsError */
    PyObject *model_type;    /* clipc._core.Model */
} clipc_module_state;

/* Sets the exception that belongs to `status`, with the text of `message`, and returns NULL. When a
 * Python exception is already set (a callback raised it), that one stays. `module` is clipc._core. */
PyObject *clipc_raise(PyObject *module, clipc_status status, const clipc_message *message);

/* The n outputs of a call, one alone or several as a tuple, or NULL with the exception of `status`, or with
 * the one that is set already. The references in `outputs` are taken over. */
PyObject *clipc_take_outputs(PyObject *module, clipc_status status, const clipc_message *message,
                             PyObject **outputs, size_t n);

/* Prepares `workspace` for a call made without the GIL: it polls for signals (Ctrl-C) a few times a
 * second. The state must live as long as the call. */
typedef struct {
    double next_check; /* seconds on the monotonic clock */
} clipc_signal_poll;
void clipc_poll_signals(clipc_workspace *workspace, clipc_signal_poll *poll);

/* A new reference to `object` as a C-contiguous, aligned array of exactly this type and rank; sizes < 0
 * are free. Else NULL with TypeError or ValueError that names the argument. */
PyArrayObject *clipc_require_array(PyObject *object, const char *argument, int type, int rank,
                                   const npy_intp *shape);

/* *view: the tensor `name` as the loader reads it, float32, float16 or uint16 (the bits of bfloat16);
 * *array: a new reference to the array that *view points into. On failure *array is NULL, and either a
 * Python exception is set or `message` is written. */
clipc_status clipc_view_array(clipc_tensor_view *view, PyArrayObject **array, PyObject *object,
                              const char *name, clipc_message *message);

/* Method tables, added to the module one by one; each lies in the file that implements it. */
extern PyMethodDef clipc_image_methods[];
extern PyMethodDef clipc_detection_methods[];
extern PyMethodDef clipc_op_methods[];
extern PyMethodDef clipc_backward_op_methods[];

/* Adds the type clipc._core.Model. */
int clipc_add_model_type(PyObject *module);

#endif
