/* Boxes and masks: overlap, non-maximum suppression, connected components. */
#include "python/binding.h"

#include <math.h>
#include <string.h>

#include "detection/boxes.h"
#include "detection/components.h"

static const npy_intp boxes_shape[2] = {-1, 4};

static PyObject *box_iou(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"a", "b", NULL};
    PyObject *a_object, *b_object, *result = NULL;
    PyArrayObject *a = NULL, *b = NULL, *out = NULL;
    clipc_workspace workspace;
    clipc_signal_poll poll;
    clipc_status status;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:box_iou", names, &a_object, &b_object)) {
        return NULL;
    }
    a = clipc_require_array(a_object, "a", NPY_FLOAT32, 2, boxes_shape);
    b = a == NULL ? NULL : clipc_require_array(b_object, "b", NPY_FLOAT32, 2, boxes_shape);
    if (b == NULL) {
        goto cleanup;
    }
    const npy_intp n = PyArray_DIM(a, 0), m = PyArray_DIM(b, 0);
    const npy_intp shape[2] = {n, m};
    out = (PyArrayObject *)PyArray_SimpleNew(2, shape, NPY_FLOAT32);
    if (out == NULL) {
        goto cleanup;
    }
    const float *const a_boxes = PyArray_DATA(a), *const b_boxes = PyArray_DATA(b);
    float *const values = PyArray_DATA(out);
    clipc_workspace_init(&workspace);
    clipc_poll_signals(&workspace, &poll);

    Py_BEGIN_ALLOW_THREADS
    status = clipc_box_iou(&workspace, values, a_boxes, (size_t)n, b_boxes, (size_t)m);
    Py_END_ALLOW_THREADS

    PyObject *output = (PyObject *)out;
    result = clipc_take_outputs(module, status, &workspace.message, &output, 1);
    clipc_workspace_free(&workspace);
cleanup:
    Py_XDECREF(a);
    Py_XDECREF(b);
    return result;
}

/* New references to checked arrays. */
typedef struct {
    PyArrayObject *boxes, *scores, *classes; /* classes: NULL when None was given */
    size_t n;
} scored_boxes;

static void release_scored_boxes(scored_boxes *input)
{
    Py_CLEAR(input->boxes);
    Py_CLEAR(input->scores);
    Py_CLEAR(input->classes);
}

static bool require_scored_boxes(scored_boxes *input, PyObject *boxes, PyObject *scores, PyObject *classes)
{
    *input = (scored_boxes){NULL, NULL, NULL, 0};
    input->boxes = clipc_require_array(boxes, "boxes", NPY_FLOAT32, 2, boxes_shape);
    if (input->boxes == NULL) {
        return false;
    }
    const npy_intp n = PyArray_DIM(input->boxes, 0);
    input->n = (size_t)n;
    input->scores = clipc_require_array(scores, "scores", NPY_FLOAT32, 1, &n);
    if (input->scores != NULL && classes != Py_None) {
        input->classes = clipc_require_array(classes, "classes", NPY_INT64, 1, &n);
    }
    if (input->scores == NULL || (classes != Py_None && input->classes == NULL)) {
        release_scored_boxes(input);
        return false;
    }
    return true;
}

/* The first n elements of an array with one axis, as a new array. */
static PyObject *first_elements(PyArrayObject *array, size_t n)
{
    const npy_intp length = (npy_intp)n;
    PyObject *out = PyArray_SimpleNew(1, &length, PyArray_TYPE(array));
    if (out != NULL) {
        memcpy(PyArray_DATA((PyArrayObject *)out), PyArray_DATA(array), n * (size_t)PyArray_ITEMSIZE(array));
    }
    return out;
}

static bool check_number(const char *argument, double value, bool valid, const char *expected)
{
    if (!valid) {
        char text[64];
        PyOS_snprintf(text, sizeof text, "%g", value);
        PyErr_Format(PyExc_ValueError, "%s: expected %s, got %s", argument, expected, text);
    }
    return valid;
}

static bool check_fraction(const char *argument, double value)
{
    return check_number(argument, value, value >= 0.0 && value <= 1.0, "a number from 0 to 1");
}

