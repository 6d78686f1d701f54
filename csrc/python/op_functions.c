/* Single layers of the core, so that the tests can hold each against an oracle. Not a public interface.
 *
 * Arguments are arrays of float32 without empty dimensions. Outputs and the first 64 KiB of scratch start
 * as NaN: an element that a layer forgets to write, or reads before writing, shows in the result.
 */
#include "python/binding.h"

#include <limits.h>
#include <stdint.h>
#include <string.h>

#include "core/threads.h"
#include "model/loader.h"
#include "nn/attention.h"
#include "nn/attention_pool.h"
#include "nn/conv2d.h"
#include "nn/layernorm.h"
#include "nn/linear.h"
#include "nn/pooling.h"

#define MAX_INPUTS 16
#define MAX_OUTPUTS 3
#define MAX_MARKS 32
#define POISON_FLOATS ((size_t)1 << 14)

/* ---- what all of them share ------------------------------------------------------------------------ */

/* One call of an op function, from op_begin to op_end. */
typedef struct {
    PyObject *module;
    clipc_workspace workspace;
    PyArrayObject *inputs[MAX_INPUTS]; /* owned until op_end */
    size_t n_inputs;
    PyObject *outputs[MAX_OUTPUTS]; /* owned until op_end hands them out */
    size_t n_outputs;
} op_call;

static void op_begin(op_call *call, PyObject *module)
{
    call->module = module;
    call->n_inputs = 0;
    call->n_outputs = 0;
    clipc_workspace_init(&call->workspace);
    /* Where even this is too much, the layer's own request fails and says so. */
    clipc_arena *arena = &call->workspace.arena;
    const clipc_arena_mark mark = clipc_arena_get_mark(arena);
    float *poison = clipc_arena_alloc(arena, POISON_FLOATS, sizeof *poison);
    if (poison != NULL) {
        memset(poison, 0xFF, POISON_FLOATS * sizeof *poison);
    }
    clipc_arena_release(arena, mark);
}

/* The result: the output, a tuple of several, or NULL with the exception of `status` or the one that is
 * set already. */
static PyObject *op_end(op_call *call, clipc_status status)
{
    PyObject *result = NULL;
    clipc_workspace_free(&call->workspace);
    for (size_t i = 0; i < call->n_inputs; i++) {
        Py_DECREF(call->inputs[i]);
    }
    if (status != CLIPC_OK) {
        clipc_raise(call->module, status, &call->workspace.message);
    } else if (call->n_outputs == 1) {
        result = Py_NewRef(call->outputs[0]);
    } else {
        result = PyTuple_New((Py_ssize_t)call->n_outputs);
        for (size_t i = 0; result != NULL && i < call->n_outputs; i++) {
            PyTuple_SET_ITEM(result, (Py_ssize_t)i, Py_NewRef(call->outputs[i]));
        }
    }
    for (size_t i = 0; i < call->n_outputs; i++) {
        Py_DECREF(call->outputs[i]);
    }
    return result;
}

/* op_end for an exception that the validation has set. */
static PyObject *op_refuse(op_call *call)
{
    return op_end(call, CLIPC_ERROR_VALUE);
}

/* The checked array, owned by the call; NULL with an exception. `shape`: expected sizes, < 0 for any;
 * becomes the shape that was found. */
static PyArrayObject *take_array(op_call *call, PyObject *object, const char *argument, int type, int rank,
                                 npy_intp *shape)
{
    PyArrayObject *array = clipc_require_array(object, argument, type, rank, shape);
    if (array == NULL) {
        return NULL;
    }
    call->inputs[call->n_inputs++] = array;
    for (int i = 0; i < rank; i++) {
        shape[i] = PyArray_DIM(array, i);
        if (shape[i] < 1 || shape[i] > INT_MAX) {
            PyErr_Format(PyExc_ValueError, "%s: expected sizes of 1 to %d, got %zd", argument, INT_MAX,
                         (Py_ssize_t)shape[i]);
            return NULL;
        }
    }
    return array;
}

static bool take_floats(op_call *call, const float **data, PyObject *object, const char *argument, int rank,
                        npy_intp *shape)
{
    PyArrayObject *array = take_array(call, object, argument, NPY_FLOAT32, rank, shape);
    *data = array ? PyArray_DATA(array) : NULL;
    return array != NULL;
}

/* The same for an argument that may be None. */
static bool take_optional_floats(op_call *call, const float **data, PyObject *object, const char *argument,
                                 int rank, npy_intp *shape)
{
    *data = NULL;
    return object == Py_None || take_floats(call, data, object, argument, rank, shape);
}

/* A matrix whose rows may lie apart, such as wide[:, :n]; *stride: from row to row, in floats. */
static bool take_rows(op_call *call, const float **data, size_t *stride, PyObject *object,
                      const char *argument, npy_intp shape[2])
{
    if (!take_floats(call, data, object, argument, 2, shape)) {
        return false;
    }
    PyArrayObject *given = (PyArrayObject *)object;
    const npy_intp item = (npy_intp)sizeof(float), step = PyArray_STRIDE(given, 0);
    *stride = (size_t)shape[1];
    if (PyArray_ISALIGNED(given) && PyArray_ISNOTSWAPPED(given) && PyArray_STRIDE(given, 1) == item &&
        step % item == 0 && step >= shape[1] * item) {
        *data = PyArray_DATA(given); /* kept alive by the arguments of the call */
        *stride = (size_t)(step / item);
    }
    return true;
}

