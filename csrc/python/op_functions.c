/* Single layers of the core, so that the tests can hold each against an oracle. Not a public interface. */
#include "python/op_call.h"

#include <string.h>
#include <time.h>

#include "core/threads.h"
#include "model/loader.h"
#include "nn/attention.h"
#include "nn/attention_pool.h"
#include "nn/conv2d.h"
#include "nn/layernorm.h"
#include "nn/linear.h"
#include "nn/pooling.h"

#define MAX_MARKS 32

static PyObject *op_convert(PyObject *module, PyObject *argument)
{
    op_call call;
    op_tensor_table table = {.n = 0};
    npy_intp shape[CLIPC_MAX_RANK];
    op_begin(&call, module);
    clipc_loader loader = {op_fetch_tensor, &table, &call.workspace.message};
    if (!op_add_tensor(&call, &table, "tensor", argument)) {
        return op_refuse(&call);
    }
    const clipc_tensor_view *view = &table.tensors[0].view;
    for (int i = 0; i < view->rank; i++) {
        shape[i] = (npy_intp)view->shape[i];
    }
    float *out = op_new_output(&call, view->rank, shape), *loaded = NULL;
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
                                     &residual, op_to_activation, &a.activation, &in_place)) {
        return NULL;
    }
    op_begin(&call, module);
    npy_intp x_shape[2] = {-1, -1}, w_shape[2] = {-1, -1}, y_shape[2];
    const float *bias_data;
    if (!op_take_floats(&call, &a.x, x, "x", 2, x_shape)) {
        return op_refuse(&call);
    }
    w_shape[1] = x_shape[1];
    if (!op_take_floats(&call, &a.w, weight, "weight", 2, w_shape)) {
        return op_refuse(&call);
    }
    y_shape[0] = x_shape[0];
    y_shape[1] = w_shape[0];
    if (!op_take_optional_floats(&call, &bias_data, bias, "bias", 1, &w_shape[0]) ||
        !op_take_optional_floats(&call, &a.residual, residual, "residual", 2, y_shape) ||
        !op_new_residual_output(&call, &a.y, &a.residual, in_place, 2, y_shape)) {
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
    op_tensor_table table = {.n = 0};
    if (!PyArg_ParseTuple(arguments, "OO:op_projection", &x, &projection)) {
        return NULL;
    }
    op_begin(&call, module);
    clipc_loader loader = {op_fetch_tensor, &table, &call.workspace.message};
    npy_intp x_shape[2] = {-1, -1}, y_shape[2];
    if (!op_take_floats(&call, &x_data, x, "x", 2, x_shape) ||
        !op_add_tensor(&call, &table, "projection", projection)) {
        return op_refuse(&call);
    }
    const clipc_tensor_view *view = &table.tensors[0].view;
    if (view->rank != 2 || !op_check_range("projection", (Py_ssize_t)view->shape[1], 1, INT_MAX)) {
        PyErr_SetString(PyExc_ValueError, "projection: expected two dimensions that are not empty");
        return op_refuse(&call);
    }
    y_shape[0] = x_shape[0];
    y_shape[1] = (npy_intp)view->shape[1];
    float *y = op_new_output(&call, 2, y_shape);
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
typedef enum {
    GEMM_FORWARD,
    GEMM_ROWS,
    GEMM_ROWS_TRANSPOSED,
    GEMM_BACKWARD, /* the last one with W packed */
    GEMM_ABT,
    GEMM_AB,
    GEMM_ATB
} gemm_kind;

typedef struct {
    gemm_kind kind;
    const float *a, *b, *residual;
    size_t lda, ldb, ldc, ld_residual;
    float *c;
    size_t m;
    npy_intp b_shape[2];
    size_t row0, rows;
    float alpha;
    bool accumulate;
} gemm_arguments;

/* One loop over one task: inside a loop, as in the layers, fork() waits for OpenBLAS to be at rest. */
static void activations_task(void *context, size_t index)
{
    (void)index;
    const gemm_arguments *g = context;
    const size_t rows = (size_t)g->b_shape[0], columns = (size_t)g->b_shape[1];
    if (g->kind == GEMM_ABT) {
        clipc_gemm_abt(g->c, g->ldc, g->a, g->lda, g->b, g->ldb, g->m, rows, columns, g->alpha);
    } else if (g->kind == GEMM_AB) {
        clipc_gemm_ab(g->c, g->ldc, g->a, g->lda, g->b, g->ldb, g->m, columns, rows, g->alpha, g->accumulate);
    } else {
        clipc_gemm_atb(g->c, g->ldc, g->a, g->lda, g->b, g->ldb, g->m, columns, rows, g->alpha,
                       g->accumulate);
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
    if (g->kind > GEMM_BACKWARD) {
        clipc_parallel_for(1, activations_task, g);
        return CLIPC_OK;
    }
    clipc_packed_matrix w;
    CLIPC_TRY(clipc_pack_matrix(&w, g->b, (size_t)g->b_shape[0], (size_t)g->b_shape[1], &workspace->message));
    if (g->kind == GEMM_FORWARD) {
        const clipc_epilogue epilogue = {NULL, g->residual, g->ld_residual, CLIPC_ACTIVATION_NONE};
        clipc_gemm_forward(g->c, g->ldc, g->a, g->lda, &w, g->m, g->residual ? &epilogue : NULL);
    } else if (g->kind == GEMM_BACKWARD) {
        clipc_gemm_backward(g->c, g->ldc, g->a, g->lda, &w, g->row0, g->rows, g->m, g->accumulate);
    } else {
        rows_job job = {g, &w};
        clipc_parallel_for(1, rows_task, &job);
    }
    clipc_packed_matrix_free(&w);
    return CLIPC_OK;
}

/* c as [M, ldc], with NaN behind the columns of the product; onto: what the product is added to, or NULL. */
static bool new_product(op_call *call, gemm_arguments *g, const float *onto, size_t ld_onto, npy_intp columns)
{
    const npy_intp c_shape[2] = {(npy_intp)g->m, (npy_intp)g->ldc};
    g->c = op_new_output(call, 2, c_shape);
    for (size_t row = 0; g->c != NULL && onto != NULL && row < g->m; row++) {
        memcpy(g->c + row * g->ldc, onto + row * ld_onto, (size_t)columns * sizeof *onto);
    }
    return g->c != NULL;
}

static PyObject *op_gemm(PyObject *module, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"kind", "a", "b", "residual", "alpha", "row0", "rows", "ldc", "onto", NULL};
    static const char *const kinds[] = {"forward", "rows", "rows_transposed", "backward", "abt", "ab", "atb"};
    const char *kind;
    PyObject *a, *b, *residual = Py_None, *onto = Py_None;
    gemm_arguments g = {.alpha = 1.0f};
    Py_ssize_t row0 = 0, rows = -1, ldc = 0;
    int choice;
    op_call call;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "sOO|$OfnnnO:op_gemm", names, &kind, &a, &b,
                                     &residual, &g.alpha, &row0, &rows, &ldc, &onto)) {
        return NULL;
    }
    op_begin(&call, module);
    if (!op_take_choice(&choice, "kind", kind, kinds, sizeof kinds / sizeof kinds[0])) {
        return op_refuse(&call);
    }
    g.kind = (gemm_kind)choice;
    npy_intp a_shape[2] = {-1, -1};
    const bool packed = g.kind <= GEMM_BACKWARD;
    g.b_shape[0] = g.b_shape[1] = -1;
    if (!op_take_rows(&call, &g.a, &g.lda, a, "a", a_shape) ||
        !(packed ? op_take_floats(&call, &g.b, b, "b", 2, g.b_shape)
                 : op_take_rows(&call, &g.b, &g.ldb, b, "b", g.b_shape))) {
        return op_refuse(&call);
    }
    const npy_intp n_rows = g.b_shape[0], n_columns = g.b_shape[1];
    rows = rows < 0 ? n_rows - row0 : rows;
    if (!op_check_range("row0", row0, 0, packed ? n_rows - 1 : 0) ||
        !op_check_range("rows", rows, packed ? 1 : n_rows, n_rows - row0)) {
        return op_refuse(&call);
    }
    const bool sums_over_rows = g.kind != GEMM_FORWARD && g.kind != GEMM_ROWS && g.kind != GEMM_ABT;
    const npy_intp inner = sums_over_rows ? rows : n_columns, width = sums_over_rows ? n_columns : rows;
    const int m_axis = g.kind == GEMM_ATB ? 1 : 0;
    npy_intp product_shape[2] = {a_shape[m_axis], width};
    const float *onto_data = NULL;
    size_t ld_onto = 0;
    ldc = ldc == 0 ? width : ldc;
    if (!op_check_range(m_axis ? "rows of a" : "columns of a", a_shape[1 - m_axis], inner, inner) ||
        !op_check_range("ldc", ldc, width, INT_MAX) ||
        (residual != Py_None &&
         !op_take_rows(&call, &g.residual, &g.ld_residual, residual, "residual", product_shape)) ||
        (onto != Py_None && !op_take_rows(&call, &onto_data, &ld_onto, onto, "onto", product_shape))) {
        return op_refuse(&call);
    }
    g.m = (size_t)product_shape[0];
    g.ldc = (size_t)ldc;
    g.row0 = (size_t)row0;
    g.rows = (size_t)rows;
    g.accumulate = onto_data != NULL;
    if (!new_product(&call, &g, onto_data, ld_onto, width)) {
        return op_refuse(&call);
    }
    clipc_status status;
    Py_BEGIN_ALLOW_THREADS
    status = run_gemm(&call.workspace, &g);
    Py_END_ALLOW_THREADS
    return op_end(&call, status);
}

