/* Single backward passes of the core, and what else explains a score, each alone for the tests. Not a public
 * interface. */
#include "python/op_call.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "model/explanation.h"
#include "model/score.h"
#include "nn/activation.h"
#include "nn/attention.h"
#include "nn/layernorm.h"
#include "nn/linear.h"
#include "nn/pooling.h"
#include "nn/positions.h"

#define N_NAMES(names) (sizeof(names) / sizeof(names)[0])

/* ---- linear ---------------------------------------------------------------------------------------- */

static clipc_status run_linear_backward(clipc_workspace *workspace, float *dx, const float *dy,
                                        const float *w, size_t m, size_t n, size_t k, bool accumulate)
{
    clipc_linear layer = {.bias = NULL};
    CLIPC_TRY(clipc_pack_matrix(&layer.weight, w, n, k, &workspace->message));
    clipc_linear_backward(dx, dy, &layer, m, accumulate);
    clipc_linear_free(&layer);
    return CLIPC_OK;
}

static PyObject *op_linear_backward(PyObject *module, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"dy", "weight", "onto", NULL};
    PyObject *dy, *weight, *onto = Py_None;
    const float *dy_data, *w_data;
    float *dx;
    bool accumulate;
    op_call call;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OO|O:op_linear_backward", names, &dy, &weight,
                                     &onto)) {
        return NULL;
    }
    op_begin(&call, module);
    npy_intp dy_shape[2] = {-1, -1}, w_shape[2], dx_shape[2];
    if (!op_take_floats(&call, &dy_data, dy, "dy", 2, dy_shape)) {
        return op_refuse(&call);
    }
    w_shape[0] = dy_shape[1];
    w_shape[1] = -1;
    if (!op_take_floats(&call, &w_data, weight, "weight", 2, w_shape)) {
        return op_refuse(&call);
    }
    dx_shape[0] = dy_shape[0];
    dx_shape[1] = w_shape[1];
    if (!op_new_sum_output(&call, &dx, &accumulate, onto, "onto", 2, dx_shape)) {
        return op_refuse(&call);
    }
    clipc_status status;
    Py_BEGIN_ALLOW_THREADS
    status = run_linear_backward(&call.workspace, dx, dy_data, w_data, (size_t)dy_shape[0],
                                 (size_t)dy_shape[1], (size_t)w_shape[1], accumulate);
    Py_END_ALLOW_THREADS
    return op_end(&call, status);
}

/* ---- images ---------------------------------------------------------------------------------------- */

typedef struct {
    clipc_conv2d conv;
    const float *dy, *w;
    npy_intp dx_shape[4], dy_shape[4];
    float *dx;
    bool accumulate;
} conv2d_backward_arguments;

/* The image's height and width, then dy and dx. */
static bool take_conv2d_gradients(op_call *call, conv2d_backward_arguments *a, PyObject *dy, PyObject *size,
                                  PyObject *onto)
{
    Py_ssize_t h, w;
    if (!PyArg_ParseTuple(size, "nn;size: expected (height, width)", &h, &w) ||
        !op_check_range("height", h, 1, 100000) || !op_check_range("width", w, 1, 100000)) {
        return false;
    }
    const npy_intp dx_shape[4] = {-1, h, w, (npy_intp)a->conv.ic};
    memcpy(a->dx_shape, dx_shape, sizeof dx_shape);
    if (!op_conv2d_output_shape(a->dy_shape, &a->conv, dx_shape) ||
        !op_take_floats(call, &a->dy, dy, "dy", 4, a->dy_shape)) {
        return false;
    }
    a->dx_shape[0] = a->dy_shape[0];
    return op_new_sum_output(call, &a->dx, &a->accumulate, onto, "onto", 4, a->dx_shape);
}

static clipc_status run_conv2d_backward(clipc_workspace *workspace, const conv2d_backward_arguments *a)
{
    return clipc_conv2d_backward(workspace, a->dx, a->dy, &a->conv, (size_t)a->dx_shape[0],
                                 (size_t)a->dx_shape[1], (size_t)a->dx_shape[2], a->accumulate);
}

