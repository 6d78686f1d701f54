/* The type clipc._core.Model, whose methods lie in three files. */
#ifndef CLIPC_PYTHON_MODEL_TYPE_H
#define CLIPC_PYTHON_MODEL_TYPE_H

#include "python/binding.h"

#include "model/clip_model.h"

typedef struct {
    PyObject_HEAD
    clipc_model *model;
    PyObject *module; /* clipc._core, for its exceptions */
} model_object;

/* A new reference to `argument` as a batch of images for this model, (N, 3, H, W), or with `rank` 3 as one,
 * (3, H, W); NULL with an exception that names the argument. */
PyArrayObject *clipc_require_images(const model_object *self, PyObject *argument, const char *name, int rank);

/* A new reference to `argument` as tokens, (N, L), or with `rank` 1 as those of one text, (L,). */
PyArrayObject *clipc_require_tokens(const model_object *self, PyObject *argument, int rank);

/* Explanations; in model_explanations.c. */
PyObject *clipc_model_type_layer_gradients(model_object *self, PyObject *arguments);
PyObject *clipc_model_type_grad_cam(model_object *self, PyObject *arguments);
PyObject *clipc_model_type_relevance(model_object *self, PyObject *arguments);
PyObject *clipc_model_type_rollout(model_object *self, PyObject *argument);
PyObject *clipc_model_type_dense_features(model_object *self, PyObject *arguments);
PyObject *clipc_model_type_text_relevance(model_object *self, PyObject *arguments);

/* Detection; in model_detection.c. */
PyObject *clipc_model_type_detection_outputs(model_object *self, PyObject *argument);
PyObject *clipc_model_type_has_detection_head(model_object *self, void *unused);

#endif