/* ---- their speed ----------------------------------------------------------------------------------- */

typedef struct {
    size_t m, n, k;
    Py_ssize_t copies;
    clipc_activation activation;
    float *seconds; /* [rounds, copies] */
    Py_ssize_t rounds;
} linear_timing;

static double seconds_now(void)
{
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static clipc_status time_layers(clipc_workspace *workspace, const linear_timing *t, clipc_linear *layers)
{
    const size_t larger = t->n > t->k ? t->n : t->k;
    float *x, *y, *values;
    CLIPC_TRY(clipc_workspace_floats(workspace, &x, t->m * t->k));
    CLIPC_TRY(clipc_workspace_floats(workspace, &y, t->m * t->n));
    CLIPC_TRY(clipc_workspace_floats(workspace, &values, t->k * t->n + larger));
    for (size_t i = 0; i < t->k * t->n + larger; i++) {
        values[i] = (float)(i % 1021) / 1021.0f - 0.5f;
    }
    for (size_t i = 0; i < t->m * t->k; i++) {
        x[i] = (float)(i % 1019) / 1019.0f - 0.5f;
    }
    for (Py_ssize_t i = 0; i < t->copies; i++) {
        layers[i].bias = values;
        CLIPC_TRY(clipc_pack_matrix(&layers[i].weight, values, t->n, t->k, &workspace->message));
    }
    for (Py_ssize_t round = 0; round < t->rounds; round++) {
        for (Py_ssize_t i = 0; i < t->copies; i++) {
            const double start = seconds_now();
            clipc_linear_forward(y, x, NULL, &layers[i], t->activation, t->m);
            t->seconds[round * t->copies + i] = (float)(seconds_now() - start);
        }
        CLIPC_TRY(clipc_workspace_poll(workspace));
    }
    return CLIPC_OK;
}

static clipc_status run_timing(clipc_workspace *workspace, const linear_timing *t)
{
    void *memory;
    CLIPC_TRY(clipc_workspace_alloc(workspace, &memory, (size_t)t->copies, sizeof(clipc_linear)));
    clipc_linear *layers = memory;
    for (Py_ssize_t i = 0; i < t->copies; i++) {
        layers[i].weight.panels = NULL;
    }
    const clipc_status status = time_layers(workspace, t, layers);
    for (Py_ssize_t i = 0; i < t->copies; i++) {
        clipc_packed_matrix_free(&layers[i].weight);
    }
    return status;
}

static PyObject *op_time_linear(PyObject *module, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"m", "n", "k", "copies", "rounds", "activation", NULL};
    Py_ssize_t m, n, k;
    linear_timing t = {.copies = 1, .rounds = 1, .activation = CLIPC_ACTIVATION_NONE};
    op_call call;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "nnn|$nnO&:op_time_linear", names, &m, &n, &k,
                                     &t.copies, &t.rounds, op_to_activation, &t.activation)) {
        return NULL;
    }
    op_begin(&call, module);
    if (!op_check_range("m", m, 1, 1 << 20) || !op_check_range("n", n, 1, 1 << 15) ||
        !op_check_range("k", k, 1, 1 << 15) || !op_check_range("copies", t.copies, 1, 1000) ||
        !op_check_range("rounds", t.rounds, 1, 100000)) {
        return op_refuse(&call);
    }
    t.m = (size_t)m;
    t.n = (size_t)n;
    t.k = (size_t)k;
    t.seconds = op_new_output(&call, 2, (npy_intp[]){t.rounds, t.copies});
    if (t.seconds == NULL) {
        return op_refuse(&call);
    }
    clipc_status status;
    Py_BEGIN_ALLOW_THREADS
    status = run_timing(&call.workspace, &t);
    Py_END_ALLOW_THREADS
    return op_end(&call, status);
}