static clipc_status run_packed_conv2d_backward(clipc_workspace *workspace, conv2d_backward_arguments *a)
{
    const size_t k = a->conv.kernel * a->conv.kernel * a->conv.ic;
    CLIPC_TRY(clipc_pack_matrix(&a->conv.weight, a->w, a->conv.oc, k, &workspace->message));
    const clipc_status status = run_conv2d_backward(workspace, a);
    clipc_packed_matrix_free(&a->conv.weight);
    return status;
}

static PyObject *op_conv2d_backward(PyObject *module, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"dy", "weight", "size", "onto", "stride", "padding", NULL};
    PyObject *dy, *weight, *size, *onto = Py_None;
    Py_ssize_t stride = 1, padding = 0;
    conv2d_backward_arguments a;
    op_call call;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OOO!|O$nn:op_conv2d_backward", names, &dy, &weight,
                                     &PyTuple_Type, &size, &onto, &stride, &padding)) {
        return NULL;
    }
    op_begin(&call, module);
    npy_intp w_shape[4] = {-1, -1, -1, -1};
    if (!op_check_range("stride", stride, 1, 1000) || !op_check_range("padding", padding, 0, 1000) ||
        !op_take_floats(&call, &a.w, weight, "weight", 4, w_shape) ||
        !op_check_range("width of the kernel", w_shape[2], w_shape[1], w_shape[1])) {
        return op_refuse(&call);
    }
    a.conv = (clipc_conv2d){.ic = (size_t)w_shape[3],
                            .oc = (size_t)w_shape[0],
                            .kernel = (size_t)w_shape[1],
                            .stride = (size_t)stride,
                            .padding = (size_t)padding};
    if (!take_conv2d_gradients(&call, &a, dy, size, onto)) {
        return op_refuse(&call);
    }
    clipc_status status;
    Py_BEGIN_ALLOW_THREADS
    status = run_packed_conv2d_backward(&call.workspace, &a);
    Py_END_ALLOW_THREADS
    return op_end(&call, status);
}

static clipc_status run_conv2d_batchnorm_backward(clipc_workspace *workspace, conv2d_backward_arguments *a,
                                                  clipc_loader *loader)
{
    clipc_status status = clipc_load_conv_batchnorm(loader, &a->conv, "conv.", "bn.");
    if (status == CLIPC_OK) {
        status = run_conv2d_backward(workspace, a);
    }
    clipc_conv2d_free(&a->conv);
    return status;
}

static PyObject *op_conv2d_batchnorm_backward(PyObject *module, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"dy", "tensors", "size", "ic", "oc", "kernel", "stride", NULL};
    PyObject *dy, *tensors, *size;
    Py_ssize_t ic, oc, kernel, stride = 1;
    op_tensor_table table;
    conv2d_backward_arguments a;
    op_call call;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OO!O!nnn|$n:op_conv2d_batchnorm_backward", names,
                                     &dy, &PyDict_Type, &tensors, &PyTuple_Type, &size, &ic, &oc, &kernel,
                                     &stride)) {
        return NULL;
    }
    op_begin(&call, module);
    clipc_loader loader = {op_fetch_tensor, &table, &call.workspace.message};
    if (!op_check_range("ic", ic, 1, 10000) || !op_check_range("oc", oc, 1, 10000) ||
        !op_check_range("kernel", kernel, 1, 100) || !op_check_range("stride", stride, 1, 1000) ||
        !op_take_tensors(&call, &table, tensors)) {
        return op_refuse(&call);
    }
    a.conv = (clipc_conv2d){.ic = (size_t)ic,
                            .oc = (size_t)oc,
                            .kernel = (size_t)kernel,
                            .stride = (size_t)stride,
                            .padding = (size_t)kernel / 2};
    if (!take_conv2d_gradients(&call, &a, dy, size, Py_None)) {
        return op_refuse(&call);
    }
    clipc_status status;
    Py_BEGIN_ALLOW_THREADS
    status = run_conv2d_batchnorm_backward(&call.workspace, &a, &loader);
    Py_END_ALLOW_THREADS
    return op_end(&call, status);
}