static PyObject *nms(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"boxes", "scores", "threshold", "classes", NULL};
    PyObject *boxes, *scores, *classes = Py_None, *result = NULL;
    double threshold;
    scored_boxes input;
    size_t n_kept;
    clipc_workspace workspace;
    clipc_signal_poll poll;
    clipc_status status;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOd|O:nms", names, &boxes, &scores, &threshold,
                                     &classes)) {
        return NULL;
    }
    if (!check_fraction("threshold", threshold) || !require_scored_boxes(&input, boxes, scores, classes)) {
        return NULL;
    }
    const npy_intp n = (npy_intp)input.n;
    PyArrayObject *kept = (PyArrayObject *)PyArray_SimpleNew(1, &n, NPY_INT64);
    if (kept == NULL) {
        release_scored_boxes(&input);
        return NULL;
    }
    const float *const box_values = PyArray_DATA(input.boxes), *const score_values =
                                                                   PyArray_DATA(input.scores);
    const int64_t *const class_values = input.classes == NULL ? NULL : PyArray_DATA(input.classes);
    int64_t *const indices = PyArray_DATA(kept);
    clipc_workspace_init(&workspace);
    clipc_poll_signals(&workspace, &poll);

    Py_BEGIN_ALLOW_THREADS
    status =
        clipc_nms(&workspace, indices, &n_kept, box_values, score_values, class_values, input.n, threshold);
    Py_END_ALLOW_THREADS

    result =
        status == CLIPC_OK ? first_elements(kept, n_kept) : clipc_raise(module, status, &workspace.message);
    clipc_workspace_free(&workspace);
    release_scored_boxes(&input);
    Py_DECREF(kept);
    return result;
}

static bool parse_kind(PyObject *name, clipc_soft_nms_kind *kind)
{
    if (PyUnicode_CompareWithASCIIString(name, "gaussian") == 0) {
        *kind = CLIPC_SOFT_NMS_GAUSSIAN;
        return true;
    }
    if (PyUnicode_CompareWithASCIIString(name, "linear") == 0) {
        *kind = CLIPC_SOFT_NMS_LINEAR;
        return true;
    }
    PyErr_Format(PyExc_ValueError, "kind: expected 'gaussian' or 'linear', got %R", name);
    return false;
}

static PyObject *soft_nms(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"boxes", "scores", "classes", "kind", "sigma", "iou", "threshold", NULL};
    PyObject *boxes, *scores, *classes = Py_None, *kind_name = NULL, *result = NULL;
    double sigma = 0.5, iou = 0.3, threshold = 0.001;
    clipc_soft_nms_kind kind = CLIPC_SOFT_NMS_GAUSSIAN;
    scored_boxes input;
    size_t n_taken;
    clipc_workspace workspace;
    clipc_signal_poll poll;
    clipc_status status;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|$OUddd:soft_nms", names, &boxes, &scores, &classes,
                                     &kind_name, &sigma, &iou, &threshold)) {
        return NULL;
    }
    if ((kind_name != NULL && !parse_kind(kind_name, &kind)) ||
        !check_number("sigma", sigma, isfinite(sigma) && sigma > 0.0, "a positive number") ||
        !check_fraction("iou", iou) ||
        !check_number("threshold", threshold, isfinite(threshold) && threshold >= 0.0,
                      "a number that is not negative") ||
        !require_scored_boxes(&input, boxes, scores, classes)) {
        return NULL;
    }
    const npy_intp n = (npy_intp)input.n;
    PyArrayObject *taken = (PyArrayObject *)PyArray_SimpleNew(1, &n, NPY_INT64);
    PyArrayObject *new_scores = (PyArrayObject *)PyArray_SimpleNew(1, &n, NPY_FLOAT32);
    if (taken == NULL || new_scores == NULL) {
        goto cleanup;
    }
    const float *const box_values = PyArray_DATA(input.boxes), *const score_values =
                                                                   PyArray_DATA(input.scores);
    const int64_t *const class_values = input.classes == NULL ? NULL : PyArray_DATA(input.classes);
    int64_t *const taken_values = PyArray_DATA(taken);
    float *const new_values = PyArray_DATA(new_scores);
    clipc_workspace_init(&workspace);
    clipc_poll_signals(&workspace, &poll);

    Py_BEGIN_ALLOW_THREADS
    status = clipc_soft_nms(&workspace, taken_values, new_values, &n_taken, box_values, score_values,
                            class_values, input.n, kind, sigma, iou, threshold);
    Py_END_ALLOW_THREADS

    if (status == CLIPC_OK) {
        /* N: takes the references over, and fails when one of them is NULL. */
        result = Py_BuildValue("(NN)", first_elements(taken, n_taken), first_elements(new_scores, n_taken));
    } else {
        clipc_raise(module, status, &workspace.message);
    }
    clipc_workspace_free(&workspace);
