#include "python/op_call.h"

#include <stdint.h>
#include <string.h>

#include "core/memory.h"

#define POISON_FLOATS ((size_t)1 << 14)

void op_poison_scratch(clipc_workspace *workspace)
{
    clipc_arena *arena = &workspace->arena;
    const clipc_arena_mark mark = clipc_arena_get_mark(arena);
    float *poison = clipc_arena_alloc(arena, POISON_FLOATS, sizeof *poison);
    if (poison != NULL) { /* else the layer's own request fails and says so */
        memset(poison, 0xFF, POISON_FLOATS * sizeof *poison);
    }
    clipc_arena_release(arena, mark);
}

void op_begin(op_call *call, PyObject *module)
{
    call->module = module;
    call->n_inputs = 0;
    call->n_outputs = 0;
    clipc_workspace_init(&call->workspace);
    op_poison_scratch(&call->workspace);
}

PyObject *op_end(op_call *call, clipc_status status)
{
    clipc_workspace_free(&call->workspace);
    for (size_t i = 0; i < call->n_inputs; i++) {
        Py_DECREF(call->inputs[i]);
    }
    return clipc_take_outputs(call->module, status, &call->workspace.message, call->outputs, call->n_outputs);
}

PyObject *op_refuse(op_call *call)
{
    return op_end(call, CLIPC_ERROR_VALUE);
}

