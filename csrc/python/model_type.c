/* The type clipc._core.Model: a loaded model, and the two encodes. Explanations: model_explanations.c,
 * detection: model_detection.c */
#include "python/model_type.h"

#include <math.h>
#include <string.h>

#include "image/resize.h"

/* ---- configuration: a dict of clipc.weights.config.ModelConfig.to_core() --------------------------- */

static int size_from_object(PyObject *value, const char *key, size_t *out)
{
    const Py_ssize_t size = PyNumber_AsSsize_t(value, PyExc_OverflowError);
    if (size == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (size < 0) {
        PyErr_Format(PyExc_ValueError, "config[%s]: expected a size, got %zd", key, size);
        return -1;
    }
    *out = (size_t)size;
    return 0;
}

/* A borrowed reference, or NULL with KeyError. */
static PyObject *config_item(PyObject *config, const char *key)
{
    PyObject *value = PyDict_GetItemString(config, key);
    if (value == NULL) {
        PyErr_Format(PyExc_KeyError, "config: %s is missing", key);
    }
    return value;
}

static int config_layers(PyObject *config, clipc_config *out)
{
    PyObject *value = config_item(config, "vision_layers");
    if (value == NULL) {
        return -1;
    }
    if (out->vision == CLIPC_VISION_TRANSFORMER) {
        return size_from_object(value, "vision_layers", &out->vision_layers[0]);
    }
    if (!PyTuple_Check(value) || PyTuple_GET_SIZE(value) != 4) {
        PyErr_Format(PyExc_ValueError, "config[vision_layers]: expected four numbers, got %R", value);
        return -1;
    }
    for (Py_ssize_t i = 0; i < 4; i++) {
        if (size_from_object(PyTuple_GET_ITEM(value, i), "vision_layers", &out->vision_layers[i]) < 0) {
            return -1;
        }
    }
    return 0;
}

/* The index of the string config[key] among the choices (which end with NULL), or -1 with an exception. */
static int config_choice(PyObject *config, const char *key, const char *const *choices)
{
    PyObject *value = config_item(config, key);
    if (value == NULL) {
        return -1;
    }
    for (int i = 0; choices[i] != NULL; i++) {
        if (PyUnicode_Check(value) && PyUnicode_CompareWithASCIIString(value, choices[i]) == 0) {
            return i;
        }
    }
    PyErr_Format(PyExc_ValueError, "config[%s]: unknown value %R", key, value);
    return -1;
}

static int config_from_dict(PyObject *config, clipc_config *out)
{
    static const char *const visions[] = {"vit", "modified_resnet", NULL};
    static const char *const activations[] = {"quick_gelu", "gelu", NULL};
    static const char *const detectors[] = {"", "owlvit", "owlv2", NULL}; /* as clipc_detector_kind */
    const struct {
        const char *key;
        size_t *out;
    } sizes[] = {
        {"embed_dim", &out->embed_dim},           {"image_size", &out->image_size},
        {"vision_width", &out->vision_width},     {"vision_patch_size", &out->vision_patch_size},
        {"vision_heads", &out->vision_heads},     {"vision_mlp_width", &out->vision_mlp_width},
        {"context_length", &out->context_length}, {"vocab_size", &out->vocab_size},
        {"text_width", &out->text_width},         {"text_heads", &out->text_heads},
        {"text_layers", &out->text_layers},       {"text_mlp_width", &out->text_mlp_width},
    };
    memset(out, 0, sizeof *out);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        PyObject *value = config_item(config, sizes[i].key);
        if (value == NULL || size_from_object(value, sizes[i].key, sizes[i].out) < 0) {
            return -1;
        }
    }
    const int vision = config_choice(config, "vision", visions);
    const int activation = vision < 0 ? -1 : config_choice(config, "activation", activations);
    const int detector = activation < 0 ? -1 : config_choice(config, "detector", detectors);
    if (detector < 0) {
        return -1;
    }
    out->vision = vision == 0 ? CLIPC_VISION_TRANSFORMER : CLIPC_MODIFIED_RESNET;
    out->activation = activation == 0 ? CLIPC_ACTIVATION_QUICK_GELU : CLIPC_ACTIVATION_GELU;
    out->detector = (clipc_detector_kind)detector;
    return config_layers(config, out);
}

/* ---- loading --------------------------------------------------------------------------------------- */