static PyObject *op_avg_pool2d_backward(PyObject *module, PyObject *arguments)
{
    PyObject *dy;
    Py_ssize_t size, h, w;
    const float *dy_data;
    op_call call;
    if (!PyArg_ParseTuple(arguments, "On(nn):op_avg_pool2d_backward", &dy, &size, &h, &w)) {
        return NULL;
    }
    op_begin(&call, module);
    if (!op_check_range("height", h, 1, 100000) || !op_check_range("width", w, 1, 100000) ||
        !op_check_range("size", size, 1, h < w ? h : w)) {
        return op_refuse(&call);
    }
    npy_intp dy_shape[4] = {-1, h / size, w / size, -1};
    if (!op_take_floats(&call, &dy_data, dy, "dy", 4, dy_shape)) {
        return op_refuse(&call);
    }
    const npy_intp dx_shape[4] = {dy_shape[0], h, w, dy_shape[3]};
    float *dx = op_new_output(&call, 4, dx_shape);
    if (dx == NULL) {
        return op_refuse(&call);
    }
    Py_BEGIN_ALLOW_THREADS
    clipc_avg_pool2d_backward(dx, dy_data, (size_t)size, (size_t)dy_shape[0], (size_t)h, (size_t)w,
                              (size_t)dy_shape[3]);
    Py_END_ALLOW_THREADS
    return op_end(&call, CLIPC_OK);
}

/* ---- rows ------------------------------------------------------------------------------------------ */

static PyObject *op_activation(PyObject *module, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"x", "activation", "in_place", NULL};
    PyObject *x;
    clipc_activation activation;
    int in_place = 0;
    const float *x_data;
    float *y;
    op_call call;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OO&|$p:op_activation", names, &x, op_to_activation,
                                     &activation, &in_place)) {
        return NULL;
    }
    op_begin(&call, module);
    npy_intp shape[1] = {-1};
    if (!op_take_floats(&call, &x_data, x, "x", 1, shape) ||
        !op_new_residual_output(&call, &y, &x_data, in_place, 1, shape)) {
        return op_refuse(&call);
    }
    Py_BEGIN_ALLOW_THREADS
    clipc_activation_forward(y, x_data, activation, (size_t)shape[0]);
    Py_END_ALLOW_THREADS
    return op_end(&call, CLIPC_OK);
}

static PyObject *op_activation_backward(PyObject *module, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"dy", "x", "activation", "in_place", NULL};
    PyObject *dy, *x;
    clipc_activation activation;
    int in_place = 0;
    const float *dy_data, *x_data;
    float *dx;
    op_call call;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OOO&|$p:op_activation_backward", names, &dy, &x,
                                     op_to_activation, &activation, &in_place)) {
        return NULL;
    }
    op_begin(&call, module);
    npy_intp shape[1] = {-1};
    if (!op_take_floats(&call, &dy_data, dy, "dy", 1, shape) ||
        !op_take_floats(&call, &x_data, x, "x", 1, shape) ||
        !op_new_residual_output(&call, &dx, &dy_data, in_place, 1, shape)) {
        return op_refuse(&call);
    }
    Py_BEGIN_ALLOW_THREADS
    clipc_activation_backward(dx, dy_data, x_data, activation, (size_t)shape[0]);
    Py_END_ALLOW_THREADS
    return op_end(&call, CLIPC_OK);
}

static PyObject *op_softmax_backward(PyObject *module, PyObject *arguments)
{
    PyObject *dp, *p;
    const float *dp_data, *p_data;
    float *ds;
    op_call call;
    if (!PyArg_ParseTuple(arguments, "OO:op_softmax_backward", &dp, &p)) {
        return NULL;
    }
    op_begin(&call, module);
    npy_intp shape[2] = {-1, -1};
    if (!op_take_floats(&call, &dp_data, dp, "dp", 2, shape) ||
        !op_take_floats(&call, &p_data, p, "p", 2, shape) ||
        !op_new_residual_output(&call, &ds, &dp_data, 1, 2, shape)) {
        return op_refuse(&call);
    }
    Py_BEGIN_ALLOW_THREADS
    for (npy_intp row = 0; row < shape[0]; row++) {
        clipc_elementwise()->softmax_backward(ds + row * shape[1], p_data + row * shape[1], (size_t)shape[1]);
    }
    Py_END_ALLOW_THREADS
    return op_end(&call, CLIPC_OK);
}

