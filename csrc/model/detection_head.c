#include "model/detection_head.h"

#include <math.h>
#include <stdio.h>

/* Keeps the logit of 0 and of 1 finite, as in the original. */
#define BIAS_EPS 1e-4f

static clipc_status load_mlp(clipc_box_mlp *mlp, clipc_loader *loader, const char *prefix, size_t c,
                             size_t outputs)
{
    for (size_t i = 0; i < 3; i++) {
        char name[100];
        snprintf(name, sizeof name, "%sdense%zu.", prefix, i);
        CLIPC_TRY(clipc_load_linear(loader, &mlp->dense[i], name, i < 2 ? c : outputs, c));
    }
    return CLIPC_OK;
}

clipc_status clipc_detection_head_load(clipc_detection_head *head, const clipc_config *config,
                                       clipc_loader *loader)
{
    const size_t c = config->vision_width, d = config->embed_dim;
    head->c = c;
    head->d = d;
    head->has_objectness = config->detector == CLIPC_DETECTOR_OWLV2;
    CLIPC_TRY(clipc_load_layernorm(loader, &head->layer_norm, "detection.layer_norm.", c));
    CLIPC_TRY(clipc_load_linear(loader, &head->dense0, "detection.class_head.dense0.", d, c));
    CLIPC_TRY(clipc_load_linear(loader, &head->logit_shift, "detection.class_head.logit_shift.", 1, c));
    CLIPC_TRY(clipc_load_linear(loader, &head->logit_scale, "detection.class_head.logit_scale.", 1, c));
    CLIPC_TRY(load_mlp(&head->box, loader, "detection.box_head.", c, 4));
    return head->has_objectness ? load_mlp(&head->objectness, loader, "detection.objectness_head.", c, 1)
                                : CLIPC_OK;
}

/* out: [T, outputs] from f: [T, C]; a and b: [T, C], scratch */
static void mlp_forward(float *out, float *a, float *b, const float *f, const clipc_box_mlp *mlp, size_t t)
{
    clipc_linear_forward(a, f, NULL, &mlp->dense[0], CLIPC_ACTIVATION_GELU, t);
    clipc_linear_forward(b, a, NULL, &mlp->dense[1], CLIPC_ACTIVATION_GELU, t);
    clipc_linear_forward(out, b, NULL, &mlp->dense[2], CLIPC_ACTIVATION_NONE, t);
}

/* log(p / (1 - p)), nearly. In float32 as the original: at p = 1 what 1 - p + eps loses to rounding shows. */
static float logit(float p)
{
    return logf(p + BIAS_EPS) - log1pf(-p + BIAS_EPS);
}

static float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

/* boxes = sigmoid(boxes + bias)   boxes: [GH * GW, 4] */
static void place_boxes(float *boxes, size_t gh, size_t gw)
{
    const float width = logit(1.0f / (float)gw), height = logit(1.0f / (float)gh);
    for (size_t y = 0; y < gh; y++) {
        const float bottom = logit((float)(y + 1) / (float)gh);
        for (size_t x = 0; x < gw; x++, boxes += 4) {
            boxes[0] = sigmoid(boxes[0] + logit((float)(x + 1) / (float)gw));
            boxes[1] = sigmoid(boxes[1] + bottom);
            boxes[2] = sigmoid(boxes[2] + width);
            boxes[3] = sigmoid(boxes[3] + height);
        }
    }
}

clipc_status clipc_detection_head_forward(clipc_workspace *workspace, const clipc_detection_outputs *outputs,
                                          const float *tokens, const clipc_detection_head *head, size_t gh,
                                          size_t gw)
{
    const size_t t = gh * gw, c = head->c;
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    float *f, *a, *b;
    CLIPC_TRY(clipc_workspace_floats(workspace, &f, t * c));
    CLIPC_TRY(clipc_workspace_floats(workspace, &a, t * c));
    CLIPC_TRY(clipc_workspace_floats(workspace, &b, t * c));
    for (size_t i = 0; i < t; i++) {
        for (size_t j = 0; j < c; j++) {
            f[i * c + j] = tokens[(1 + i) * c + j] * tokens[j];
        }
    }
    clipc_layernorm_forward(f, NULL, NULL, f, &head->layer_norm, t);
    CLIPC_TRY(clipc_workspace_poll(workspace));

    clipc_linear_forward(outputs->features, f, NULL, &head->dense0, CLIPC_ACTIVATION_NONE, t);
    clipc_linear_forward(outputs->logit_shift, f, NULL, &head->logit_shift, CLIPC_ACTIVATION_NONE, t);
    clipc_linear_forward(outputs->logit_scale, f, NULL, &head->logit_scale, CLIPC_ACTIVATION_NONE, t);
    for (size_t i = 0; i < t; i++) {
        const float x = outputs->logit_scale[i];
        outputs->logit_scale[i] = (x > 0.0f ? x : expm1f(x)) + 1.0f;
    }
    CLIPC_TRY(clipc_workspace_poll(workspace));

    mlp_forward(outputs->boxes, a, b, f, &head->box, t);
    place_boxes(outputs->boxes, gh, gw);
    if (head->has_objectness) {
        CLIPC_TRY(clipc_workspace_poll(workspace));
        mlp_forward(outputs->objectness, a, b, f, &head->objectness, t);
    }
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

void clipc_detection_head_free(clipc_detection_head *head)
{
    clipc_layernorm_free(&head->layer_norm);
    clipc_linear_free(&head->dense0);
    clipc_linear_free(&head->logit_shift);
    clipc_linear_free(&head->logit_scale);
    for (size_t i = 0; i < 3; i++) {
        clipc_linear_free(&head->box.dense[i]);
        clipc_linear_free(&head->objectness.dense[i]);
    }
}