/* A new output full of NaN; NULL with an exception. */
static float *new_output(op_call *call, int rank, const npy_intp *shape)
{
    PyObject *array = PyArray_SimpleNew(rank, shape, NPY_FLOAT32);
    if (array == NULL) {
        return NULL;
    }
    call->outputs[call->n_outputs++] = array;
    float *data = PyArray_DATA((PyArrayObject *)array);
    memset(data, 0xFF, (size_t)PyArray_NBYTES((PyArrayObject *)array));
    return data;
}

/* The output of a layer with a residual. in_place: y starts as a copy of the residual, which then is y. */
static bool new_residual_output(op_call *call, float **y, const float **residual, int in_place, int rank,
                                const npy_intp *shape)
{
    if (in_place && *residual == NULL) {
        PyErr_SetString(PyExc_ValueError, "in_place: expected a residual");
        return false;
    }
    *y = new_output(call, rank, shape);
    if (*y != NULL && in_place) {
        memcpy(*y, *residual, (size_t)PyArray_MultiplyList(shape, rank) * sizeof(float));
        *residual = *y;
    }
    return *y != NULL;
}

static bool check_range(const char *argument, Py_ssize_t value, Py_ssize_t least, Py_ssize_t most)
{
    if (value < least || value > most) {
        PyErr_Format(PyExc_ValueError, "%s: expected %zd to %zd, got %zd", argument, least, most, value);
        return false;
    }
    return true;
}

/* Converter for PyArg_Parse*: the name of an activation. */
static int to_activation(PyObject *object, void *out)
{
    static const struct {
        const char *name;
        clipc_activation activation;
    } choices[] = {
        {"none", CLIPC_ACTIVATION_NONE},
        {"relu", CLIPC_ACTIVATION_RELU},
        {"quick_gelu", CLIPC_ACTIVATION_QUICK_GELU},
        {"gelu", CLIPC_ACTIVATION_GELU},
    };
    for (size_t i = 0; i < sizeof choices / sizeof choices[0]; i++) {
        if (PyUnicode_Check(object) && PyUnicode_CompareWithASCIIString(object, choices[i].name) == 0) {
            *(clipc_activation *)out = choices[i].activation;
            return 1;
        }
    }
    PyErr_Format(PyExc_ValueError, "activation: expected 'none', 'relu', 'quick_gelu' or 'gelu', got %R",
                 object);
    return 0;
}

/* ---- tensors by name, for what only the loader builds ---------------------------------------------- */

typedef struct {
    const char *name;
    clipc_tensor_view view;
} named_tensor;

typedef struct {
    named_tensor tensors[MAX_INPUTS];
    size_t n;
} tensor_table;

static bool add_tensor(op_call *call, tensor_table *table, const char *name, PyObject *object)
{
    named_tensor *tensor = &table->tensors[table->n];
    PyArrayObject *array;
    const clipc_status status =
        clipc_view_array(&tensor->view, &array, object, name, &call->workspace.message);
    if (status != CLIPC_OK) {
        clipc_raise(call->module, status, &call->workspace.message);
        return false;
    }
    call->inputs[call->n_inputs++] = array;
    tensor->name = name;
    table->n++;
    return true;
}

static bool take_tensors(op_call *call, tensor_table *table, PyObject *dict)
{
    PyObject *key, *value;
    Py_ssize_t position = 0;
    table->n = 0;
    while (PyDict_Next(dict, &position, &key, &value)) {
        const char *name = PyUnicode_AsUTF8(key);
        if (name == NULL) {
            return false;
        }
        if (call->n_inputs == MAX_INPUTS) {
            PyErr_Format(PyExc_ValueError, "tensors: expected fewer than %d", MAX_INPUTS);
            return false;
        }
        if (!add_tensor(call, table, name, value)) {
            return false;
        }
    }
    return true;
}

static clipc_status fetch_tensor(void *source, const char *name, clipc_tensor_view *view,
                                 clipc_message *message)
{
    const tensor_table *table = source;
    for (size_t i = 0; i < table->n; i++) {
        if (strcmp(table->tensors[i].name, name) == 0) {
            *view = table->tensors[i].view;
            return CLIPC_OK;
        }
    }
    return clipc_fail(message, CLIPC_ERROR_WEIGHTS, "%s: missing", name);
}

static PyObject *op_convert(PyObject *module, PyObject *argument)
{
    op_call call;
    tensor_table table = {.n = 0};
    npy_intp shape[CLIPC_MAX_RANK];
    op_begin(&call, module);
    clipc_loader loader = {fetch_tensor, &table, &call.workspace.message};
    if (!add_tensor(&call, &table, "tensor", argument)) {
        return op_refuse(&call);
    }
    const clipc_tensor_view *view = &table.tensors[0].view;
    for (int i = 0; i < view->rank; i++) {
        shape[i] = (npy_intp)view->shape[i];
    }
    float *out = new_output(&call, view->rank, shape), *loaded = NULL;
    if (out == NULL) {
        return op_refuse(&call);
    }
    clipc_status status;
    Py_BEGIN_ALLOW_THREADS
    status = clipc_load_floats(&loader, &loaded, "", "tensor", view->rank, view->shape);
    Py_END_ALLOW_THREADS
    if (status == CLIPC_OK) {
        memcpy(out, loaded, (size_t)PyArray_MultiplyList(shape, view->rank) * sizeof *out);
    }
    clipc_aligned_free(loaded);
    return op_end(&call, status);
}

/* ---- matrix products ------------------------------------------------------------------------------- */

typedef struct {
    const float *x, *w, *residual;
    clipc_linear layer; /* its weight is packed for the call; its bias is borrowed */
    clipc_activation activation;
    float *y;
    size_t m, n, k;
} linear_arguments;