static PyObject *op_layernorm_backward(PyObject *module, PyObject *arguments)
{
    PyObject *din, *dout, *x, *mean, *rstd, *weight;
    const float *din_data, *dout_data, *x_data, *mean_data, *rstd_data, *weight_data;
    float *sum;
    op_call call;
    if (!PyArg_ParseTuple(arguments, "OOOOOO:op_layernorm_backward", &din, &dout, &x, &mean, &rstd,
                          &weight)) {
        return NULL;
    }
    op_begin(&call, module);
    npy_intp shape[2] = {-1, -1};
    if (!op_take_floats(&call, &din_data, din, "din", 2, shape) ||
        !op_take_floats(&call, &dout_data, dout, "dout", 2, shape) ||
        !op_take_floats(&call, &x_data, x, "x", 2, shape) ||
        !op_take_floats(&call, &mean_data, mean, "mean", 1, shape) ||
        !op_take_floats(&call, &rstd_data, rstd, "rstd", 1, shape) ||
        !op_take_floats(&call, &weight_data, weight, "weight", 1, &shape[1]) ||
        !op_new_residual_output(&call, &sum, &din_data, 1, 2, shape)) {
        return op_refuse(&call);
    }
    const clipc_layernorm layer = {.weight = (float *)weight_data, .c = (size_t)shape[1]};
    Py_BEGIN_ALLOW_THREADS
    clipc_layernorm_backward(sum, dout_data, x_data, mean_data, rstd_data, &layer, (size_t)shape[0]);
    Py_END_ALLOW_THREADS
    return op_end(&call, CLIPC_OK);
}

/* ---- attention ------------------------------------------------------------------------------------- */

/* *query_rows: [B] in the workspace, one row of each sequence, or NULL for None. */
static bool take_query_rows(op_call *call, size_t **query_rows, PyObject *object, const op_sequences *s)
{
    npy_intp shape[1] = {(npy_intp)s->b};
    void *memory;
    *query_rows = NULL;
    if (object == Py_None) {
        return true;
    }
    PyArrayObject *array = op_take_array(call, object, "query_rows", NPY_INT64, 1, shape);
    if (array == NULL) {
        return false;
    }
    const clipc_status status = clipc_workspace_alloc(&call->workspace, &memory, s->b, sizeof(size_t));
    if (status != CLIPC_OK) {
        clipc_raise(call->module, status, &call->workspace.message);
        return false;
    }
    *query_rows = memory;
    for (size_t i = 0; i < s->b; i++) {
        const int64_t row = ((const int64_t *)PyArray_DATA(array))[i];
        if (!op_check_range("query_rows", (Py_ssize_t)row, (Py_ssize_t)s->offsets[i],
                            (Py_ssize_t)s->offsets[i + 1] - 1)) {
            return false;
        }
        (*query_rows)[i] = (size_t)row;
    }
    return true;
}

static PyObject *op_attention_backward(PyObject *module, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"dout",       "qkv",       "lengths",   "heads", "causal",
                            "query_rows", "relevance", "gradients", NULL};
    PyObject *dout, *qkv, *lengths, *query_rows = Py_None, *relevance = Py_None;
    Py_ssize_t heads;
    int causal = 0, gradients = 1;
    const float *dout_data;
    float *dqkv = NULL, *relevance_data = NULL;
    size_t *rows;
    bool accumulate;
    op_sequences s;
    op_call call;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OOOn|p$OOp:op_attention_backward", names, &dout,
                                     &qkv, &lengths, &heads, &causal, &query_rows, &relevance, &gradients)) {
        return NULL;
    }
    op_begin(&call, module);
    if (!op_take_sequences(&call, &s, qkv, lengths, heads) ||
        !take_query_rows(&call, &rows, query_rows, &s)) {
        return op_refuse(&call);
    }
    npy_intp dout_shape[2] = {rows ? (npy_intp)s.b : s.m, s.c}, qkv_shape[2] = {s.m, 3 * s.c};
    if (!op_take_floats(&call, &dout_data, dout, "dout", 2, dout_shape) ||
        (gradients && (dqkv = op_new_output(&call, 2, qkv_shape)) == NULL) ||
        (relevance != Py_None &&
         !op_new_sum_output(&call, &relevance_data, &accumulate, relevance, "relevance", 1, &s.m))) {
        return op_refuse(&call);
    }
    clipc_status status;
    Py_BEGIN_ALLOW_THREADS
    status = clipc_attention_backward(&call.workspace, dqkv, relevance_data, dout_data, s.qkv, rows,
                                      s.offsets, s.b, s.nh, s.hs, causal);
    Py_END_ALLOW_THREADS
    return op_end(&call, status);
}

