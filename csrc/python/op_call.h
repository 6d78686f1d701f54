/* What the functions that run one layer alone share: op_functions.c, backward_op_functions.c.
 *
 * Arguments are arrays of float32 without empty dimensions. Outputs and the first 64 KiB of scratch start
 * as NaN: an element that a layer forgets to write, or reads before writing, shows in the result.
 *
 * op_take_* and op_new_* give false or NULL with a Python exception; the caller then returns op_refuse().
 */
#ifndef CLIPC_PYTHON_OP_CALL_H
#define CLIPC_PYTHON_OP_CALL_H

#include "python/binding.h"

#include <limits.h>

#include "core/workspace.h"
#include "kernels/elementwise.h"
#include "model/loader.h"
#include "nn/attention_pool.h"
#include "nn/conv2d.h"

#define OP_MAX_INPUTS 16
#define OP_MAX_OUTPUTS 3

/* One call of an op function, from op_begin to op_end. */
typedef struct {
    PyObject *module;
    clipc_workspace workspace;
    PyArrayObject *inputs[OP_MAX_INPUTS]; /* owned until op_end */
    size_t n_inputs;
    PyObject *outputs[OP_MAX_OUTPUTS]; /* owned until op_end hands them out */
    size_t n_outputs;
} op_call;

void op_begin(op_call *call, PyObject *module);

/* The result: the output, a tuple of several, or NULL with the exception of `status` or the one that is
 * set already. */
PyObject *op_end(op_call *call, clipc_status status);

/* op_end for an exception that the validation has set. */
PyObject *op_refuse(op_call *call);

/* Fills the free scratch of the workspace, its first 64 KiB, with NaN. */
void op_poison_scratch(clipc_workspace *workspace);

/* ---- arguments ------------------------------------------------------------------------------------- */

/* The checked array, owned by the call; NULL with an exception. `shape`: expected sizes, < 0 for any;
 * becomes the shape that was found. */
PyArrayObject *op_take_array(op_call *call, PyObject *object, const char *argument, int type, int rank,
                             npy_intp *shape);
bool op_take_floats(op_call *call, const float **data, PyObject *object, const char *argument, int rank,
                    npy_intp *shape);

/* The same for an argument that may be None. */
bool op_take_optional_floats(op_call *call, const float **data, PyObject *object, const char *argument,
                             int rank, npy_intp *shape);

/* A matrix whose rows may lie apart, such as wide[:, :n]; *stride: from row to row, in floats. */
bool op_take_rows(op_call *call, const float **data, size_t *stride, PyObject *object, const char *argument,
                  npy_intp shape[2]);

/* *offsets: [B + 1], in the workspace; the lengths must add up to `rows`. */
bool op_take_offsets(op_call *call, size_t **offsets, size_t *b, PyObject *lengths, npy_intp rows);

/* The sequences that an attention works on. */
typedef struct {
    const float *qkv; /* [M, 3C] */
    npy_intp m, c;
    size_t *offsets; /* [B + 1] */
    size_t b, nh, hs;
} op_sequences;

bool op_take_sequences(op_call *call, op_sequences *sequences, PyObject *qkv, PyObject *lengths,
                       Py_ssize_t heads);

bool op_check_range(const char *argument, Py_ssize_t value, Py_ssize_t least, Py_ssize_t most);

/* Converter for PyArg_Parse*: the name of an activation. */
int op_to_activation(PyObject *object, void *out);

/* *choice: the index of `name` among n names. */
bool op_take_choice(int *choice, const char *argument, const char *name, const char *const *names, size_t n);

/* ---- outputs --------------------------------------------------------------------------------------- */

/* A new output full of NaN; NULL with an exception. */
float *op_new_output(op_call *call, int rank, const npy_intp *shape);

/* The output of a layer with a residual. in_place: y starts as a copy of the residual, which then is y. */
bool op_new_residual_output(op_call *call, float **y, const float **residual, int in_place, int rank,
                            const npy_intp *shape);

/* The output of a layer that can add to what stands there: a copy of `onto`, or where that is None NaN,
 * which is to be overwritten. */
bool op_new_sum_output(op_call *call, float **y, bool *accumulate, PyObject *onto, const char *argument,
                       int rank, npy_intp *shape);

/* y_shape: [B, OH, OW, OC] of a convolution of x: [B, H, W, IC]. */
bool op_conv2d_output_shape(npy_intp y_shape[4], const clipc_conv2d *conv, const npy_intp x_shape[4]);

/* ---- tensors by name, for what only the loader builds ---------------------------------------------- */

typedef struct {
    const char *name;
    clipc_tensor_view view;
} op_named_tensor;

typedef struct {
    op_named_tensor tensors[OP_MAX_INPUTS];
    size_t n;
} op_tensor_table;

bool op_add_tensor(op_call *call, op_tensor_table *table, const char *name, PyObject *object);
bool op_take_tensors(op_call *call, op_tensor_table *table, PyObject *dict);

/* A clipc_loader's function; its source is the table. */
clipc_status op_fetch_tensor(void *source, const char *name, clipc_tensor_view *view, clipc_message *message);

/* pool->c and pool->nh are set; freed with clipc_attention_pool_free, also when this fails. */
clipc_status op_load_attention_pool(clipc_attention_pool *pool, clipc_loader *loader, size_t hw, size_t d);

/* ---- method tables --------------------------------------------------------------------------------- */

#define OP(name, flags, doc) {#name, (PyCFunction)(void (*)(void))name, flags, PyDoc_STR(doc)}
#define KEYWORDS (METH_VARARGS | METH_KEYWORDS)

#endif
