/* Images: bytes to pixels, pixels to the input of the image encoder. */
#include "python/binding.h"

#include <math.h>
#include <stdlib.h>

#include "image/crops.h"
#include "image/decode.h"
#include "image/preprocess.h"
#include "image/resize.h"

#define CAPSULE_NAME "clipc.pixels"

static void free_pixels(PyObject *capsule)
{
    free(PyCapsule_GetPointer(capsule, CAPSULE_NAME));
}

/* Takes over `pixels` ([height, width, 3], from malloc), also when it fails. */
static PyObject *wrap_pixels(uint8_t *pixels, size_t height, size_t width)
{
    const npy_intp shape[3] = {(npy_intp)height, (npy_intp)width, 3};
    PyObject *capsule = PyCapsule_New(pixels, CAPSULE_NAME, free_pixels);
    if (capsule == NULL) {
        free(pixels);
        return NULL;
    }
    PyObject *array = PyArray_SimpleNewFromData(3, shape, NPY_UINT8, pixels);
    if (array == NULL) {
        Py_DECREF(capsule);
        return NULL;
    }
    if (PyArray_SetBaseObject((PyArrayObject *)array, capsule) <
        0) { /* takes the reference over, also then */
        Py_DECREF(array);
        return NULL;
    }
    return array;
}

/* A new reference to `rgb` as a C-contiguous uint8 array (H, W, 3), H and W at least 1. */
static PyArrayObject *require_rgb(PyObject *object, size_t *height, size_t *width)
{
    static const npy_intp shape[3] = {-1, -1, 3};
    PyArrayObject *rgb = clipc_require_array(object, "rgb", NPY_UINT8, 3, shape);
    if (rgb == NULL) {
        return NULL;
    }
    *height = (size_t)PyArray_DIM(rgb, 0);
    *width = (size_t)PyArray_DIM(rgb, 1);
    if (*height < 1 || *width < 1 || *height > CLIPC_MAX_SIDE || *width > CLIPC_MAX_SIDE) {
        PyErr_Format(PyExc_ValueError, "rgb: expected sides from 1 to %zu pixels, got shape (%zu, %zu, 3)",
                     CLIPC_MAX_SIDE, *height, *width);
        Py_DECREF(rgb);
        return NULL;
    }
    return rgb;
}

static bool check_side(const char *argument, Py_ssize_t value, size_t largest)
{
    if (value < 1 || (size_t)value > largest) {
        PyErr_Format(PyExc_ValueError, "%s: expected 1 to %zu pixels, got %zd", argument, largest, value);
        return false;
    }
    return true;
}

static bool check_channels(const char *argument, const float values[3], bool positive)
{
    for (int c = 0; c < 3; c++) {
        if (!isfinite(values[c]) || (positive && !(values[c] > 0.0f))) {
            PyErr_Format(PyExc_ValueError, "%s: expected three finite%s numbers", argument,
                         positive ? " positive" : "");
            return false;
        }
    }
    return true;
}

static PyObject *image_info(PyObject *module, PyObject *argument)
{
    static const char *const names[] = {[CLIPC_FORMAT_JPEG] = "JPEG", [CLIPC_FORMAT_PNG] = "PNG"};
    clipc_message message;
    clipc_image_info info;
    clipc_status status;
    if (!PyBytes_Check(argument)) {
        PyErr_Format(PyExc_TypeError, "data: expected bytes, got %s", Py_TYPE(argument)->tp_name);
        return NULL;
    }
    const uint8_t *const data = (const uint8_t *)PyBytes_AS_STRING(argument);
    const size_t size = (size_t)PyBytes_GET_SIZE(argument);

    Py_BEGIN_ALLOW_THREADS
    status = clipc_read_image_info(data, size, &info, &message);
    Py_END_ALLOW_THREADS

    if (status != CLIPC_OK) {
        return clipc_raise(module, status, &message);
    }
    if (info.format == CLIPC_FORMAT_OTHER) {
        Py_RETURN_NONE;
    }
    return Py_BuildValue("(skkO)", names[info.format], (unsigned long)info.height, (unsigned long)info.width,
                         info.has_exif ? Py_True : Py_False);
}