static PyObject *op_attention_rollout(PyObject *module, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"relevance", "qkv", "lengths", "heads", "causal", NULL};
    PyObject *relevance, *qkv, *lengths;
    Py_ssize_t heads;
    int causal = 0;
    const float *relevance_data;
    float *sum;
    op_sequences s;
    op_call call;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OOOn|p:op_attention_rollout", names, &relevance,
                                     &qkv, &lengths, &heads, &causal)) {
        return NULL;
    }
    op_begin(&call, module);
    if (!op_take_sequences(&call, &s, qkv, lengths, heads) ||
        !op_take_floats(&call, &relevance_data, relevance, "relevance", 1, &s.m) ||
        !op_new_residual_output(&call, &sum, &relevance_data, 1, 1, &s.m)) {
        return op_refuse(&call);
    }
    clipc_status status;
    Py_BEGIN_ALLOW_THREADS
    status = clipc_attention_rollout(&call.workspace, sum, s.qkv, s.offsets, s.b, s.nh, s.hs, causal);
    Py_END_ALLOW_THREADS
    return op_end(&call, status);
}

static PyObject *op_self_similarity(PyObject *module, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"a", "v", "lengths", "heads", "scale", "onto", NULL};
    PyObject *a, *v, *lengths, *onto = Py_None;
    Py_ssize_t heads;
    float scale, *out;
    const float *a_data, *v_data;
    size_t a_stride, v_stride, *offsets, b;
    bool accumulate;
    op_call call;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OOOnf|O:op_self_similarity", names, &a, &v,
                                     &lengths, &heads, &scale, &onto)) {
        return NULL;
    }
    op_begin(&call, module);
    npy_intp shape[2] = {-1, -1};
    if (!op_take_rows(&call, &a_data, &a_stride, a, "a", shape) ||
        !op_take_rows(&call, &v_data, &v_stride, v, "v", shape) ||
        !op_check_range("stride of v", (Py_ssize_t)v_stride, (Py_ssize_t)a_stride, (Py_ssize_t)a_stride) ||
        !op_take_offsets(&call, &offsets, &b, lengths, shape[0]) ||
        !op_check_range("heads", heads, 1, shape[1]) ||
        !op_check_range("remainder of channels by heads", shape[1] % heads, 0, 0) ||
        !op_new_sum_output(&call, &out, &accumulate, onto, "onto", 2, shape)) {
        return op_refuse(&call);
    }
    clipc_status status;
    Py_BEGIN_ALLOW_THREADS
    status = clipc_self_similarity_forward(&call.workspace, out, a_data, v_data, a_stride, scale, accumulate,
                                           offsets, b, (size_t)heads, (size_t)(shape[1] / heads));
    Py_END_ALLOW_THREADS
    return op_end(&call, status);
}

/* ---- attention pool -------------------------------------------------------------------------------- */

typedef struct {
    clipc_attention_pool pool;
    clipc_loader loader;
    op_tensor_table table;
    const float *x; /* [B, HW, C] */
    npy_intp shape[3];
    const float *dy; /* [B, D] */
    size_t d;
} pool_arguments;

static bool take_pool(op_call *call, pool_arguments *a, PyObject *x, PyObject *tensors, Py_ssize_t heads,
                      Py_ssize_t d)
{
    a->shape[0] = a->shape[1] = a->shape[2] = -1;
    if (!op_take_floats(call, &a->x, x, "x", 3, a->shape) ||
        !op_check_range("heads", heads, 1, a->shape[2]) ||
        !op_check_range("remainder of channels by heads", a->shape[2] % heads, 0, 0) ||
        !op_check_range("d", d, 1, INT_MAX) || !op_take_tensors(call, &a->table, tensors)) {
        return false;
    }
    a->pool = (clipc_attention_pool){.c = (size_t)a->shape[2], .nh = (size_t)heads};
    a->loader = (clipc_loader){op_fetch_tensor, &a->table, &call->workspace.message};
    a->d = (size_t)d;
    return true;
}