static clipc_status run_linear(clipc_workspace *workspace, linear_arguments *a)
{
    CLIPC_TRY(clipc_pack_matrix(&a->layer.weight, a->w, a->n, a->k, &workspace->message));
    clipc_linear_forward(a->y, a->x, a->residual, &a->layer, a->activation, a->m);
    clipc_packed_matrix_free(&a->layer.weight);
    return CLIPC_OK;
}

static PyObject *op_linear(PyObject *module, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"x", "weight", "bias", "residual", "activation", "in_place", NULL};
    PyObject *x, *weight, *bias = Py_None, *residual = Py_None;
    int in_place = 0;
    linear_arguments a = {.activation = CLIPC_ACTIVATION_NONE};
    op_call call;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OO|OO$O&p:op_linear", names, &x, &weight, &bias,
                                     &residual, to_activation, &a.activation, &in_place)) {
        return NULL;
    }
    op_begin(&call, module);
    npy_intp x_shape[2] = {-1, -1}, w_shape[2] = {-1, -1}, y_shape[2];
    const float *bias_data;
    if (!take_floats(&call, &a.x, x, "x", 2, x_shape)) {
        return op_refuse(&call);
    }
    w_shape[1] = x_shape[1];
    if (!take_floats(&call, &a.w, weight, "weight", 2, w_shape)) {
        return op_refuse(&call);
    }
    y_shape[0] = x_shape[0];
    y_shape[1] = w_shape[0];
    if (!take_optional_floats(&call, &bias_data, bias, "bias", 1, &w_shape[0]) ||
        !take_optional_floats(&call, &a.residual, residual, "residual", 2, y_shape) ||
        !new_residual_output(&call, &a.y, &a.residual, in_place, 2, y_shape)) {
        return op_refuse(&call);
    }
    a.layer.bias = (float *)bias_data; /* a layer owns its bias, but only *_free writes there */
    a.m = (size_t)x_shape[0];
    a.n = (size_t)w_shape[0];
    a.k = (size_t)x_shape[1];
    clipc_status status;
    Py_BEGIN_ALLOW_THREADS
    status = run_linear(&call.workspace, &a);
    Py_END_ALLOW_THREADS
    return op_end(&call, status);
}

static clipc_status run_projection(clipc_loader *loader, float *y, const float *x, size_t m, size_t c,
                                   size_t d)
{
    clipc_linear layer = {.bias = NULL};
    CLIPC_TRY(clipc_load_projection(loader, &layer, "projection", c, d));
    clipc_linear_forward(y, x, NULL, &layer, CLIPC_ACTIVATION_NONE, m);
    clipc_linear_free(&layer);
    return CLIPC_OK;
}

static PyObject *op_projection(PyObject *module, PyObject *arguments)
{
    PyObject *x, *projection;
    const float *x_data;
    op_call call;
    tensor_table table = {.n = 0};
    if (!PyArg_ParseTuple(arguments, "OO:op_projection", &x, &projection)) {
        return NULL;
    }
    op_begin(&call, module);
    clipc_loader loader = {fetch_tensor, &table, &call.workspace.message};
    npy_intp x_shape[2] = {-1, -1}, y_shape[2];
    if (!take_floats(&call, &x_data, x, "x", 2, x_shape) ||
        !add_tensor(&call, &table, "projection", projection)) {
        return op_refuse(&call);
    }
    const clipc_tensor_view *view = &table.tensors[0].view;
    if (view->rank != 2 || !check_range("projection", (Py_ssize_t)view->shape[1], 1, INT_MAX)) {
        PyErr_SetString(PyExc_ValueError, "projection: expected two dimensions that are not empty");
        return op_refuse(&call);
    }
    y_shape[0] = x_shape[0];
    y_shape[1] = (npy_intp)view->shape[1];
    float *y = new_output(&call, 2, y_shape);
    if (y == NULL) {
        return op_refuse(&call);
    }
    clipc_status status;
    Py_BEGIN_ALLOW_THREADS
    status = run_projection(&loader, y, x_data, (size_t)x_shape[0], (size_t)x_shape[1], (size_t)y_shape[1]);
    Py_END_ALLOW_THREADS
    return op_end(&call, status);
}

/* The products that attention and convolution are made of. They differ in which of the two operands is
 * packed and which is transposed. */
typedef enum { GEMM_FORWARD, GEMM_ROWS, GEMM_ROWS_TRANSPOSED, GEMM_ABT, GEMM_AB } gemm_kind;

typedef struct {
    gemm_kind kind;
    const float *a, *b, *residual;
    size_t lda, ldb, ldc, ld_residual;
    float *c;
    size_t m;
    npy_intp b_shape[2];
    size_t row0, rows;
    float alpha;
} gemm_arguments;

/* One loop over one task: inside a loop, as in the layers, fork() waits for OpenBLAS to be at rest. */
static void activations_task(void *context, size_t index)
{
    (void)index;
    const gemm_arguments *g = context;
    const size_t rows = (size_t)g->b_shape[0], columns = (size_t)g->b_shape[1];
    if (g->kind == GEMM_ABT) {
        clipc_gemm_abt(g->c, g->ldc, g->a, g->lda, g->b, g->ldb, g->m, rows, columns, g->alpha);
    } else {
        clipc_gemm_ab(g->c, g->ldc, g->a, g->lda, g->b, g->ldb, g->m, columns, rows, 1.0f, false);
    }
}

typedef struct {
    const gemm_arguments *arguments;
    const clipc_packed_matrix *w;
} rows_job;

static void rows_task(void *context, size_t index)
{
    (void)index;
    const rows_job *job = context;
    const gemm_arguments *g = job->arguments;
    if (g->kind == GEMM_ROWS) {
        clipc_gemm_rows(g->c, g->ldc, g->a, g->lda, job->w, g->row0, g->rows, g->m);
    } else {
        clipc_gemm_rows_transposed(g->c, g->ldc, g->a, g->lda, job->w, g->row0, g->rows, g->m);
    }
}

