/* The heads that make a detector of CLIP's vision transformer: OWL-ViT (Minderer et al. 2022, arXiv
 * 2205.06230) and OWLv2 (Minderer et al. 2023, arXiv 2306.09683). Each patch proposes one box, which a query
 * of the shared embedding names.
 */
#ifndef CLIPC_MODEL_DETECTION_HEAD_H
#define CLIPC_MODEL_DETECTION_HEAD_H

#include <stdbool.h>

#include "core/workspace.h"
#include "model/config.h"
#include "model/loader.h"
#include "nn/layernorm.h"
#include "nn/linear.h"

/* dense[2](gelu(dense[1](gelu(dense[0](x)))))   widths C, C, outputs; exact GELU */
typedef struct {
    clipc_linear dense[3];
} clipc_box_mlp;

typedef struct {
    clipc_layernorm layer_norm;
    clipc_linear dense0;      /* class head, [D, C] */
    clipc_linear logit_shift; /* [1, C] */
    clipc_linear logit_scale; /* [1, C] */
    clipc_box_mlp box;        /* 4 outputs */
    clipc_box_mlp objectness; /* 1 output, OWLv2 only */
    bool has_objectness;
    size_t c, d;
} clipc_detection_head;

/* Tensors: detection.{layer_norm, class_head.dense0, class_head.logit_shift, class_head.logit_scale,
 * box_head.dense0 to 2, objectness_head.dense0 to 2}.{weight, bias} */
clipc_status clipc_detection_head_load(clipc_detection_head *head, const clipc_config *config,
                                       clipc_loader *loader);

/* What is known of each patch before any query; rows in reading order, T = GH * GW here. Arrays of the
 * caller. The logit of a query t is (cos(features, t) + logit_shift) * logit_scale, the norms of both + 1e-6.
 */
typedef struct {
    float *features;    /* [T, D] = dense0(f), not normalised */
    float *logit_shift; /* [T] */
    float *logit_scale; /* [T], elu(...) + 1 */
    float *boxes;       /* [T, 4]: centre x, y, width, height as parts of the square */
    float *objectness;  /* [T], logits; NULL when the head has none */
} clipc_detection_outputs;

/* f = layer_norm(token_i * token_0) for each patch i;  boxes = sigmoid(box(f) + bias), where bias is the
 * logit of the lower right corner of the patch and of its size. tokens: [1 + GH * GW, C] behind ln_post, the
 * class token first. */
clipc_status clipc_detection_head_forward(clipc_workspace *workspace, const clipc_detection_outputs *outputs,
                                          const float *tokens, const clipc_detection_head *head, size_t gh,
                                          size_t gw);

void clipc_detection_head_free(clipc_detection_head *head);

#endif