static clipc_status pool_forward_backward(clipc_workspace *workspace, float *y, float *dx,
                                          const pool_arguments *a)
{
    const size_t b = (size_t)a->shape[0], hw = (size_t)a->shape[1];
    clipc_attention_pool_tape tape;
    CLIPC_TRY(clipc_attention_pool_forward(workspace, y, a->x, &a->pool, a->pool.positional_embedding, hw, b,
                                           &tape));
    op_poison_scratch(workspace); /* what the forward pass left there must not be read */
    return clipc_attention_pool_backward(workspace, dx, a->dy, &a->pool, hw, b, &tape);
}

static clipc_status run_pool_backward(clipc_workspace *workspace, float *y, float *dx, pool_arguments *a)
{
    clipc_status status = op_load_attention_pool(&a->pool, &a->loader, (size_t)a->shape[1], a->d);
    if (status == CLIPC_OK) {
        status = pool_forward_backward(workspace, y, dx, a);
    }
    clipc_attention_pool_free(&a->pool);
    return status;
}

static PyObject *op_attention_pool_backward(PyObject *module, PyObject *arguments)
{
    PyObject *dy, *x, *tensors;
    Py_ssize_t heads;
    pool_arguments a;
    float *y, *dx;
    op_call call;
    if (!PyArg_ParseTuple(arguments, "OOO!n:op_attention_pool_backward", &dy, &x, &PyDict_Type, &tensors,
                          &heads)) {
        return NULL;
    }
    op_begin(&call, module);
    npy_intp dy_shape[2] = {-1, -1};
    if (!op_take_floats(&call, &a.dy, dy, "dy", 2, dy_shape) ||
        !take_pool(&call, &a, x, tensors, heads, dy_shape[1]) ||
        !op_check_range("rows of dy", dy_shape[0], a.shape[0], a.shape[0]) ||
        (y = op_new_output(&call, 2, dy_shape)) == NULL || (dx = op_new_output(&call, 3, a.shape)) == NULL) {
        return op_refuse(&call);
    }
    clipc_status status;
    Py_BEGIN_ALLOW_THREADS
    status = run_pool_backward(&call.workspace, y, dx, &a);
    Py_END_ALLOW_THREADS
    return op_end(&call, status);
}

/* What stands in the place of the pool's attention. */
typedef enum { POOL_IDENTITY, POOL_SURGERY } dense_pool_kind;

static clipc_status run_dense_pool(clipc_workspace *workspace, float *y, pool_arguments *a,
                                   dense_pool_kind kind)
{
    const size_t b = (size_t)a->shape[0], hw = (size_t)a->shape[1];
    clipc_status status = op_load_attention_pool(&a->pool, &a->loader, hw, a->d);
    if (status == CLIPC_OK && kind == POOL_IDENTITY) {
        status = clipc_attention_pool_identity_forward(workspace, y, a->x, &a->pool, b * hw);
    } else if (status == CLIPC_OK) {
        status = clipc_attention_pool_surgery_forward(workspace, y, a->x, &a->pool,
                                                      a->pool.positional_embedding, hw, b);
    }
    clipc_attention_pool_free(&a->pool);
    return status;
}

static PyObject *op_dense_attention_pool(PyObject *module, PyObject *arguments)
{
    static const char *const kinds[] = {"identity", "surgery"};
    const char *kind;
    PyObject *x, *tensors;
    Py_ssize_t heads, d;
    int choice;
    pool_arguments a;
    op_call call;
    if (!PyArg_ParseTuple(arguments, "sOO!nn:op_dense_attention_pool", &kind, &x, &PyDict_Type, &tensors,
                          &heads, &d)) {
        return NULL;
    }
    op_begin(&call, module);
    if (!op_take_choice(&choice, "kind", kind, kinds, N_NAMES(kinds)) ||
        !take_pool(&call, &a, x, tensors, heads, d)) {
        return op_refuse(&call);
    }
    const npy_intp y_shape[3] = {a.shape[0], a.shape[1] + (choice == POOL_SURGERY ? 1 : 0), d};
    float *y = op_new_output(&call, 3, y_shape);
    if (y == NULL) {
        return op_refuse(&call);
    }
    clipc_status status;
    Py_BEGIN_ALLOW_THREADS
    status = run_dense_pool(&call.workspace, y, &a, (dense_pool_kind)choice);
    Py_END_ALLOW_THREADS
    return op_end(&call, status);
}