static clipc_status run_gemm(clipc_workspace *workspace, gemm_arguments *g)
{
    if (g->kind == GEMM_ABT || g->kind == GEMM_AB) {
        clipc_parallel_for(1, activations_task, g);
        return CLIPC_OK;
    }
    clipc_packed_matrix w;
    CLIPC_TRY(clipc_pack_matrix(&w, g->b, (size_t)g->b_shape[0], (size_t)g->b_shape[1], &workspace->message));
    if (g->kind == GEMM_FORWARD) {
        const clipc_epilogue epilogue = {NULL, g->residual, g->ld_residual, CLIPC_ACTIVATION_NONE};
        clipc_gemm_forward(g->c, g->ldc, g->a, g->lda, &w, g->m, g->residual ? &epilogue : NULL);
    } else {
        rows_job job = {g, &w};
        clipc_parallel_for(1, rows_task, &job);
    }
    clipc_packed_matrix_free(&w);
    return CLIPC_OK;
}

static PyObject *op_gemm(PyObject *module, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"kind", "a", "b", "residual", "alpha", "row0", "rows", "ldc", NULL};
    static const char *const kinds[] = {"forward", "rows", "rows_transposed", "abt", "ab"};
    const char *kind;
    PyObject *a, *b, *residual = Py_None;
    gemm_arguments g = {.alpha = 1.0f};
    Py_ssize_t row0 = 0, rows = -1, ldc = 0;
    op_call call;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "sOO|$Ofnnn:op_gemm", names, &kind, &a, &b,
                                     &residual, &g.alpha, &row0, &rows, &ldc)) {
        return NULL;
    }
    op_begin(&call, module);
    size_t found = 0;
    while (found < sizeof kinds / sizeof kinds[0] && strcmp(kinds[found], kind) != 0) {
        found++;
    }
    if (found == sizeof kinds / sizeof kinds[0]) {
        PyErr_Format(PyExc_ValueError, "kind: unknown value '%.50s'", kind);
        return op_refuse(&call);
    }
    g.kind = (gemm_kind)found;
    npy_intp a_shape[2] = {-1, -1};
    g.b_shape[0] = g.b_shape[1] = -1;
    const bool packed = g.kind == GEMM_FORWARD || g.kind == GEMM_ROWS || g.kind == GEMM_ROWS_TRANSPOSED;
    if (!take_rows(&call, &g.a, &g.lda, a, "a", a_shape) ||
        !(packed ? take_floats(&call, &g.b, b, "b", 2, g.b_shape)
                 : take_rows(&call, &g.b, &g.ldb, b, "b", g.b_shape))) {
        return op_refuse(&call);
    }
    const npy_intp n_rows = g.b_shape[0], n_columns = g.b_shape[1];
    rows = rows < 0 ? n_rows - row0 : rows;
    if (!check_range("row0", row0, 0, n_rows - 1) || !check_range("rows", rows, 1, n_rows - row0)) {
        return op_refuse(&call);
    }
    const bool sums_over_rows = g.kind == GEMM_ROWS_TRANSPOSED || g.kind == GEMM_AB;
    const npy_intp inner = sums_over_rows ? rows : n_columns, width = sums_over_rows ? n_columns : rows;
    npy_intp c_shape[2] = {a_shape[0], width};
    ldc = ldc == 0 ? width : ldc;
    if (!check_range("columns of a", a_shape[1], inner, inner) || !check_range("ldc", ldc, width, INT_MAX) ||
        (residual != Py_None &&
         !take_rows(&call, &g.residual, &g.ld_residual, residual, "residual", c_shape))) {
        return op_refuse(&call);
    }
    c_shape[1] = ldc;
    g.c = new_output(&call, 2, c_shape);
    if (g.c == NULL) {
        return op_refuse(&call);
    }
    g.m = (size_t)a_shape[0];
    g.ldc = (size_t)ldc;
    g.row0 = (size_t)row0;
    g.rows = (size_t)rows;
    clipc_status status;
    Py_BEGIN_ALLOW_THREADS
    status = run_gemm(&call.workspace, &g);
    Py_END_ALLOW_THREADS
    return op_end(&call, status);
}

/* ---- images ---------------------------------------------------------------------------------------- */

/* y_shape: [B, OH, OW, OC] of a convolution of x: [B, H, W, IC]. */
static bool conv2d_output_shape(npy_intp y_shape[4], const clipc_conv2d *conv, const npy_intp x_shape[4])
{
    const Py_ssize_t least = (Py_ssize_t)conv->kernel - 2 * (Py_ssize_t)conv->padding;
    if (!check_range("height of x", x_shape[1], least, INT_MAX) ||
        !check_range("width of x", x_shape[2], least, INT_MAX)) {
        return false;
    }
    y_shape[0] = x_shape[0];
    y_shape[1] = (npy_intp)clipc_conv2d_output_size(conv, (size_t)x_shape[1]);
    y_shape[2] = (npy_intp)clipc_conv2d_output_size(conv, (size_t)x_shape[2]);
    y_shape[3] = (npy_intp)conv->oc;
    return true;
}

typedef struct {
    clipc_conv2d conv;
    const float *x, *w, *residual;
    npy_intp x_shape[4];
    clipc_activation activation;
    float *y;
} conv2d_arguments;

static clipc_status run_conv2d(clipc_workspace *workspace, const conv2d_arguments *a)
{
    return clipc_conv2d_forward(workspace, a->y, a->x, a->residual, &a->conv, a->activation,
                                (size_t)a->x_shape[0], (size_t)a->x_shape[1], (size_t)a->x_shape[2]);
}

