/* Why a picture gets its score for a text: heat maps from activations, gradients and attention.
 *
 * Maps lie on the grid of the layer they come from and are signed; the caller clips, scales and enlarges
 * them. All functions work on one picture, preprocessed: image: [3, H, W], H and W multiples of
 * clipc_model_image_step. Several texts share its forward pass. N: texts that are explained, each by its row
 * `targets[n]` of score->texts; values: [N], their scores.
 */
#ifndef CLIPC_MODEL_EXPLANATION_H
#define CLIPC_MODEL_EXPLANATION_H

#include "model/clip_model.h"
#include "model/score.h"

/* The target layer, whose activations A: [GH, GW, C] are explained, G being their gradients dS/dA.
 * ModifiedResNet: the output of a block. Vision transformer: the output of ln_1 of block `block`, without the
 * class token; `stage` is 0. */
typedef clipc_resnet_layer clipc_target_layer;

/* CLIPC_ERROR_VALUE when the model has no such layer. */
clipc_status clipc_target_layer_check(const clipc_model *model, clipc_target_layer layer,
                                      clipc_message *message);

/* GH, GW and C of a layer for images of h x w. */
void clipc_target_layer_shape(const clipc_model *model, clipc_target_layer layer, size_t h, size_t w,
                              size_t *gh, size_t *gw, size_t *c);

/* activations: [GH * GW, C]; gradients: [N, GH * GW, C] */
clipc_status clipc_model_layer_gradients(const clipc_model *model, clipc_workspace *workspace, float *values,
                                         float *activations, float *gradients, const float *image, size_t h,
                                         size_t w, clipc_target_layer layer, const clipc_score *score,
                                         const size_t *targets, size_t n);

/* How a map is made of A and G; i runs over the positions. */
typedef enum {
    CLIPC_GRAD_CAM =
        0, /* m_i = sum_c w_c A_ic, w_c = mean over i of G_ic   (Selvaraju et al. 2017, 1610.02391) */
    CLIPC_GRAD_CAM_PP, /* the same with w_c = sum over i of a_ic max(G_ic, 0), a = 1 / (2 + G_ic sum_j A_jc)
                        * where G is not 0, else 0   (Grad-CAM++, Chattopadhay et al. 2018, 1710.11063,
                        * equation 19 for the class score exp S: G^2 / (2 G^2 + sum_j A_j G^3)) */
    CLIPC_LAYER_CAM,   /* m_i = sum_c max(G_ic, 0) A_ic   (Jiang et al. 2021) */
    CLIPC_HIRES_CAM    /* m_i = sum_c G_ic A_ic   (Draelos & Carin 2020, 2011.08891) */
} clipc_cam_kind;

/* map: [HW] from a, g: [HW, C] */
clipc_status clipc_cam_forward(clipc_workspace *workspace, float *map, const float *a, const float *g,
                               clipc_cam_kind kind, size_t hw, size_t c);

/* maps: [N, GH * GW] */
clipc_status clipc_model_grad_cam(const clipc_model *model, clipc_workspace *workspace, float *values,
                                  float *maps, const float *image, size_t h, size_t w,
                                  clipc_target_layer layer, clipc_cam_kind kind, const clipc_score *score,
                                  const size_t *targets, size_t n);

/* Row of the class token, without its own column, of Chefer's R over the blocks from `first` on (0: all of
 * them) maps: [N, GH * GW]; vision transformers only. */
clipc_status clipc_model_relevance(const clipc_model *model, clipc_workspace *workspace, float *values,
                                   float *maps, const float *image, size_t h, size_t w, size_t first,
                                   const clipc_score *score, const size_t *targets, size_t n);

/* Row of the class token of the attention rollout, without its own column   map: [GH * GW]; no text. */
clipc_status clipc_model_rollout(const clipc_model *model, clipc_workspace *workspace, float *map,
                                 const float *image, size_t h, size_t w);

/* features: [1 + GH * GW, D], the picture's own first, then one for each position. */
clipc_status clipc_model_dense_features(const clipc_model *model, clipc_workspace *workspace, float *features,
                                        const float *image, size_t h, size_t w, clipc_dense_kind kind);

/* Row of the end token of Chefer's R in the text tower   tokens: [L]; relevance: [L], zeros behind the end
 * token; score->texts holds the features of the picture in its one row. */
clipc_status clipc_model_text_relevance(const clipc_model *model, clipc_workspace *workspace, float *value,
                                        float *relevance, const int32_t *tokens, size_t l, size_t first,
                                        const clipc_score *score);

#endif