/* ---- images ---------------------------------------------------------------------------------------- */

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
                                     &residual, &stride, &padding, op_to_activation, &a.activation,
                                     &in_place)) {
        return NULL;
    }
    op_begin(&call, module);
    npy_intp w_shape[4] = {-1, -1, -1, -1}, y_shape[4];
    const float *bias_data;
    memcpy(a.x_shape, w_shape, sizeof w_shape);
    if (!op_check_range("stride", stride, 1, 1000) || !op_check_range("padding", padding, 0, 1000) ||
        !op_take_floats(&call, &a.x, x, "x", 4, a.x_shape)) {
        return op_refuse(&call);
    }
    w_shape[3] = a.x_shape[3];
    if (!op_take_floats(&call, &a.w, weight, "weight", 4, w_shape) ||
        !op_check_range("width of the kernel", w_shape[2], w_shape[1], w_shape[1]) ||
        !op_take_optional_floats(&call, &bias_data, bias, "bias", 1, &w_shape[0])) {
        return op_refuse(&call);
    }
    a.conv = (clipc_conv2d){.bias = (float *)bias_data,
                            .ic = (size_t)w_shape[3],
                            .oc = (size_t)w_shape[0],
                            .kernel = (size_t)w_shape[1],
                            .stride = (size_t)stride,
                            .padding = (size_t)padding};
    if (!op_conv2d_output_shape(y_shape, &a.conv, a.x_shape) ||
        !op_take_optional_floats(&call, &a.residual, residual, "residual", 4, y_shape) ||
        !op_new_residual_output(&call, &a.y, &a.residual, in_place, 4, y_shape)) {
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
    op_tensor_table table;
    conv2d_arguments a = {.activation = CLIPC_ACTIVATION_NONE, .x_shape = {-1, -1, -1, -1}};
    op_call call;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OO!nn|$n:op_conv2d_batchnorm", names, &x,
                                     &PyDict_Type, &tensors, &oc, &kernel, &stride)) {
        return NULL;
    }
    op_begin(&call, module);
    clipc_loader loader = {op_fetch_tensor, &table, &call.workspace.message};
    npy_intp y_shape[4];
    if (!op_check_range("oc", oc, 1, 10000) || !op_check_range("kernel", kernel, 1, 100) ||
        !op_check_range("stride", stride, 1, 1000) || !op_take_floats(&call, &a.x, x, "x", 4, a.x_shape) ||
        !op_take_tensors(&call, &table, tensors)) {
        return op_refuse(&call);
    }
    a.conv = (clipc_conv2d){.ic = (size_t)a.x_shape[3],
                            .oc = (size_t)oc,
                            .kernel = (size_t)kernel,
                            .stride = (size_t)stride,
                            .padding = (size_t)kernel / 2};
    if (!op_conv2d_output_shape(y_shape, &a.conv, a.x_shape) ||
        !op_new_residual_output(&call, &a.y, &a.residual, 0, 4, y_shape)) {
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
    if (!op_take_floats(&call, &x_data, x, "x", 4, shape) ||
        !op_check_range("size", size, 1, shape[1] < shape[2] ? shape[1] : shape[2])) {
        return op_refuse(&call);
    }
    const npy_intp y_shape[4] = {shape[0], shape[1] / size, shape[2] / size, shape[3]};
    float *y = op_new_output(&call, 4, y_shape);
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

static PyObject *op_attention(PyObject *module, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"qkv", "lengths", "heads", "causal", NULL};
    PyObject *qkv, *lengths;
    Py_ssize_t heads;
    int causal = 0;
    op_sequences s;
    op_call call;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OOn|p:op_attention", names, &qkv, &lengths, &heads,
                                     &causal)) {
        return NULL;
    }
    op_begin(&call, module);
    if (!op_take_sequences(&call, &s, qkv, lengths, heads)) {
        return op_refuse(&call);
    }
    const npy_intp out_shape[2] = {s.m, s.c};
    float *out = op_new_output(&call, 2, out_shape);
    if (out == NULL) {
        return op_refuse(&call);
    }
    clipc_status status;
    Py_BEGIN_ALLOW_THREADS
    status = clipc_attention_forward(&call.workspace, out, s.qkv, s.offsets, s.b, s.nh, s.hs, causal);
    Py_END_ALLOW_THREADS
    return op_end(&call, status);
}