static clipc_status run_packed_conv2d(clipc_workspace *workspace, conv2d_arguments *a)
{
    const size_t k = a->conv.kernel * a->conv.kernel * a->conv.ic;
    CLIPC_TRY(clipc_pack_matrix(&a->conv.weight, a->w, a->conv.oc, k, &workspace->message));
    const clipc_status status = run_conv2d(workspace, a);
    clipc_packed_matrix_free(&a->conv.weight);
    return status;
}

static PyObject *op_conv2d(PyObject *module, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"x",       "weight",     "bias",     "residual", "stride",
                            "padding", "activation", "in_place", NULL};
    PyObject *x, *weight, *bias = Py_None, *residual = Py_None;
    Py_ssize_t stride = 1, padding = 0;
    int in_place = 0;
    conv2d_arguments a = {.activation = CLIPC_ACTIVATION_NONE};
    op_call call;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OO|OO$nnO&p:op_conv2d", names, &x, &weight, &bias,
                                     &residual, &stride, &padding, to_activation, &a.activation, &in_place)) {
        return NULL;
    }
    op_begin(&call, module);
    npy_intp w_shape[4] = {-1, -1, -1, -1}, y_shape[4];
    const float *bias_data;
    memcpy(a.x_shape, w_shape, sizeof w_shape);
    if (!check_range("stride", stride, 1, 1000) || !check_range("padding", padding, 0, 1000) ||
        !take_floats(&call, &a.x, x, "x", 4, a.x_shape)) {
        return op_refuse(&call);
    }
    w_shape[3] = a.x_shape[3];
    if (!take_floats(&call, &a.w, weight, "weight", 4, w_shape) ||
        !check_range("width of the kernel", w_shape[2], w_shape[1], w_shape[1]) ||
        !take_optional_floats(&call, &bias_data, bias, "bias", 1, &w_shape[0])) {
        return op_refuse(&call);
    }
    a.conv = (clipc_conv2d){.bias = (float *)bias_data,
                            .ic = (size_t)w_shape[3],
                            .oc = (size_t)w_shape[0],
                            .kernel = (size_t)w_shape[1],
                            .stride = (size_t)stride,
                            .padding = (size_t)padding};
    if (!conv2d_output_shape(y_shape, &a.conv, a.x_shape) ||
        !take_optional_floats(&call, &a.residual, residual, "residual", 4, y_shape) ||
        !new_residual_output(&call, &a.y, &a.residual, in_place, 4, y_shape)) {
        return op_refuse(&call);
    }
    clipc_status status;
    Py_BEGIN_ALLOW_THREADS
    status = run_packed_conv2d(&call.workspace, &a);
    Py_END_ALLOW_THREADS
    return op_end(&call, status);
}

static clipc_status run_conv2d_batchnorm(clipc_workspace *workspace, conv2d_arguments *a,
                                         clipc_loader *loader)
{
    clipc_status status = clipc_load_conv_batchnorm(loader, &a->conv, "conv.", "bn.");
    if (status == CLIPC_OK) {
        status = run_conv2d(workspace, a);
    }
    clipc_conv2d_free(&a->conv);
    return status;
}

static PyObject *op_conv2d_batchnorm(PyObject *module, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"x", "tensors", "oc", "kernel", "stride", NULL};
    PyObject *x, *tensors;
    Py_ssize_t oc, kernel, stride = 1;
    tensor_table table;
    conv2d_arguments a = {.activation = CLIPC_ACTIVATION_NONE, .x_shape = {-1, -1, -1, -1}};
    op_call call;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OO!nn|$n:op_conv2d_batchnorm", names, &x,
                                     &PyDict_Type, &tensors, &oc, &kernel, &stride)) {
        return NULL;
    }
    op_begin(&call, module);
    clipc_loader loader = {fetch_tensor, &table, &call.workspace.message};
    npy_intp y_shape[4];
    if (!check_range("oc", oc, 1, 10000) || !check_range("kernel", kernel, 1, 100) ||
        !check_range("stride", stride, 1, 1000) || !take_floats(&call, &a.x, x, "x", 4, a.x_shape) ||
        !take_tensors(&call, &table, tensors)) {
        return op_refuse(&call);
    }
    a.conv = (clipc_conv2d){.ic = (size_t)a.x_shape[3],
                            .oc = (size_t)oc,
                            .kernel = (size_t)kernel,
                            .stride = (size_t)stride,
                            .padding = (size_t)kernel / 2};
    if (!conv2d_output_shape(y_shape, &a.conv, a.x_shape) ||
        !new_residual_output(&call, &a.y, &a.residual, 0, 4, y_shape)) {
        return op_refuse(&call);
    }
    clipc_status status;
    Py_BEGIN_ALLOW_THREADS
    status = run_conv2d_batchnorm(&call.workspace, &a, &loader);
    Py_END_ALLOW_THREADS
    return op_end(&call, status);
}

static PyObject *op_avg_pool2d(PyObject *module, PyObject *arguments)
{
    PyObject *x;
    Py_ssize_t size;
    const float *x_data;
    op_call call;
    if (!PyArg_ParseTuple(arguments, "On:op_avg_pool2d", &x, &size)) {
        return NULL;
    }
    op_begin(&call, module);
    npy_intp shape[4] = {-1, -1, -1, -1};
    if (!take_floats(&call, &x_data, x, "x", 4, shape) ||
        !check_range("size", size, 1, shape[1] < shape[2] ? shape[1] : shape[2])) {
        return op_refuse(&call);
    }
    const npy_intp y_shape[4] = {shape[0], shape[1] / size, shape[2] / size, shape[3]};
    float *y = new_output(&call, 4, y_shape);
    if (y == NULL) {
        return op_refuse(&call);
    }
    Py_BEGIN_ALLOW_THREADS
    clipc_avg_pool2d_forward(y, x_data, (size_t)size, (size_t)shape[0], (size_t)shape[1], (size_t)shape[2],
                             (size_t)shape[3]);
    Py_END_ALLOW_THREADS
    return op_end(&call, CLIPC_OK);
}

