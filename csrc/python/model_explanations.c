/* The methods of clipc._core.Model that explain. */
#include "python/model_type.h"

#include <string.h>

#include "model/explanation.h"

/* ---- arguments ------------------------------------------------------------------------------------- */

/* The index of `name` among the choices (which end with NULL), or -1 with an exception. */
static int choice(const char *argument, const char *name, const char *const *choices)
{
    for (int i = 0; choices[i] != NULL; i++) {
        if (strcmp(choices[i], name) == 0) {
            return i;
        }
    }
    PyErr_Format(PyExc_ValueError, "%s: unknown value '%.50s'", argument, name);
    return -1;
}

/* A score and what keeps its arrays alive. */
typedef struct {
    clipc_score score;
    PyArrayObject *texts;   /* owned */
    PyArrayObject *targets; /* owned; int64 */
    size_t *rows;           /* [n], owned: the targets, checked */
    size_t n;
} score_argument;

static void score_free(score_argument *argument)
{
    Py_CLEAR(argument->texts);
    Py_CLEAR(argument->targets);
    PyMem_Free(argument->rows);
    argument->rows = NULL;
}

static bool score_rows(score_argument *argument)
{
    const npy_int64 *given = PyArray_DATA(argument->targets);
    argument->n = (size_t)PyArray_DIM(argument->targets, 0);
    argument->rows = PyMem_Calloc(argument->n + 1, sizeof *argument->rows);
    if (argument->rows == NULL) {
        PyErr_NoMemory();
        return false;
    }
    for (size_t i = 0; i < argument->n; i++) {
        if (given[i] < 0 || (size_t)given[i] >= argument->score.l) {
            PyErr_Format(PyExc_ValueError, "targets: expected 0 to %zd, got %lld",
                         (Py_ssize_t)argument->score.l - 1, (long long)given[i]);
            return false;
        }
        argument->rows[i] = (size_t)given[i];
    }
    return true;
}

/* Converter of the tuple (kind, scale, texts, targets); false with an exception, and nothing to free. */
static bool score_parse(score_argument *argument, const model_object *self, PyObject *tuple)
{
    static const char *const kinds[] = {"cosine", "dot", "probability", NULL};
    const npy_intp texts_shape[2] = {-1, (npy_intp)self->model->config.embed_dim}, targets_shape[1] = {-1};
    const char *name;
    PyObject *texts, *targets;
    memset(argument, 0, sizeof *argument);
    if (!PyTuple_Check(tuple)) {
        PyErr_Format(PyExc_TypeError, "score: expected a tuple, got %s", Py_TYPE(tuple)->tp_name);
        return false;
    }
    if (!PyArg_ParseTuple(tuple, "sfOO:score", &name, &argument->score.scale, &texts, &targets)) {
        return false;
    }
    const int kind = choice("score", name, kinds);
    if (kind < 0) {
        return false;
    }
    argument->score.kind = (clipc_score_kind)kind;
    argument->texts = clipc_require_array(texts, "texts", NPY_FLOAT32, 2, texts_shape);
    if (argument->texts != NULL) {
        argument->targets = clipc_require_array(targets, "targets", NPY_INT64, 1, targets_shape);
    }
    if (argument->targets != NULL) {
        argument->score.texts = PyArray_DATA(argument->texts);
        argument->score.l = (size_t)PyArray_DIM(argument->texts, 0);
        argument->score.d = self->model->config.embed_dim;
        if (score_rows(argument)) {
            return true;
        }
    }
    score_free(argument);
    return false;
}

/* Converter for PyArg_Parse*: (stage, block). */
static int to_layer(PyObject *object, void *out)
{
    Py_ssize_t stage, block;
    if (!PyTuple_Check(object) || !PyArg_ParseTuple(object, "nn", &stage, &block)) {
        PyErr_SetString(PyExc_TypeError, "layer: expected (stage, block)");
        return 0;
    }
    if (stage < 0 || block < 0) {
        PyErr_SetString(PyExc_ValueError, "layer: expected a stage and a block of 0 or more");
        return 0;
    }
    *(clipc_target_layer *)out = (clipc_target_layer){(size_t)stage, (size_t)block};
    return 1;
}

/* ---- one call -------------------------------------------------------------------------------------- */

/* One call into the core: its image, score and outputs, from explain_begin to explain_end. */
typedef struct {
    model_object *self;
    PyArrayObject *image; /* owned */
    score_argument score;
    size_t h, w;
    clipc_workspace workspace;
    clipc_signal_poll poll;
    PyObject *outputs[3]; /* owned */
    size_t n_outputs;
} explain_call;

