/* The methods of clipc._core.Model that detect. */
#include "python/model_type.h"

#define N_OUTPUTS 5

/* The new arrays that `outputs` points into, float32; a fifth of None where the head has no objectness. False
 * with an exception; what was made is among the arrays. */
static bool new_outputs(PyObject *arrays[N_OUTPUTS], clipc_detection_outputs *outputs,
                        const clipc_model *model, npy_intp t)
{
    const npy_intp shapes[N_OUTPUTS][2] = {
        {t, (npy_intp)model->config.embed_dim}, {t, 0}, {t, 0}, {t, 4}, {t, 0}};
    const int ranks[N_OUTPUTS] = {2, 1, 1, 2, 1};
    float **const data[N_OUTPUTS] = {&outputs->features, &outputs->logit_shift, &outputs->logit_scale,
                                     &outputs->boxes, &outputs->objectness};
    for (int i = 0; i < N_OUTPUTS; i++) {
        if (data[i] == &outputs->objectness && !model->detection.has_objectness) {
            arrays[i] = Py_NewRef(Py_None);
            *data[i] = NULL;
            continue;
        }
        arrays[i] = PyArray_SimpleNew(ranks[i], shapes[i], NPY_FLOAT32);
        if (arrays[i] == NULL) {
            return false;
        }
        *data[i] = PyArray_DATA((PyArrayObject *)arrays[i]);
    }
    return true;
}

/* The outputs as a tuple, or NULL with the exception of `status` or the one that is set already. */
static PyObject *detect(model_object *self, PyArrayObject *image)
{
    PyObject *arrays[N_OUTPUTS] = {NULL}, *result = NULL;
    clipc_detection_outputs outputs;
    const size_t h = (size_t)PyArray_DIM(image, 1), w = (size_t)PyArray_DIM(image, 2);
    const size_t step = clipc_model_image_step(self->model);
    if (new_outputs(arrays, &outputs, self->model, (npy_intp)(h / step * (w / step)))) {
        clipc_workspace workspace;
        clipc_signal_poll poll;
        clipc_status status;
        clipc_workspace_init(&workspace);
        clipc_poll_signals(&workspace, &poll);
        Py_BEGIN_ALLOW_THREADS
        status = clipc_model_detection_outputs(self->model, &workspace, &outputs, PyArray_DATA(image), h, w);
        clipc_workspace_free(&workspace);
        Py_END_ALLOW_THREADS
        result = status == CLIPC_OK
                     ? PyTuple_Pack(N_OUTPUTS, arrays[0], arrays[1], arrays[2], arrays[3], arrays[4])
                     : clipc_raise(self->module, status, &workspace.message);
    }
    for (int i = 0; i < N_OUTPUTS; i++) {
        Py_XDECREF(arrays[i]);
    }
    return result;
}

PyObject *clipc_model_type_detection_outputs(model_object *self, PyObject *argument)
{
    PyArrayObject *image = clipc_require_images(self, argument, "image", 3);
    if (image == NULL) {
        return NULL;
    }
    PyObject *result = detect(self, image);
    Py_DECREF(image);
    return result;
}

PyObject *clipc_model_type_has_detection_head(model_object *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(self->model->config.detector != CLIPC_DETECTOR_NONE);
}