static clipc_status run_attention_pool(clipc_workspace *workspace, float *y, const float *x,
                                       clipc_attention_pool *pool, clipc_loader *loader, size_t hw, size_t b,
                                       size_t d)
{
    clipc_status status = op_load_attention_pool(pool, loader, hw, d);
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
    op_tensor_table table;
    op_call call;
    if (!PyArg_ParseTuple(arguments, "OO!nn:op_attention_pool", &x, &PyDict_Type, &tensors, &heads, &d)) {
        return NULL;
    }
    op_begin(&call, module);
    clipc_loader loader = {op_fetch_tensor, &table, &call.workspace.message};
    npy_intp shape[3] = {-1, -1, -1};
    if (!op_take_floats(&call, &x_data, x, "x", 3, shape) || !op_check_range("heads", heads, 1, shape[2]) ||
        !op_check_range("remainder of channels by heads", shape[2] % heads, 0, 0) ||
        !op_check_range("d", d, 1, INT_MAX) || !op_take_tensors(&call, &table, tensors)) {
        return op_refuse(&call);
    }
    const npy_intp y_shape[2] = {shape[0], d};
    float *y = op_new_output(&call, 2, y_shape);
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
    if (!op_take_floats(&call, &x_data, x, "x", 2, shape) ||
        !op_take_floats(&call, &weight_data, weight, "weight", 1, &shape[1]) ||
        !op_take_floats(&call, &bias_data, bias, "bias", 1, &shape[1]) ||
        !op_new_residual_output(&call, &out, &x_data, in_place, 2, shape) ||
        (mean = op_new_output(&call, 1, shape)) == NULL || (rstd = op_new_output(&call, 1, shape)) == NULL) {
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
    if (!op_take_floats(&call, &x_data, argument, "x", 2, shape) ||
        !op_new_residual_output(&call, &y, &x_data, 1, 2, shape)) {
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
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O|O&OO:op_epilogue", names, &x, op_to_activation,
                                     &activation, &bias, &residual)) {
        return NULL;
    }
    op_begin(&call, module);
    npy_intp shape[2] = {-1, -1};
    if (!op_take_floats(&call, &x_data, x, "x", 2, shape) ||
        !op_take_optional_floats(&call, &bias_data, bias, "bias", 1, &shape[1]) ||
        !op_take_optional_floats(&call, &residual_data, residual, "residual", 2, shape) ||
        !op_new_residual_output(&call, &y, &x_data, 1, 2, shape)) {
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
    if (!op_check_range("n_tasks", n_tasks, 0, 1000000) || !op_check_range("n_nested", n_nested, 0, 1000) ||
        !op_check_range("rounds", rounds, 0, 1000000)) {
        return op_refuse(&call);
    }
    const npy_intp shape[2] = {n_tasks, n_nested};
    counting_job job = {op_new_output(&call, 2, shape), (size_t)n_nested};
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
    if (!op_check_range("step", step, 0, PY_SSIZE_T_MAX)) {
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

PyMethodDef clipc_op_methods[] = {
    OP(op_convert, METH_O,
       "op_convert(tensor) -> float32 array\n\nfloat16, float32, or uint16: the bits of bfloat16."),
    OP(op_linear, KEYWORDS,
       "op_linear(x, weight, bias=None, residual=None, *, activation='none', in_place=False) -> y\n\n"
       "x: (M, C), weight: (OC, C), bias: (OC,), residual: (M, OC); in_place: the residual is y itself."),
    OP(op_projection, METH_VARARGS,
       "op_projection(x, projection) -> x @ projection\n\nx: (M, C), projection: (C, D)."),
    OP(op_gemm, KEYWORDS,
       "op_gemm(kind, a, b, *, residual=None, alpha=1.0, row0=0, rows=-1, ldc=0, onto=None) -> c\n\n"
       "kind 'abt': alpha * a @ b.T, 'ab': alpha * a @ b, 'atb': alpha * a.T @ b;\n"
       "with b packed 'forward': a @ b.T + residual, 'rows': a @ b[row0 : row0 + rows].T,\n"
       "'rows_transposed' and 'backward': a @ b[row0 : row0 + rows].\n"
       "onto: (M, N), what 'ab', 'atb' and 'backward' add the product to.\n"
       "Rows of a, b (not packed), residual and onto may lie apart, as those of wide[:, :n]; ldc: columns "
       "of\n"
       "c, of which the product takes the first."),
    OP(op_time_linear, KEYWORDS,
       "op_time_linear(m, n, k, *, copies=1, rounds=1, activation='none') -> seconds\n\n"
       "Time of a linear layer, (m, k) to (m, n), for each round and each of so many layers with weights of\n"
       "their own: (rounds, copies)."),
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