static PyObject *decode_image(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"data", "max_pixels", NULL};
    PyObject *bytes;
    Py_ssize_t max_pixels;
    clipc_message message;
    clipc_status status;
    uint8_t *pixels;
    size_t height, width;
    const char *why;
    /* bytes only: what another thread could change while it is read would escape the checks. */
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Sn:decode_image", names, &bytes, &max_pixels)) {
        return NULL;
    }
    if (max_pixels < 1) {
        PyErr_Format(PyExc_ValueError, "max_pixels: expected at least 1, got %zd", max_pixels);
        return NULL;
    }
    const uint8_t *const data = (const uint8_t *)PyBytes_AS_STRING(bytes);
    const size_t size = (size_t)PyBytes_GET_SIZE(bytes);

    Py_BEGIN_ALLOW_THREADS
    status = clipc_decode_image(data, size, (uint64_t)max_pixels, &pixels, &height, &width, &why, &message);
    Py_END_ALLOW_THREADS

    if (status != CLIPC_OK) {
        return clipc_raise(module, status, &message);
    }
    if (pixels == NULL) {
        Py_RETURN_NONE;
    }
    return wrap_pixels(pixels, height, width);
}

static PyObject *crop_geometry(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"height", "width", "size", NULL};
    Py_ssize_t height, width, size;
    clipc_message message;
    clipc_resize_geometry geometry;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "nnn:crop_geometry", names, &height, &width, &size)) {
        return NULL;
    }
    if (!check_side("height", height, CLIPC_MAX_SIDE) || !check_side("width", width, CLIPC_MAX_SIDE) ||
        !check_side("size", size, CLIPC_MAX_CROP)) {
        return NULL;
    }
    const clipc_status status =
        clipc_crop_geometry((size_t)height, (size_t)width, (size_t)size, &geometry, &message);
    if (status != CLIPC_OK) {
        return clipc_raise(module, status, &message);
    }
    return Py_BuildValue("(nnnn)", (Py_ssize_t)geometry.height, (Py_ssize_t)geometry.width,
                         (Py_ssize_t)geometry.top, (Py_ssize_t)geometry.left);
}

/* The two resizing functions: `geometry` says which part of which size. */
static PyObject *resize_to(PyObject *module, PyArrayObject *rgb, size_t height, size_t width,
                           const clipc_resize_geometry *geometry)
{
    const npy_intp shape[3] = {(npy_intp)geometry->part_height, (npy_intp)geometry->part_width, 3};
    clipc_workspace workspace;
    clipc_status status;
    PyArrayObject *out = (PyArrayObject *)PyArray_SimpleNew(3, shape, NPY_UINT8);
    if (out == NULL) {
        return NULL;
    }
    const uint8_t *const in_pixels = PyArray_DATA(rgb);
    uint8_t *const out_pixels = PyArray_DATA(out);
    clipc_workspace_init(&workspace);

    Py_BEGIN_ALLOW_THREADS
    status = clipc_resize_bicubic(&workspace, out_pixels, in_pixels, height, width, geometry);
    Py_END_ALLOW_THREADS

    PyObject *result = (PyObject *)out;
    if (status != CLIPC_OK) {
        Py_DECREF(out);
        result = clipc_raise(module, status, &workspace.message);
    }
    clipc_workspace_free(&workspace);
    return result;
}

static PyObject *resize(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"rgb", "width", "height", "rows_first", NULL};
    PyObject *object;
    int rows_first = 0;
    Py_ssize_t new_width, new_height;
    size_t height, width;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Onn|p:resize", names, &object, &new_width, &new_height,
                                     &rows_first)) {
        return NULL;
    }
    if (!check_side("width", new_width, CLIPC_MAX_SIDE) ||
        !check_side("height", new_height, CLIPC_MAX_SIDE)) {
        return NULL;
    }
    PyArrayObject *rgb = require_rgb(object, &height, &width);
    if (rgb == NULL) {
        return NULL;
    }
    const clipc_resize_geometry geometry = {.height = (size_t)new_height,
                                            .width = (size_t)new_width,
                                            .part_height = (size_t)new_height,
                                            .part_width = (size_t)new_width,
                                            .rows_first = rows_first};
    PyObject *result = resize_to(module, rgb, height, width, &geometry);
    Py_DECREF(rgb);
    return result;
}