/* ---- positions, scores, maps ----------------------------------------------------------------------- */

static PyObject *op_positions(PyObject *module, PyObject *arguments)
{
    PyObject *embedding;
    Py_ssize_t gh, gw;
    const float *embedding_data, *positions;
    op_call call;
    if (!PyArg_ParseTuple(arguments, "Onn:op_positions", &embedding, &gh, &gw)) {
        return NULL;
    }
    op_begin(&call, module);
    npy_intp shape[2] = {-1, -1};
    if (!op_take_floats(&call, &embedding_data, embedding, "embedding", 2, shape) ||
        !op_check_range("gh", gh, 1, 10000) || !op_check_range("gw", gw, 1, 10000)) {
        return op_refuse(&call);
    }
    const npy_intp cells = shape[0] - 1, g = (npy_intp)lround(sqrt((double)cells));
    if (!op_check_range("rows of embedding behind the first", cells, g > 1 ? g * g : 1, g * g)) {
        return op_refuse(&call);
    }
    shape[0] = 1 + gh * gw;
    float *out = op_new_output(&call, 2, shape);
    if (out == NULL) {
        return op_refuse(&call);
    }
    clipc_status status;
    Py_BEGIN_ALLOW_THREADS
    status = clipc_positions_for_grid(&call.workspace, &positions, embedding_data, (size_t)g, (size_t)gh,
                                      (size_t)gw, (size_t)shape[1]);
    Py_END_ALLOW_THREADS
    if (status == CLIPC_OK) {
        memcpy(out, positions, (size_t)(shape[0] * shape[1]) * sizeof *out);
    }
    return op_end(&call, status);
}

static PyObject *op_score_backward(PyObject *module, PyObject *arguments)
{
    static const char *const kinds[] = {"cosine", "dot", "probability"};
    const char *kind;
    PyObject *v, *texts;
    Py_ssize_t n;
    clipc_score score;
    const float *v_data;
    float *value, *dv;
    int choice;
    op_call call;
    if (!PyArg_ParseTuple(arguments, "sOOnf:op_score_backward", &kind, &v, &texts, &n, &score.scale)) {
        return NULL;
    }
    op_begin(&call, module);
    npy_intp shape[2] = {-1, -1};
    if (!op_take_choice(&choice, "kind", kind, kinds, N_NAMES(kinds)) ||
        !op_take_floats(&call, &score.texts, texts, "texts", 2, shape) ||
        !op_take_floats(&call, &v_data, v, "v", 1, &shape[1]) || !op_check_range("n", n, 0, shape[0] - 1) ||
        (value = op_new_output(&call, 0, NULL)) == NULL ||
        (dv = op_new_output(&call, 1, &shape[1])) == NULL) {
        return op_refuse(&call);
    }
    score.kind = (clipc_score_kind)choice;
    score.l = (size_t)shape[0];
    score.d = (size_t)shape[1];
    clipc_status status;
    Py_BEGIN_ALLOW_THREADS
    status = clipc_score_backward(&call.workspace, value, dv, v_data, &score, (size_t)n);
    Py_END_ALLOW_THREADS
    return op_end(&call, status);
}

static PyObject *op_cam(PyObject *module, PyObject *arguments)
{
    static const char *const kinds[] = {"gradcam", "gradcam++", "layercam", "hirescam"};
    const char *kind;
    PyObject *a, *g;
    const float *a_data, *g_data;
    float *map;
    int choice;
    op_call call;
    if (!PyArg_ParseTuple(arguments, "sOO:op_cam", &kind, &a, &g)) {
        return NULL;
    }
    op_begin(&call, module);
    npy_intp shape[2] = {-1, -1};
    if (!op_take_choice(&choice, "kind", kind, kinds, N_NAMES(kinds)) ||
        !op_take_floats(&call, &a_data, a, "a", 2, shape) ||
        !op_take_floats(&call, &g_data, g, "g", 2, shape) || (map = op_new_output(&call, 1, shape)) == NULL) {
        return op_refuse(&call);
    }
    clipc_status status;
    Py_BEGIN_ALLOW_THREADS
    status = clipc_cam_forward(&call.workspace, map, a_data, g_data, (clipc_cam_kind)choice, (size_t)shape[0],
                               (size_t)shape[1]);
    Py_END_ALLOW_THREADS
    return op_end(&call, status);
}

