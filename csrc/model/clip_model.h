/* A whole CLIP model: two encoders into one space (Radford et al. 2021, arXiv 2103.00020).
 *
 * Immutable once loaded, so any number of threads may use it at once, each with its own workspace. */
#ifndef CLIPC_MODEL_CLIP_MODEL_H
#define CLIPC_MODEL_CLIP_MODEL_H

#include "model/detection_head.h"
#include "model/modified_resnet.h"
#include "model/text_transformer.h"
#include "model/vision_transformer.h"

typedef struct {
    clipc_config config;
    clipc_vision_transformer vit; /* when config.vision says so */
    clipc_modified_resnet resnet; /* else this one */
    clipc_text_transformer text;
    clipc_detection_head detection; /* when config.detector says so */
    float logit_scale;              /* as stored; logits are exp(logit_scale) * cosine */
} clipc_model;

/* *model: a new model, freed with clipc_model_free. Every tensor is taken from `loader` once. */
clipc_status clipc_model_load(clipc_model **model, const clipc_config *config, clipc_loader *loader);
void clipc_model_free(clipc_model *model);

/* H and W that the image encoder takes are multiples of this: P of a vision transformer, else 32. */
size_t clipc_model_image_step(const clipc_model *model);

/* images: [N, 3, H, W] preprocessed, H and W multiples of clipc_model_image_step; features: [N, D], not
 * normalised. For another size than R x R the positional embedding is interpolated (nn/positions.h).
 * Worked on in batches of which each needs a bounded amount of scratch. */
clipc_status clipc_model_encode_images(const clipc_model *model, clipc_workspace *workspace, float *features,
                                       const float *images, size_t n, size_t h, size_t w);

/* What the detection head says of each patch of one image: [3, H, W] preprocessed, H and W multiples of P.
 * For another size than R x R the positional embedding is interpolated, and the grid of the boxes follows.
 * CLIPC_ERROR_VALUE when the model has no detection head. */
clipc_status clipc_model_detection_outputs(const clipc_model *model, clipc_workspace *workspace,
                                           const clipc_detection_outputs *outputs, const float *image,
                                           size_t h, size_t w);

/* tokens: [N, L] with L up to context_length, padded with 0 behind the end token; features: [N, D]. */
clipc_status clipc_model_encode_texts(const clipc_model *model, clipc_workspace *workspace, float *features,
                                      const int32_t *tokens, size_t n, size_t l);

#endif