/* `score` may be NULL. False with an exception, and nothing to end. */
static bool explain_begin(explain_call *call, model_object *self, PyObject *image, PyObject *score)
{
    memset(call, 0, sizeof *call);
    call->self = self;
    if (score != NULL && !score_parse(&call->score, self, score)) {
        return false;
    }
    if (image != NULL) {
        call->image = clipc_require_images(self, image, "image", 3);
        if (call->image == NULL) {
            score_free(&call->score);
            return false;
        }
        call->h = (size_t)PyArray_DIM(call->image, 1);
        call->w = (size_t)PyArray_DIM(call->image, 2);
    }
    clipc_workspace_init(&call->workspace);
    clipc_poll_signals(&call->workspace, &call->poll);
    return true;
}

/* A new array of zeros among the outputs; NULL with an exception. */
static float *explain_output(explain_call *call, int rank, const npy_intp *shape)
{
    PyObject *array = PyArray_ZEROS(rank, shape, NPY_FLOAT32, 0);
    if (array == NULL) {
        return NULL;
    }
    call->outputs[call->n_outputs++] = array;
    return PyArray_DATA((PyArrayObject *)array);
}

/* The outputs as one array or as a tuple; NULL with the exception of `status`, or the one that is set
 * already. */
static PyObject *explain_end(explain_call *call, clipc_status status)
{
    clipc_workspace_free(&call->workspace);
    Py_XDECREF(call->image);
    score_free(&call->score);
    return clipc_take_outputs(call->self->module, status, &call->workspace.message, call->outputs,
                              call->n_outputs);
}

/* ---- methods --------------------------------------------------------------------------------------- */

/* The shape of a layer's activations; false with an exception. */
static bool layer_shape(const explain_call *call, clipc_target_layer layer, npy_intp shape[3])
{
    size_t gh, gw, c;
    clipc_message message = {""};
    const clipc_status status = clipc_target_layer_check(call->self->model, layer, &message);
    if (status != CLIPC_OK) {
        clipc_raise(call->self->module, status, &message);
        return false;
    }
    clipc_target_layer_shape(call->self->model, layer, call->h, call->w, &gh, &gw, &c);
    shape[0] = (npy_intp)gh;
    shape[1] = (npy_intp)gw;
    shape[2] = (npy_intp)c;
    return true;
}

PyObject *clipc_model_type_layer_gradients(model_object *self, PyObject *arguments)
{
    PyObject *image, *score;
    clipc_target_layer layer;
    explain_call call;
    float *values, *activations, *gradients;
    npy_intp shape[4];
    if (!PyArg_ParseTuple(arguments, "OO&O:layer_gradients", &image, to_layer, &layer, &score) ||
        !explain_begin(&call, self, image, score)) {
        return NULL;
    }
    shape[0] = (npy_intp)call.score.n;
    if (!layer_shape(&call, layer, shape + 1) || (values = explain_output(&call, 1, shape)) == NULL ||
        (activations = explain_output(&call, 3, shape + 1)) == NULL ||
        (gradients = explain_output(&call, 4, shape)) == NULL) {
        return explain_end(&call, CLIPC_ERROR_VALUE);
    }
    clipc_status status;
    Py_BEGIN_ALLOW_THREADS
    status = clipc_model_layer_gradients(self->model, &call.workspace, values, activations, gradients,
                                         PyArray_DATA(call.image), call.h, call.w, layer, &call.score.score,
                                         call.score.rows, call.score.n);
    Py_END_ALLOW_THREADS
    return explain_end(&call, status);
}

PyObject *clipc_model_type_grad_cam(model_object *self, PyObject *arguments)
{
    static const char *const kinds[] = {"gradcam", "gradcam++", "layercam", "hirescam", NULL};
    PyObject *image, *score;
    const char *name;
    clipc_target_layer layer;
    explain_call call;
    float *values, *maps;
    npy_intp shape[4];
    if (!PyArg_ParseTuple(arguments, "OO&sO:grad_cam", &image, to_layer, &layer, &name, &score)) {
        return NULL;
    }
    const int kind = choice("kind", name, kinds);
    if (kind < 0 || !explain_begin(&call, self, image, score)) {
        return NULL;
    }
    shape[0] = (npy_intp)call.score.n;
    if (!layer_shape(&call, layer, shape + 1) || (values = explain_output(&call, 1, shape)) == NULL ||
        (maps = explain_output(&call, 3, shape)) == NULL) {
        return explain_end(&call, CLIPC_ERROR_VALUE);
    }
    clipc_status status;
    Py_BEGIN_ALLOW_THREADS
    status = clipc_model_grad_cam(self->model, &call.workspace, values, maps, PyArray_DATA(call.image),
                                  call.h, call.w, layer, (clipc_cam_kind)kind, &call.score.score,
                                  call.score.rows, call.score.n);
    Py_END_ALLOW_THREADS
    return explain_end(&call, status);
}

/* The grid of a vision transformer, or of a ModifiedResNet's last stage. */
static void grid_shape(const explain_call *call, npy_intp shape[2])
{
    const size_t step = clipc_model_image_step(call->self->model);
    shape[0] = (npy_intp)(call->h / step);
    shape[1] = (npy_intp)(call->w / step);
}