/* ---- attention ------------------------------------------------------------------------------------- */

/* *offsets: [B + 1], in the workspace; the lengths must add up to `rows`. */
static bool take_offsets(op_call *call, size_t **offsets, size_t *b, PyObject *lengths, npy_intp rows)
{
    npy_intp shape[1] = {-1};
    void *memory;
    PyArrayObject *array = take_array(call, lengths, "lengths", NPY_INT64, 1, shape);
    if (array == NULL) {
        return false;
    }
    const clipc_status status =
        clipc_workspace_alloc(&call->workspace, &memory, (size_t)shape[0] + 1, sizeof(size_t));
    if (status != CLIPC_OK) {
        clipc_raise(call->module, status, &call->workspace.message);
        return false;
    }
    const int64_t *values = PyArray_DATA(array);
    npy_intp total = 0;
    *offsets = memory;
    *b = (size_t)shape[0];
    (*offsets)[0] = 0;
    for (npy_intp i = 0; i < shape[0]; i++) {
        if (!check_range("lengths", (Py_ssize_t)values[i], 1, rows - total)) {
            return false;
        }
        total += (npy_intp)values[i];
        (*offsets)[i + 1] = (size_t)total;
    }
    return check_range("sum of lengths", total, rows, rows);
}

static PyObject *op_attention(PyObject *module, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"qkv", "lengths", "heads", "causal", NULL};
    PyObject *qkv, *lengths;
    Py_ssize_t heads;
    int causal = 0;
    const float *qkv_data;
    size_t *offsets, b;
    op_call call;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OOn|p:op_attention", names, &qkv, &lengths, &heads,
                                     &causal)) {
        return NULL;
    }
    op_begin(&call, module);
    npy_intp shape[2] = {-1, -1};
    if (!take_floats(&call, &qkv_data, qkv, "qkv", 2, shape) ||
        !take_offsets(&call, &offsets, &b, lengths, shape[0]) || !check_range("heads", heads, 1, shape[1])) {
        return op_refuse(&call);
    }
    if (shape[1] % (3 * heads) != 0) {
        PyErr_Format(PyExc_ValueError, "qkv: expected a width that is a multiple of 3 * heads, got %zd",
                     (Py_ssize_t)shape[1]);
        return op_refuse(&call);
    }
    const npy_intp out_shape[2] = {shape[0], shape[1] / 3};
    float *out = new_output(&call, 2, out_shape);
    if (out == NULL) {
        return op_refuse(&call);
    }
    clipc_status status;
    Py_BEGIN_ALLOW_THREADS
    status = clipc_attention_forward(&call.workspace, out, qkv_data, offsets, b, (size_t)heads,
                                     (size_t)(out_shape[1] / heads), causal);
    Py_END_ALLOW_THREADS
    return op_end(&call, status);
}

static clipc_status load_attention_pool(clipc_attention_pool *pool, clipc_loader *loader, size_t hw, size_t d)
{
    const size_t c = pool->c, position_shape[2] = {1 + hw, c};
    CLIPC_TRY(clipc_load_floats(loader, &pool->positional_embedding, "", "positional_embedding", 2,
                                position_shape));
    CLIPC_TRY(clipc_load_linear(loader, &pool->q_proj, "q_proj.", c, c));
    CLIPC_TRY(clipc_load_linear(loader, &pool->k_proj, "k_proj.", c, c));
    CLIPC_TRY(clipc_load_linear(loader, &pool->v_proj, "v_proj.", c, c));
    return clipc_load_linear(loader, &pool->c_proj, "c_proj.", d, c);
}

static clipc_status run_attention_pool(clipc_workspace *workspace, float *y, const float *x,
                                       clipc_attention_pool *pool, clipc_loader *loader, size_t hw, size_t b,
                                       size_t d)
{
    clipc_status status = load_attention_pool(pool, loader, hw, d);
    if (status == CLIPC_OK) {
        status = clipc_attention_pool_forward(workspace, y, x, pool, pool->positional_embedding, hw, b, NULL);
    }
    clipc_attention_pool_free(pool);
    return status;
}

static PyObject *op_attention_pool(PyObject *module, PyObject *arguments)
{
    PyObject *x, *tensors;
    Py_ssize_t heads, d;
    const float *x_data;
    tensor_table table;
    op_call call;
    if (!PyArg_ParseTuple(arguments, "OO!nn:op_attention_pool", &x, &PyDict_Type, &tensors, &heads, &d)) {
        return NULL;
    }
    op_begin(&call, module);
    clipc_loader loader = {fetch_tensor, &table, &call.workspace.message};
    npy_intp shape[3] = {-1, -1, -1};
    if (!take_floats(&call, &x_data, x, "x", 3, shape) || !check_range("heads", heads, 1, shape[2]) ||
        !check_range("remainder of channels by heads", shape[2] % heads, 0, 0) ||
        !check_range("d", d, 1, INT_MAX) || !take_tensors(&call, &table, tensors)) {
        return op_refuse(&call);
    }
    const npy_intp y_shape[2] = {shape[0], d};
    float *y = new_output(&call, 2, y_shape);
    if (y == NULL) {
        return op_refuse(&call);
    }
    clipc_attention_pool pool = {.c = (size_t)shape[2], .nh = (size_t)heads};
    clipc_status status;
    Py_BEGIN_ALLOW_THREADS
    status = run_attention_pool(&call.workspace, y, x_data, &pool, &loader, (size_t)shape[1],
                                (size_t)shape[0], (size_t)d);
    Py_END_ALLOW_THREADS
    return op_end(&call, status);
}