PyMethodDef clipc_backward_op_methods[] = {
    OP(op_linear_backward, KEYWORDS,
       "op_linear_backward(dy, weight, onto=None) -> dx\n\n"
       "dy: (M, OC), weight: (OC, C), dx: (M, C); onto: what is added to."),
    OP(op_conv2d_backward, KEYWORDS,
       "op_conv2d_backward(dy, weight, size, onto=None, *, stride=1, padding=0) -> dx\n\n"
       "dy: (B, OH, OW, OC), weight: (OC, KH, KW, IC), size: (H, W), dx: (B, H, W, IC)."),
    OP(op_conv2d_batchnorm_backward, KEYWORDS,
       "op_conv2d_batchnorm_backward(dy, tensors, size, ic, oc, kernel, *, stride=1) -> dx\n\n"
       "tensors as op_conv2d_batchnorm takes them."),
    OP(op_avg_pool2d_backward, METH_VARARGS,
       "op_avg_pool2d_backward(dy, pool, (h, w)) -> dx\n\ndy: (B, H // pool, W // pool, C)."),
    OP(op_activation, KEYWORDS, "op_activation(x, activation, *, in_place=False) -> y\n\nx: (N,)."),
    OP(op_activation_backward, KEYWORDS,
       "op_activation_backward(dy, x, activation, *, in_place=False) -> dx\n\n"
       "dy, x: (N,); in_place: dx is dy itself."),
    OP(op_softmax_backward, METH_VARARGS, "op_softmax_backward(dp, p) -> ds\n\ndp, p: (M, N)."),
    OP(op_layernorm_backward, METH_VARARGS,
       "op_layernorm_backward(din, dout, x, mean, rstd, weight) -> din + gradient\n\n"
       "din, dout, x: (M, C), mean, rstd: (M,), weight: (C,)."),
    OP(op_attention_backward, KEYWORDS,
       "op_attention_backward(dout, qkv, lengths, heads, causal=False, *, query_rows=None, relevance=None,\n"
       "                      gradients=True) -> dqkv, relevance or both\n\n"
       "dout: (M, C), or with query_rows (B, C); qkv: (M, 3C), lengths, query_rows: int64 (B,), relevance:\n"
       "(M,)."),
    OP(op_attention_rollout, KEYWORDS,
       "op_attention_rollout(relevance, qkv, lengths, heads, causal=False) -> relevance\n\nrelevance: (M,)."),
    OP(op_self_similarity, KEYWORDS,
       "op_self_similarity(a, v, lengths, heads, scale, onto=None) -> out\n\n"
       "a, v: (M, C), rows may lie apart, by the same distance; out: (M, C)."),
    OP(op_attention_pool_backward, METH_VARARGS,
       "op_attention_pool_backward(dy, x, tensors, heads) -> (y, dx)\n\n"
       "Forward and backward; dy, y: (B, D), x, dx: (B, HW, C); tensors as op_attention_pool takes them."),
    OP(op_dense_attention_pool, METH_VARARGS,
       "op_dense_attention_pool(kind, x, tensors, heads, d) -> y\n\n"
       "x: (B, HW, C), y: (B, HW, d) for 'identity', (B, 1 + HW, d) for 'surgery'."),
    OP(op_positions, METH_VARARGS,
       "op_positions(embedding, gh, gw) -> positions\n\n"
       "embedding: (1 + G * G, C), positions: (1 + gh * gw, C)."),
    OP(op_score_backward, METH_VARARGS,
       "op_score_backward(kind, v, texts, n, scale) -> (value, dv)\n\n"
       "kind: 'cosine', 'dot' or 'probability'; v, dv: (D,), texts: (L, D), value: ()."),
    OP(op_cam, METH_VARARGS,
       "op_cam(kind, a, g) -> map\n\n"
       "kind: 'gradcam', 'gradcam++', 'layercam' or 'hirescam'; a, g: (HW, C), map: (HW,)."),
    {NULL, NULL, 0, NULL},
};