PyObject *clipc_model_type_relevance(model_object *self, PyObject *arguments)
{
    PyObject *image, *score;
    Py_ssize_t first;
    explain_call call;
    float *values, *maps;
    npy_intp shape[3];
    if (!PyArg_ParseTuple(arguments, "OnO:relevance", &image, &first, &score) ||
        !explain_begin(&call, self, image, score)) {
        return NULL;
    }
    shape[0] = (npy_intp)call.score.n;
    grid_shape(&call, shape + 1);
    if ((values = explain_output(&call, 1, shape)) == NULL ||
        (maps = explain_output(&call, 3, shape)) == NULL) {
        return explain_end(&call, CLIPC_ERROR_VALUE);
    }
    clipc_status status;
    Py_BEGIN_ALLOW_THREADS
    status = clipc_model_relevance(self->model, &call.workspace, values, maps, PyArray_DATA(call.image),
                                   call.h, call.w, first < 0 ? SIZE_MAX : (size_t)first, &call.score.score,
                                   call.score.rows, call.score.n);
    Py_END_ALLOW_THREADS
    return explain_end(&call, status);
}

PyObject *clipc_model_type_rollout(model_object *self, PyObject *argument)
{
    explain_call call;
    float *map;
    npy_intp shape[2];
    if (!explain_begin(&call, self, argument, NULL)) {
        return NULL;
    }
    grid_shape(&call, shape);
    if ((map = explain_output(&call, 2, shape)) == NULL) {
        return explain_end(&call, CLIPC_ERROR_VALUE);
    }
    clipc_status status;
    Py_BEGIN_ALLOW_THREADS
    status = clipc_model_rollout(self->model, &call.workspace, map, PyArray_DATA(call.image), call.h, call.w);
    Py_END_ALLOW_THREADS
    return explain_end(&call, status);
}

PyObject *clipc_model_type_dense_features(model_object *self, PyObject *arguments)
{
    static const char *const kinds[] = {"maskclip", "sclip", "surgery", NULL};
    PyObject *image;
    const char *name;
    explain_call call;
    float *features;
    npy_intp grid[2];
    if (!PyArg_ParseTuple(arguments, "Os:dense_features", &image, &name)) {
        return NULL;
    }
    const int kind = choice("kind", name, kinds);
    if (kind < 0 || !explain_begin(&call, self, image, NULL)) {
        return NULL;
    }
    grid_shape(&call, grid);
    const npy_intp shape[2] = {1 + grid[0] * grid[1], (npy_intp)self->model->config.embed_dim};
    if ((features = explain_output(&call, 2, shape)) == NULL) {
        return explain_end(&call, CLIPC_ERROR_VALUE);
    }
    clipc_status status;
    Py_BEGIN_ALLOW_THREADS
    status = clipc_model_dense_features(self->model, &call.workspace, features, PyArray_DATA(call.image),
                                        call.h, call.w, (clipc_dense_kind)kind);
    Py_END_ALLOW_THREADS
    PyObject *result = explain_end(&call, status);
    return result == NULL ? NULL : Py_BuildValue("N(nn)", result, (Py_ssize_t)grid[0], (Py_ssize_t)grid[1]);
}

PyObject *clipc_model_type_text_relevance(model_object *self, PyObject *arguments)
{
    PyObject *tokens_object, *score;
    Py_ssize_t first;
    explain_call call;
    float *value, *relevance;
    const npy_intp one[1] = {1};
    if (!PyArg_ParseTuple(arguments, "OnO:text_relevance", &tokens_object, &first, &score) ||
        !explain_begin(&call, self, NULL, score)) {
        return NULL;
    }
    PyArrayObject *tokens = clipc_require_tokens(self, tokens_object, 1);
    if (tokens == NULL) {
        return explain_end(&call, CLIPC_ERROR_VALUE);
    }
    clipc_status status = CLIPC_ERROR_VALUE;
    if (call.score.score.l != 1) {
        PyErr_Format(PyExc_ValueError, "texts: expected the features of one picture, got %zd",
                     (Py_ssize_t)call.score.score.l);
    } else if ((value = explain_output(&call, 1, one)) != NULL &&
               (relevance = explain_output(&call, 1, PyArray_DIMS(tokens))) != NULL) {
        Py_BEGIN_ALLOW_THREADS
        status = clipc_model_text_relevance(self->model, &call.workspace, value, relevance,
                                            PyArray_DATA(tokens), (size_t)PyArray_DIM(tokens, 0),
                                            first < 0 ? SIZE_MAX : (size_t)first, &call.score.score);
        Py_END_ALLOW_THREADS
    }
    Py_DECREF(tokens);
    return explain_end(&call, status);
}