cleanup:
    release_scored_boxes(&input);
    Py_XDECREF(taken);
    Py_XDECREF(new_scores);
    return result;
}

static PyObject *connected_components(PyObject *module, PyObject *argument)
{
    static const npy_intp mask_shape[2] = {-1, -1};
    size_t n;
    clipc_workspace workspace;
    clipc_signal_poll poll;
    clipc_status status;
    PyArrayObject *mask = clipc_require_array(argument, "mask", NPY_BOOL, 2, mask_shape);
    if (mask == NULL) {
        return NULL;
    }
    PyArrayObject *labels = (PyArrayObject *)PyArray_SimpleNew(2, PyArray_DIMS(mask), NPY_INT32);
    if (labels == NULL) {
        Py_DECREF(mask);
        return NULL;
    }
    const uint8_t *const mask_values = PyArray_DATA(mask);
    const size_t height = (size_t)PyArray_DIM(mask, 0), width = (size_t)PyArray_DIM(mask, 1);
    int32_t *const label_values = PyArray_DATA(labels);
    clipc_workspace_init(&workspace);
    clipc_poll_signals(&workspace, &poll);

    Py_BEGIN_ALLOW_THREADS
    status = clipc_connected_components(&workspace, label_values, &n, mask_values, height, width);
    Py_END_ALLOW_THREADS

    PyObject *result = status == CLIPC_OK ? Py_BuildValue("(On)", labels, (Py_ssize_t)n)
                                          : clipc_raise(module, status, &workspace.message);
    clipc_workspace_free(&workspace);
    Py_DECREF(mask);
    Py_DECREF(labels);
    return result;
}

#define KEYWORDS(function) ((PyCFunction)(void (*)(void))(function))

PyMethodDef clipc_detection_methods[] = {
    {"box_iou", KEYWORDS(box_iou), METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR(
         "box_iou(a, b) -> float32 array (N, M)\n\n"
         "Intersection over union of boxes, float32 (N, 4) and (M, 4): x0, y0, x1, y1. Of a box without\n"
         "area it is 0.")},
    {"nms", KEYWORDS(nms), METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR(
         "nms(boxes, scores, threshold, classes=None) -> int64 array\n\n"
         "Indices of the boxes, float32 (N, 4), that stay, highest score first, of equal scores the lower\n"
         "index first. A box goes when its IoU with one that stays, of its class, is > threshold.\n"
         "scores: float32 (N,); classes: int64 (N,).")},
    {"soft_nms", KEYWORDS(soft_nms), METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR(
         "soft_nms(boxes, scores, *, classes=None, kind='gaussian', sigma=0.5, iou=0.3, threshold=0.001)\n"
         "-> (int64 array, float32 array)\n\n"
         "Indices and lowered scores of the boxes in the order in which they are taken, until no score\n"
         "reaches the threshold. A taken box multiplies the scores of its class by exp(-IoU^2 / sigma), or\n"
         "with kind='linear' by 1 - IoU where that IoU is > iou.")},
    {"connected_components", connected_components, METH_O,
     PyDoc_STR(
         "connected_components(mask) -> (int32 array (H, W), n)\n\n"
         "Numbers the components of a bool array (H, W), 8 neighbours, 1 to n in reading order of their\n"
         "first pixels; 0 is the background.")},
    {NULL, NULL, 0, NULL},
};
