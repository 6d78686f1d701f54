/* CLIP's vision transformer (Dosovitskiy et al. 2020, arXiv 2010.11929, with a layer norm before the blocks).
 */
#ifndef CLIPC_MODEL_VISION_TRANSFORMER_H
#define CLIPC_MODEL_VISION_TRANSFORMER_H

#include "model/config.h"
#include "model/transformer.h"

typedef struct {
    clipc_linear conv1;          /* patch embedding, [C, 3 * P * P], no bias */
    float *class_embedding;      /* [C], owned */
    float *positional_embedding; /* [1 + G * G, C], owned */
    clipc_layernorm ln_pre;
    clipc_transformer transformer;
    clipc_layernorm ln_post;
    clipc_linear proj; /* [D, C], no bias */
    size_t r, p;
} clipc_vision_transformer;

clipc_status clipc_vision_transformer_load(clipc_vision_transformer *vit, const clipc_config *config,
                                           clipc_loader *loader);

/* features = proj(ln_post(class token after transformer(ln_pre([class; patches] + positions))))
 * images: [B, 3, R, R], features: [B, D], not normalised. */
clipc_status clipc_vision_transformer_forward(clipc_workspace *workspace, float *features,
                                              const float *images, const clipc_vision_transformer *vit,
                                              size_t b);

/* Floats of scratch that one image needs. */
size_t clipc_vision_transformer_floats_per_image(const clipc_vision_transformer *vit);

void clipc_vision_transformer_free(clipc_vision_transformer *vit);

#endif