/* ---- rows ------------------------------------------------------------------------------------------ */

static PyObject *op_layernorm(PyObject *module, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"x", "weight", "bias", "in_place", NULL};
    PyObject *x, *weight, *bias;
    int in_place = 0;
    const float *x_data, *weight_data, *bias_data;
    float *out, *mean, *rstd;
    op_call call;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OOO|$p:op_layernorm", names, &x, &weight, &bias,
                                     &in_place)) {
        return NULL;
    }
    op_begin(&call, module);
    npy_intp shape[2] = {-1, -1};
    if (!take_floats(&call, &x_data, x, "x", 2, shape) ||
        !take_floats(&call, &weight_data, weight, "weight", 1, &shape[1]) ||
        !take_floats(&call, &bias_data, bias, "bias", 1, &shape[1]) ||
        !new_residual_output(&call, &out, &x_data, in_place, 2, shape) ||
        (mean = new_output(&call, 1, shape)) == NULL || (rstd = new_output(&call, 1, shape)) == NULL) {
        return op_refuse(&call);
    }
    const clipc_layernorm layer = {(float *)weight_data, (float *)bias_data, (size_t)shape[1]};
    Py_BEGIN_ALLOW_THREADS
    clipc_layernorm_forward(out, mean, rstd, x_data, &layer, (size_t)shape[0]);
    Py_END_ALLOW_THREADS
    return op_end(&call, CLIPC_OK);
}

static PyObject *op_softmax(PyObject *module, PyObject *argument)
{
    const float *x_data;
    float *y;
    op_call call;
    op_begin(&call, module);
    npy_intp shape[2] = {-1, -1};
    if (!take_floats(&call, &x_data, argument, "x", 2, shape) ||
        !new_residual_output(&call, &y, &x_data, 1, 2, shape)) {
        return op_refuse(&call);
    }
    Py_BEGIN_ALLOW_THREADS
    for (npy_intp row = 0; row < shape[0]; row++) {
        clipc_elementwise()->softmax(y + row * shape[1], (size_t)shape[1]);
    }
    Py_END_ALLOW_THREADS
    return op_end(&call, CLIPC_OK);
}

static PyObject *op_epilogue(PyObject *module, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"x", "activation", "bias", "residual", NULL};
    PyObject *x, *bias = Py_None, *residual = Py_None;
    clipc_activation activation = CLIPC_ACTIVATION_NONE;
    const float *x_data, *bias_data, *residual_data;
    float *y;
    op_call call;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O|O&OO:op_epilogue", names, &x, to_activation,
                                     &activation, &bias, &residual)) {
        return NULL;
    }
    op_begin(&call, module);
    npy_intp shape[2] = {-1, -1};
    if (!take_floats(&call, &x_data, x, "x", 2, shape) ||
        !take_optional_floats(&call, &bias_data, bias, "bias", 1, &shape[1]) ||
        !take_optional_floats(&call, &residual_data, residual, "residual", 2, shape) ||
        !new_residual_output(&call, &y, &x_data, 1, 2, shape)) {
        return op_refuse(&call);
    }
    Py_BEGIN_ALLOW_THREADS
    for (npy_intp row = 0; row < shape[0]; row++) {
        clipc_elementwise()->epilogue(y + row * shape[1], bias_data,
                                      residual_data ? residual_data + row * shape[1] : NULL, activation,
                                      (size_t)shape[1]);
    }
    Py_END_ALLOW_THREADS
    return op_end(&call, CLIPC_OK);
}

/* ---- threads and memory ---------------------------------------------------------------------------- */

typedef struct {
    float *counts; /* [n_tasks, n_nested] */
    size_t n_nested;
} counting_job;

static void nested_counting_task(void *context, size_t index)
{
    float *counts = context;
    counts[index] += 1.0f;
}

static void counting_task(void *context, size_t index)
{
    const counting_job *job = context;
    clipc_parallel_for(job->n_nested, nested_counting_task, job->counts + index * job->n_nested);
}

static PyObject *op_parallel_for(PyObject *module, PyObject *arguments)
{
    Py_ssize_t n_tasks, n_nested, rounds;
    op_call call;
    if (!PyArg_ParseTuple(arguments, "nnn:op_parallel_for", &n_tasks, &n_nested, &rounds)) {
        return NULL;
    }
    op_begin(&call, module);
    if (!check_range("n_tasks", n_tasks, 0, 1000000) || !check_range("n_nested", n_nested, 0, 1000) ||
        !check_range("rounds", rounds, 0, 1000000)) {
        return op_refuse(&call);
    }
    const npy_intp shape[2] = {n_tasks, n_nested};
    counting_job job = {new_output(&call, 2, shape), (size_t)n_nested};
    if (job.counts == NULL) {
        return op_refuse(&call);
    }
    memset(job.counts, 0, (size_t)(n_tasks * n_nested) * sizeof *job.counts);
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < rounds; i++) {
        clipc_parallel_for((size_t)n_tasks, counting_task, &job);
    }
    Py_END_ALLOW_THREADS
    return op_end(&call, CLIPC_OK);
}