static PyObject *resize_crop(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"rgb", "size", "rows_first", NULL};
    PyObject *object, *result = NULL;
    int rows_first = 0;
    Py_ssize_t size;
    size_t height, width;
    clipc_message message;
    clipc_resize_geometry geometry;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "On|p:resize_crop", names, &object, &size, &rows_first)) {
        return NULL;
    }
    if (!check_side("size", size, CLIPC_MAX_CROP)) {
        return NULL;
    }
    PyArrayObject *rgb = require_rgb(object, &height, &width);
    if (rgb == NULL) {
        return NULL;
    }
    const clipc_status status = clipc_crop_geometry(height, width, (size_t)size, &geometry, &message);
    if (status != CLIPC_OK) {
        clipc_raise(module, status, &message);
    } else {
        geometry.rows_first = rows_first;
        result = resize_to(module, rgb, height, width, &geometry);
    }
    Py_DECREF(rgb);
    return result;
}

/* A new reference to the float32 array that a function writes: `object`, or a new one when it is None. */
static PyArrayObject *require_out(PyObject *object, int rank, const npy_intp *shape)
{
    if (object == Py_None) {
        return (PyArrayObject *)PyArray_SimpleNew(rank, shape, NPY_FLOAT32);
    }
    if (PyArray_Check(object) && !PyArray_ISCARRAY((PyArrayObject *)object)) {
        /* Else the result would go into a copy. */
        PyErr_SetString(PyExc_ValueError, "out: expected a writable, C-contiguous array");
        return NULL;
    }
    return clipc_require_array(object, "out", NPY_FLOAT32, rank, shape);
}

static PyObject *preprocess(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"rgb", "size", "mean", "std", "out", NULL};
    PyObject *object, *out_object = Py_None;
    Py_ssize_t size;
    float mean[3], std[3];
    size_t height, width;
    clipc_workspace workspace;
    clipc_status status;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "On(fff)(fff)|O:preprocess", names, &object, &size,
                                     &mean[0], &mean[1], &mean[2], &std[0], &std[1], &std[2], &out_object)) {
        return NULL;
    }
    if (!check_side("size", size, CLIPC_MAX_CROP) || !check_channels("mean", mean, false) ||
        !check_channels("std", std, true)) {
        return NULL;
    }
    PyArrayObject *rgb = require_rgb(object, &height, &width);
    if (rgb == NULL) {
        return NULL;
    }
    const npy_intp shape[3] = {3, size, size};
    PyArrayObject *out = require_out(out_object, 3, shape);
    if (out == NULL) {
        Py_DECREF(rgb);
        return NULL;
    }
    const uint8_t *const pixels = PyArray_DATA(rgb);
    float *const values = PyArray_DATA(out);
    clipc_workspace_init(&workspace);

    Py_BEGIN_ALLOW_THREADS
    status = clipc_preprocess(&workspace, values, pixels, height, width, (size_t)size, mean, std);
    Py_END_ALLOW_THREADS

    Py_DECREF(rgb);
    PyObject *output = (PyObject *)out;
    PyObject *result = clipc_take_outputs(module, status, &workspace.message, &output, 1);
    clipc_workspace_free(&workspace);
    return result;
}