clipc_status clipc_view_array(clipc_tensor_view *view, PyArrayObject **array, PyObject *object,
                              const char *name, clipc_message *message)
{
    *array = NULL;
    if (!PyArray_Check(object)) {
        PyErr_Format(PyExc_TypeError, "%s: expected a NumPy array, got %s", name, Py_TYPE(object)->tp_name);
        return CLIPC_ERROR_TYPE;
    }
    PyArrayObject *found = (PyArrayObject *)object;
    switch (PyArray_TYPE(found)) {
    case NPY_FLOAT32:
        view->dtype = CLIPC_FLOAT32;
        break;
    case NPY_FLOAT16:
        view->dtype = CLIPC_FLOAT16;
        break;
    case NPY_UINT16: /* NumPy has no bfloat16; its bits come as integers */
        view->dtype = CLIPC_BFLOAT16;
        break;
    default: {
        PyObject *text = PyObject_Str((PyObject *)PyArray_DESCR(found));
        const char *dtype = text ? PyUnicode_AsUTF8(text) : NULL;
        const clipc_status status =
            clipc_fail(message, CLIPC_ERROR_WEIGHTS, "%s: expected float32, float16 or bfloat16, got %s",
                       name, dtype ? dtype : "another dtype");
        PyErr_Clear();
        Py_XDECREF(text);
        return status;
    }
    }
    view->rank = PyArray_NDIM(found);
    if (view->rank > CLIPC_MAX_RANK) {
        return clipc_fail(message, CLIPC_ERROR_WEIGHTS, "%s: expected at most %d dimensions, got %d", name,
                          CLIPC_MAX_RANK, view->rank);
    }
    for (int i = 0; i < view->rank; i++) {
        view->shape[i] = (size_t)PyArray_DIM(found, i);
    }
    *array = (PyArrayObject *)PyArray_FROM_OF(object, NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED |
                                                          NPY_ARRAY_NOTSWAPPED);
    if (*array == NULL) {
        return CLIPC_ERROR_MEMORY;
    }
    view->data = PyArray_DATA(*array);
    return CLIPC_OK;
}

typedef struct {
    PyObject *read;        /* callable: name -> array; borrowed */
    PyArrayObject *tensor; /* what the last view points into; owned */
} python_source;

/* Called without the GIL. A Python exception that is set here survives until clipc_raise. */
static clipc_status fetch_with_gil(python_source *source, const char *name, clipc_tensor_view *view,
                                   clipc_message *message)
{
    Py_CLEAR(source->tensor);
    if (PyErr_CheckSignals() < 0) {
        return CLIPC_INTERRUPTED;
    }
    PyObject *result = PyObject_CallFunction(source->read, "s", name);
    if (result == NULL) {
        return CLIPC_ERROR_WEIGHTS;
    }
    const clipc_status status = clipc_view_array(view, &source->tensor, result, name, message);
    Py_DECREF(result);
    return status;
}

static clipc_status fetch(void *context, const char *name, clipc_tensor_view *view, clipc_message *message)
{
    const PyGILState_STATE gil = PyGILState_Ensure();
    const clipc_status status = fetch_with_gil(context, name, view, message);
    PyGILState_Release(gil);
    return status;
}

static PyObject *model_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"config", "read", NULL};
    PyObject *config_dict;
    python_source source = {NULL, NULL};
    clipc_config config;
    clipc_model *model = NULL;
    clipc_message message = {""};
    clipc_loader loader = {fetch, &source, &message};
    clipc_status status;

    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O!O:Model", names, &PyDict_Type, &config_dict,
                                     &source.read)) {
        return NULL;
    }
    if (!PyCallable_Check(source.read)) {
        return PyErr_Format(PyExc_TypeError, "read: expected a callable, got %s",
                            Py_TYPE(source.read)->tp_name);
    }
    if (config_from_dict(config_dict, &config) < 0) {
        return NULL;
    }
    PyObject *module = PyType_GetModule(type);
    if (module == NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    status = clipc_model_load(&model, &config, &loader);
    Py_END_ALLOW_THREADS
    Py_CLEAR(source.tensor);
    if (status != CLIPC_OK) {
        return clipc_raise(module, status, &message);
    }
    model_object *self = (model_object *)type->tp_alloc(type, 0);
    if (self == NULL) {
        clipc_model_free(model);
        return NULL;
    }
    self->model = model;
    self->module = Py_NewRef(module);
    return (PyObject *)self;
}

static int model_traverse(model_object *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->module);
    return 0;
}

static int model_clear(model_object *self)
{
    Py_CLEAR(self->module);
    return 0;
}