PyArrayObject *op_take_array(op_call *call, PyObject *object, const char *argument, int type, int rank,
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

bool op_take_floats(op_call *call, const float **data, PyObject *object, const char *argument, int rank,
                    npy_intp *shape)
{
    PyArrayObject *array = op_take_array(call, object, argument, NPY_FLOAT32, rank, shape);
    *data = array ? PyArray_DATA(array) : NULL;
    return array != NULL;
}

bool op_take_optional_floats(op_call *call, const float **data, PyObject *object, const char *argument,
                             int rank, npy_intp *shape)
{
    *data = NULL;
    return object == Py_None || op_take_floats(call, data, object, argument, rank, shape);
}

bool op_take_rows(op_call *call, const float **data, size_t *stride, PyObject *object, const char *argument,
                  npy_intp shape[2])
{
    if (!op_take_floats(call, data, object, argument, 2, shape)) {
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

bool op_take_offsets(op_call *call, size_t **offsets, size_t *b, PyObject *lengths, npy_intp rows)
{
    npy_intp shape[1] = {-1};
    void *memory;
    PyArrayObject *array = op_take_array(call, lengths, "lengths", NPY_INT64, 1, shape);
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
        if (!op_check_range("lengths", (Py_ssize_t)values[i], 1, rows - total)) {
            return false;
        }
        total += (npy_intp)values[i];
        (*offsets)[i + 1] = (size_t)total;
    }
    return op_check_range("sum of lengths", total, rows, rows);
}

bool op_take_sequences(op_call *call, op_sequences *sequences, PyObject *qkv, PyObject *lengths,
                       Py_ssize_t heads)
{
    npy_intp shape[2] = {-1, -1};
    if (!op_take_floats(call, &sequences->qkv, qkv, "qkv", 2, shape) ||
        !op_take_offsets(call, &sequences->offsets, &sequences->b, lengths, shape[0]) ||
        !op_check_range("heads", heads, 1, shape[1])) {
        return false;
    }
    if (shape[1] % (3 * heads) != 0) {
        PyErr_Format(PyExc_ValueError, "qkv: expected a width that is a multiple of 3 * heads, got %zd",
                     (Py_ssize_t)shape[1]);
        return false;
    }
    sequences->m = shape[0];
    sequences->c = shape[1] / 3;
    sequences->nh = (size_t)heads;
    sequences->hs = (size_t)(sequences->c / heads);
    return true;
}

bool op_check_range(const char *argument, Py_ssize_t value, Py_ssize_t least, Py_ssize_t most)
{
    if (value < least || value > most) {
        PyErr_Format(PyExc_ValueError, "%s: expected %zd to %zd, got %zd", argument, least, most, value);
        return false;
    }
    return true;
}

int op_to_activation(PyObject *object, void *out)
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

bool op_take_choice(int *choice, const char *argument, const char *name, const char *const *names, size_t n)
{
    size_t found = 0;
    while (found < n && strcmp(names[found], name) != 0) {
        found++;
    }
    if (found == n) {
        PyErr_Format(PyExc_ValueError, "%s: unknown value '%.50s'", argument, name);
        return false;
    }
    *choice = (int)found;
    return true;
}

float *op_new_output(op_call *call, int rank, const npy_intp *shape)
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

bool op_new_residual_output(op_call *call, float **y, const float **residual, int in_place, int rank,
                            const npy_intp *shape)
{
    if (in_place && *residual == NULL) {
        PyErr_SetString(PyExc_ValueError, "in_place: expected a residual");
        return false;
    }
    *y = op_new_output(call, rank, shape);
    if (*y != NULL && in_place) {
        memcpy(*y, *residual, (size_t)PyArray_MultiplyList(shape, rank) * sizeof(float));
        *residual = *y;
    }
    return *y != NULL;
}

bool op_new_sum_output(op_call *call, float **y, bool *accumulate, PyObject *onto, const char *argument,
                       int rank, npy_intp *shape)
{
    const float *summand;
    *accumulate = onto != Py_None;
    return op_take_optional_floats(call, &summand, onto, argument, rank, shape) &&
           op_new_residual_output(call, y, &summand, *accumulate, rank, shape);
}

bool op_conv2d_output_shape(npy_intp y_shape[4], const clipc_conv2d *conv, const npy_intp x_shape[4])
{
    const Py_ssize_t least = (Py_ssize_t)conv->kernel - 2 * (Py_ssize_t)conv->padding;
    if (!op_check_range("height of x", x_shape[1], least, INT_MAX) ||
        !op_check_range("width of x", x_shape[2], least, INT_MAX)) {
        return false;
    }
    y_shape[0] = x_shape[0];
    y_shape[1] = (npy_intp)clipc_conv2d_output_size(conv, (size_t)x_shape[1]);
    y_shape[2] = (npy_intp)clipc_conv2d_output_size(conv, (size_t)x_shape[2]);
    y_shape[3] = (npy_intp)conv->oc;
    return true;
}

bool op_add_tensor(op_call *call, op_tensor_table *table, const char *name, PyObject *object)
{
    op_named_tensor *tensor = &table->tensors[table->n];
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

bool op_take_tensors(op_call *call, op_tensor_table *table, PyObject *dict)
{
    PyObject *key, *value;
    Py_ssize_t position = 0;
    table->n = 0;
    while (PyDict_Next(dict, &position, &key, &value)) {
        const char *name = PyUnicode_AsUTF8(key);
        if (name == NULL) {
            return false;
        }
        if (call->n_inputs == OP_MAX_INPUTS) {
            PyErr_Format(PyExc_ValueError, "tensors: expected fewer than %d", OP_MAX_INPUTS);
            return false;
        }
        if (!op_add_tensor(call, table, name, value)) {
            return false;
        }
    }
    return true;
}

clipc_status op_fetch_tensor(void *source, const char *name, clipc_tensor_view *view, clipc_message *message)
{
    const op_tensor_table *table = source;
    for (size_t i = 0; i < table->n; i++) {
        if (strcmp(table->tensors[i].name, name) == 0) {
            *view = table->tensors[i].view;
            return CLIPC_OK;
        }
    }
    return clipc_fail(message, CLIPC_ERROR_WEIGHTS, "%s: missing", name);
}

clipc_status op_load_attention_pool(clipc_attention_pool *pool, clipc_loader *loader, size_t hw, size_t d)
{
    const size_t c = pool->c, position_shape[2] = {1 + hw, c};
    CLIPC_TRY(clipc_load_floats(loader, &pool->positional_embedding, "", "positional_embedding", 2,
                                position_shape));
    CLIPC_TRY(clipc_load_linear(loader, &pool->q_proj, "q_proj.", c, c));
    CLIPC_TRY(clipc_load_linear(loader, &pool->k_proj, "k_proj.", c, c));
    CLIPC_TRY(clipc_load_linear(loader, &pool->v_proj, "v_proj.", c, c));
    return clipc_load_linear(loader, &pool->c_proj, "c_proj.", d, c);
}