static PyObject *crops(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"rgb", "boxes", "size", "mean", "std", "out", NULL};
    static const npy_intp boxes_shape[2] = {-1, 4};
    PyObject *object, *boxes_object, *result = NULL, *out_object = Py_None;
    PyArrayObject *boxes = NULL, *out = NULL;
    Py_ssize_t size;
    float mean[3], std[3];
    size_t height, width;
    clipc_workspace workspace;
    clipc_signal_poll poll;
    clipc_status status;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOn(fff)(fff)|O:crops", names, &object, &boxes_object,
                                     &size, &mean[0], &mean[1], &mean[2], &std[0], &std[1], &std[2],
                                     &out_object)) {
        return NULL;
    }
    if (!check_side("size", size, CLIPC_MAX_CROP) || !check_channels("mean", mean, false) ||
        !check_channels("std", std, true)) {
        return NULL;
    }
    PyArrayObject *rgb = require_rgb(object, &height, &width);
    if (rgb == NULL) {
        return NULL;
    }
    boxes = clipc_require_array(boxes_object, "boxes", NPY_INT64, 2, boxes_shape);
    if (boxes == NULL) {
        goto cleanup;
    }
    const npy_intp n = PyArray_DIM(boxes, 0);
    const npy_intp shape[4] = {n, 3, size, size};
    out = require_out(out_object, 4, shape);
    if (out == NULL) {
        goto cleanup;
    }
    const uint8_t *const pixels = PyArray_DATA(rgb);
    const int64_t *const regions = PyArray_DATA(boxes);
    float *const values = PyArray_DATA(out);
    clipc_workspace_init(&workspace);
    clipc_poll_signals(&workspace, &poll);

    Py_BEGIN_ALLOW_THREADS
    status =
        clipc_crops(&workspace, values, pixels, height, width, regions, (size_t)n, (size_t)size, mean, std);
    Py_END_ALLOW_THREADS

    PyObject *output = (PyObject *)out;
    result = clipc_take_outputs(module, status, &workspace.message, &output, 1);
    clipc_workspace_free(&workspace);
cleanup:
    Py_DECREF(rgb);
    Py_XDECREF(boxes);
    return result;
}

#define KEYWORDS(function) ((PyCFunction)(void (*)(void))(function))

PyMethodDef clipc_image_methods[] = {
    {"image_info", image_info, METH_O,
     PyDoc_STR(
         "image_info(data) -> (format, height, width, has_exif) or None\n\n"
         "Of a JPEG or PNG file (bytes), from its headers; None for anything else. has_exif: there is an\n"
         "Exif segment, which may hold an orientation.")},
    {"decode_image", KEYWORDS(decode_image), METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("decode_image(data, max_pixels) -> uint8 array (H, W, 3), or None\n\n"
               "Decodes a JPEG or PNG file (bytes). None: a format or a variant for another decoder.\n"
               "Raises ImageError for damaged, incomplete and too large images.")},
    {"crop_geometry", KEYWORDS(crop_geometry), METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("crop_geometry(height, width, size) -> (new_height, new_width, top, left)\n\n"
               "The size after resizing the shorter side to `size`, and the corner of the centred square.")},
    {"resize", KEYWORDS(resize), METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("resize(rgb, width, height, rows_first=False) -> uint8 array (height, width, 3)\n\n"
               "Antialiased bicubic, equal to Image.resize((width, height), BICUBIC) of Pillow 13, with\n"
               "rows_first=True of Pillow before 13.")},
    {"resize_crop", KEYWORDS(resize_crop), METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("resize_crop(rgb, size, rows_first=False) -> uint8 array (size, size, 3)\n\n"
               "The shorter side resized to `size`, then the centred square. rows_first: see resize.")},
    {"preprocess", KEYWORDS(preprocess), METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("preprocess(rgb, size, mean, std, out=None) -> float32 array (3, size, size)\n\n"
               "resize_crop, then (pixel / 255 - mean) / std for each channel, in float32.")},
    {"crops", KEYWORDS(crops), METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR(
         "crops(rgb, boxes, size, mean, std, out=None) -> float32 array (N, 3, size, size)\n\n"
         "Each region (boxes: int64 (N, 4), x0, y0, x1, y1) resized to size x size and normalised. Where a\n"
         "region reaches beyond the picture, its visible part fills its share of the square; the rest is "
         "0.")},
    {NULL, NULL, 0, NULL},
};
