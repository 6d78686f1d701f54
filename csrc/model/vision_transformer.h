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

/* What the passes behind a forward pass read; its arrays lie in the workspace of that pass. The caller sets
 * transformer.first and transformer.gradients. */
typedef struct {
    clipc_transformer_tape transformer;
    clipc_pooled_tape pooled;
    size_t tokens; /* T = 1 + GH * GW */
} clipc_vision_transformer_tape;

/* features = proj(ln_post(class token after transformer(ln_pre([class; patches] + positions))))
 * images: [B, 3, H, W], H and W multiples of P; features: [B, D], not normalised; tape: NULL, or filled in.
 */
clipc_status clipc_vision_transformer_forward(clipc_workspace *workspace, float *features,
                                              const float *images, const clipc_vision_transformer *vit,
                                              size_t b, size_t h, size_t w,
                                              clipc_vision_transformer_tape *tape);

/* All tokens of the last block, the class token first: tokens = ln_post(transformer(…)) as above, without the
 * projection   images: [B, 3, H, W]; tokens: [B, 1 + GH * GW, C] */
clipc_status clipc_vision_transformer_tokens_forward(clipc_workspace *workspace, float *tokens,
                                                     const float *images, const clipc_vision_transformer *vit,
                                                     size_t b, size_t h, size_t w);

/* From dfeatures: [B, D] back to the target, whose arrays have M = B * T rows. */
clipc_status clipc_vision_transformer_backward(clipc_workspace *workspace,
                                               const clipc_transformer_target *target, const float *dfeatures,
                                               const clipc_vision_transformer *vit,
                                               const clipc_vision_transformer_tape *tape);

/* Features of every token, the class token (from the usual path) first: proj(ln_post(tokens of
 * clipc_transformer_dense_forward))   features: [B, T, D] */
clipc_status clipc_vision_transformer_dense_forward(clipc_workspace *workspace, float *features,
                                                    const clipc_vision_transformer *vit,
                                                    clipc_dense_kind kind,
                                                    const clipc_vision_transformer_tape *tape);

/* Floats of scratch that one image of H x W needs. */
size_t clipc_vision_transformer_floats_per_image(const clipc_vision_transformer *vit, size_t h, size_t w);

void clipc_vision_transformer_free(clipc_vision_transformer *vit);

#endif