static void model_dealloc(model_object *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    clipc_model_free(self->model);
    model_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* ---- encoding -------------------------------------------------------------------------------------- */

typedef clipc_status (*encode_call)(const clipc_model *model, clipc_workspace *workspace, float *features,
                                    PyArrayObject *input);

static clipc_status call_encode_images(const clipc_model *model, clipc_workspace *workspace, float *features,
                                       PyArrayObject *input)
{
    return clipc_model_encode_images(model, workspace, features, PyArray_DATA(input),
                                     (size_t)PyArray_DIM(input, 0), (size_t)PyArray_DIM(input, 2),
                                     (size_t)PyArray_DIM(input, 3));
}

static clipc_status call_encode_texts(const clipc_model *model, clipc_workspace *workspace, float *features,
                                      PyArrayObject *input)
{
    return clipc_model_encode_texts(model, workspace, features, PyArray_DATA(input),
                                    (size_t)PyArray_DIM(input, 0), (size_t)PyArray_DIM(input, 1));
}

/* The features of `input`, a checked array with one image or text in each row; its reference is taken over.
 */
static PyObject *encode(model_object *self, PyArrayObject *input, encode_call call)
{
    const npy_intp shape[2] = {PyArray_DIM(input, 0), (npy_intp)self->model->config.embed_dim};
    PyArrayObject *features = (PyArrayObject *)PyArray_SimpleNew(2, shape, NPY_FLOAT32);
    if (features == NULL) {
        Py_DECREF(input);
        return NULL;
    }
    clipc_workspace workspace;
    clipc_signal_poll poll;
    clipc_status status;
    clipc_workspace_init(&workspace);
    clipc_poll_signals(&workspace, &poll);
    Py_BEGIN_ALLOW_THREADS
    status = call(self->model, &workspace, PyArray_DATA(features), input);
    clipc_workspace_free(&workspace);
    Py_END_ALLOW_THREADS
    Py_DECREF(input);
    PyObject *output = (PyObject *)features;
    return clipc_take_outputs(self->module, status, &workspace.message, &output, 1);
}

PyArrayObject *clipc_require_images(const model_object *self, PyObject *argument, const char *name, int rank)
{
    const npy_intp step = (npy_intp)clipc_model_image_step(self->model), most = CLIPC_MAX_CROP,
                   shape[4] = {-1, 3, -1, -1};
    PyArrayObject *images = clipc_require_array(argument, name, NPY_FLOAT32, rank, shape + (4 - rank));
    if (images == NULL) {
        return NULL;
    }
    const npy_intp height = PyArray_DIM(images, rank - 2), width = PyArray_DIM(images, rank - 1);
    if (height < step || width < step || height % step != 0 || width % step != 0 || height > most ||
        width > most) {
        PyErr_Format(PyExc_ValueError,
                     "%s: expected a height and a width that are multiples of %zd, at most %d, got "
                     "%zd x %zd",
                     name, (Py_ssize_t)step, (int)most, (Py_ssize_t)height, (Py_ssize_t)width);
        Py_DECREF(images);
        return NULL;
    }
    return images;
}

static PyObject *model_encode_images(model_object *self, PyObject *argument)
{
    PyArrayObject *images = clipc_require_images(self, argument, "images", 4);
    return images == NULL ? NULL : encode(self, images, call_encode_images);
}

PyArrayObject *clipc_require_tokens(const model_object *self, PyObject *argument, int rank)
{
    const npy_intp shape[2] = {-1, -1};
    PyArrayObject *tokens = clipc_require_array(argument, "tokens", NPY_INT32, rank, shape);
    if (tokens == NULL) {
        return NULL;
    }
    const npy_intp length = PyArray_DIM(tokens, rank - 1);
    if (length < 1 || (size_t)length > self->model->config.context_length) {
        PyErr_Format(PyExc_ValueError, "tokens: expected 1 to %zu positions, got %zd",
                     self->model->config.context_length, (Py_ssize_t)length);
        Py_DECREF(tokens);
        return NULL;
    }
    return tokens;
}

static PyObject *model_encode_texts(model_object *self, PyObject *argument)
{
    PyArrayObject *tokens = clipc_require_tokens(self, argument, 2);
    return tokens == NULL ? NULL : encode(self, tokens, call_encode_texts);
}

static PyObject *model_known_tokens(model_object *self, PyObject *unused)
{
    (void)unused;
    const npy_intp shape[1] = {(npy_intp)self->model->config.vocab_size};
    PyArrayObject *known = (PyArrayObject *)PyArray_SimpleNew(1, shape, NPY_BOOL);
    if (known != NULL) {
        clipc_text_known_tokens(PyArray_DATA(known), &self->model->text);
    }
    return (PyObject *)known;
}

static PyObject *model_get_logit_scale(model_object *self, void *unused)
{
    (void)unused;
    return PyFloat_FromDouble(exp((double)self->model->logit_scale));
}

static PyMethodDef model_methods[] = {
    {"encode_images", (PyCFunction)model_encode_images, METH_O,
     PyDoc_STR("encode_images(images) -> features\n\n"
               "images: float32 (N, 3, H, W), preprocessed, H and W multiples of the patch size or of 32;\n"
               "features: float32 (N, D), not normalised.")},
    {"encode_texts", (PyCFunction)model_encode_texts, METH_O,
     PyDoc_STR(
         "encode_texts(tokens) -> features\n\n"
         "tokens: int32 (N, L) with the end token in each row; features: float32 (N, D), not normalised.")},
    {"known_tokens", (PyCFunction)model_known_tokens, METH_NOARGS,
     PyDoc_STR("known_tokens() -> bool (vocab_size,)\n\nFalse where the embedding of a token is all zeros.")},
    /* score: (kind, scale, texts, targets): "cosine", "dot" or "probability", a factor, float32 (L, D), of
     * unit length but for "dot", and int64 (N,), the rows of texts that are explained. layer: (stage, block).
     */
    {"layer_gradients", (PyCFunction)clipc_model_type_layer_gradients, METH_VARARGS,
     PyDoc_STR(
         "layer_gradients(image, layer, score) -> (values, activations, gradients)\n\n"
         "image: float32 (3, H, W); values: (N,), activations: (GH, GW, C), gradients: (N, GH, GW, C).")},
    {"grad_cam", (PyCFunction)clipc_model_type_grad_cam, METH_VARARGS,
     PyDoc_STR("grad_cam(image, layer, kind, score) -> (values, maps)\n\n"
               "kind: 'gradcam', 'gradcam++', 'layercam' or 'hirescam'; maps: float32 (N, GH, GW), signed.")},
    {"relevance", (PyCFunction)clipc_model_type_relevance, METH_VARARGS,
     PyDoc_STR("relevance(image, first_block, score) -> (values, maps)\n\nmaps: float32 (N, GH, GW).")},
    {"rollout", (PyCFunction)clipc_model_type_rollout, METH_O,
     PyDoc_STR("rollout(image) -> map\n\nmap: float32 (GH, GW).")},
    {"dense_features", (PyCFunction)clipc_model_type_dense_features, METH_VARARGS,
     PyDoc_STR(
         "dense_features(image, kind) -> (features, (GH, GW))\n\n"
         "kind: 'maskclip', 'sclip' or 'surgery'; features: float32 (1 + GH * GW, D), not normalised, the\n"
         "picture's own first.")},
    {"text_relevance", (PyCFunction)clipc_model_type_text_relevance, METH_VARARGS,
     PyDoc_STR(
         "text_relevance(tokens, first_block, score) -> (value, relevance)\n\n"
         "tokens: int32 (L,); score: its texts hold the features of one picture; relevance: float32 (L,).")},
    {"detection_outputs", (PyCFunction)clipc_model_type_detection_outputs, METH_O,
     PyDoc_STR(
         "detection_outputs(image) -> (features, logit_shift, logit_scale, boxes, objectness)\n\n"
         "image: float32 (3, H, W); for each patch, row by row: features (T, D), not normalised,\n"
         "logit_shift (T,), logit_scale (T,), boxes (T, 4), centre x, y, width, height as parts of the\n"
         "square, objectness (T,), logits, or None.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef model_getset[] = {
    {"logit_scale", (getter)model_get_logit_scale, NULL,
     PyDoc_STR("exp(logit_scale): logits are this times the cosine."), NULL},
    {"has_detection_head", (getter)clipc_model_type_has_detection_head, NULL,
     PyDoc_STR("Whether detection_outputs works: OWL-ViT or OWLv2."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot model_slots[] = {
    {Py_tp_doc,
     PyDoc_STR("Model(config, read)\n\n"
               "config: dict of sizes; read: callable that gives the tensor of an OpenAI name as float32,\n"
               "float16 or uint16 (the bits of bfloat16).")},
    {Py_tp_new, model_new},
    {Py_tp_dealloc, model_dealloc},
    {Py_tp_traverse, model_traverse},
    {Py_tp_clear, model_clear},
    {Py_tp_methods, model_methods},
    {Py_tp_getset, model_getset},
    {0, NULL},
};

static PyType_Spec model_spec = {
    .name = "clipc._core.Model",
    .basicsize = sizeof(model_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = model_slots,
};

int clipc_add_model_type(PyObject *module)
{
    clipc_module_state *state = PyModule_GetState(module);
    state->model_type = PyType_FromModuleAndSpec(module, &model_spec, NULL);
    if (state->model_type == NULL) {
        return -1;
    }
    return PyModule_AddType(module, (PyTypeObject *)state->model_type);
}