/* One step of op_arena: a mark is set (-1) or returned to (-2), or a block allocated and overwritten. */
static bool arena_step(op_call *call, clipc_arena_mark *marks, size_t *n_marks, PyObject *addresses,
                       Py_ssize_t step)
{
    clipc_arena *arena = &call->workspace.arena;
    if (step == -1 && *n_marks < MAX_MARKS) {
        marks[(*n_marks)++] = clipc_arena_get_mark(arena);
        return true;
    }
    if (step == -2 && *n_marks > 0) {
        clipc_arena_release(arena, marks[--*n_marks]);
        return true;
    }
    if (!check_range("step", step, 0, PY_SSIZE_T_MAX)) {
        return false;
    }
    void *block;
    const clipc_status status = clipc_workspace_alloc(&call->workspace, &block, (size_t)step, sizeof(float));
    if (status != CLIPC_OK) {
        clipc_raise(call->module, status, &call->workspace.message);
        return false;
    }
    memset(block, 0xFF, (size_t)step * sizeof(float));
    PyObject *address = PyLong_FromVoidPtr(block);
    const bool appended = address != NULL && PyList_Append(addresses, address) == 0;
    Py_XDECREF(address);
    return appended;
}

static PyObject *op_arena(PyObject *module, PyObject *argument)
{
    clipc_arena_mark marks[MAX_MARKS];
    size_t n_marks = 0;
    op_call call;
    if (!PyList_Check(argument)) {
        return PyErr_Format(PyExc_TypeError, "steps: expected a list, got %s", Py_TYPE(argument)->tp_name);
    }
    op_begin(&call, module);
    PyObject *addresses = PyList_New(0);
    if (addresses == NULL) {
        return op_refuse(&call);
    }
    call.outputs[call.n_outputs++] = addresses;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(argument); i++) {
        const Py_ssize_t step = PyNumber_AsSsize_t(PyList_GET_ITEM(argument, i), PyExc_OverflowError);
        if (PyErr_Occurred() || !arena_step(&call, marks, &n_marks, addresses, step)) {
            return op_refuse(&call);
        }
    }
    return op_end(&call, CLIPC_OK);
}

#define OP(name, flags, doc) {#name, (PyCFunction)(void (*)(void))name, flags, PyDoc_STR(doc)}
#define KEYWORDS (METH_VARARGS | METH_KEYWORDS)

PyMethodDef clipc_op_methods[] = {
    OP(op_convert, METH_O,
       "op_convert(tensor) -> float32 array\n\nfloat16, float32, or uint16: the bits of bfloat16."),
    OP(op_linear, KEYWORDS,
       "op_linear(x, weight, bias=None, residual=None, *, activation='none', in_place=False) -> y\n\n"
       "x: (M, C), weight: (OC, C), bias: (OC,), residual: (M, OC); in_place: the residual is y itself."),
    OP(op_projection, METH_VARARGS,
       "op_projection(x, projection) -> x @ projection\n\nx: (M, C), projection: (C, D)."),
    OP(op_gemm, KEYWORDS,
       "op_gemm(kind, a, b, *, residual=None, alpha=1.0, row0=0, rows=-1, ldc=0) -> c\n\n"
       "kind 'abt': alpha * a @ b.T, 'ab': a @ b; with b packed 'forward': a @ b.T + residual,\n"
       "'rows': a @ b[row0 : row0 + rows].T, 'rows_transposed': a @ b[row0 : row0 + rows].\n"
       "Rows of a, b (not packed) and residual may lie apart, as those of wide[:, :n]; ldc: columns of c,\n"
       "of which the product takes the first."),
    OP(op_conv2d, KEYWORDS,
       "op_conv2d(x, weight, bias=None, residual=None, *, stride=1, padding=0, activation='none',\n"
       "          in_place=False) -> y\n\n"
       "x: (B, H, W, IC), weight: (OC, KH, KW, IC), bias: (OC,), residual and result: (B, OH, OW, OC)."),
    OP(op_conv2d_batchnorm, KEYWORDS,
       "op_conv2d_batchnorm(x, tensors, oc, kernel, *, stride=1) -> y\n\n"
       "tensors: 'conv.weight' (OC, IC, K, K) and 'bn.' weight, bias, running_mean, running_var;\n"
       "padding K // 2."),
    OP(op_avg_pool2d, METH_VARARGS, "op_avg_pool2d(x, size) -> y\n\nx: (B, H, W, C)."),
    OP(op_attention, KEYWORDS,
       "op_attention(qkv, lengths, heads, causal=False) -> out\n\n"
       "qkv: (M, 3C), lengths: int64 (B,) with sum M, out: (M, C)."),
    OP(op_attention_pool, METH_VARARGS,
       "op_attention_pool(x, tensors, heads, d) -> y\n\n"
       "x: (B, HW, C), y: (B, d); tensors: OpenAI's names, without 'visual.attnpool.'."),
    OP(op_layernorm, KEYWORDS,
       "op_layernorm(x, weight, bias, *, in_place=False) -> (out, mean, rstd)\n\n"
       "x, out: (M, C), mean, rstd: (M,)."),
    OP(op_softmax, METH_O, "op_softmax(x) -> y\n\nOver the rows of x: (M, N)."),
    OP(op_epilogue, KEYWORDS,
       "op_epilogue(x, activation='none', bias=None, residual=None) -> activation(x + bias + residual)\n\n"
       "x, residual: (M, N), bias: (N,)."),
    OP(op_parallel_for, METH_VARARGS,
       "op_parallel_for(n_tasks, n_nested, rounds) -> float32 (n_tasks, n_nested)\n\n"
       "How often each task of a loop inside a loop ran in so many rounds."),
    OP(op_arena, METH_O,
       "op_arena(steps) -> addresses\n\n"
       "steps: a number of floats to allocate, -1 to set a mark, -2 to return to the last one."),
    {NULL, NULL, 0, NULL},
};
