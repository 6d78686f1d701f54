/* AttentionPool2d: the pooling layer of CLIP's ModifiedResNet (Radford et al. 2021, section 2.4). */
#ifndef CLIPC_NN_ATTENTION_POOL_H
#define CLIPC_NN_ATTENTION_POOL_H

#include "core/workspace.h"
#include "nn/linear.h"

typedef struct {
    float *positional_embedding;         /* [1 + G * G, C], owned */
    clipc_linear q_proj, k_proj, v_proj; /* [C, C] */
    clipc_linear c_proj;                 /* [D, C] */
    size_t g;                            /* grid that the positional embedding was trained for */
    size_t c;
    size_t nh;
} clipc_attention_pool;

/* What the backward pass reads; lives in the workspace of the forward pass. */
typedef struct {
    float *tokens; /* [B, 1 + HW, C] */
    float *keys;   /* [NH, B, C]: Wk_h^T q_h */
    float *p;      /* [NH, B, 1 + HW]: the probabilities of the mean token's attention */
} clipc_attention_pool_tape;

/* t = [mean of x; x] + positions; the mean token is the only query:
 * y = c_proj(concat over heads of softmax(q_h k_h^T / sqrt(HS)) v_h),  q = q_proj t_0, k = k_proj t, v =
 * v_proj t x: [B, HW, C], y: [B, D], positions: [1 + HW, C], the positional embedding for this grid. tape:
 * NULL, or filled in; its arrays then stay in the workspace until the caller releases them.
 *
 * With one query the projections of all tokens need not be formed: q_h . (Wk_h t_i) = (Wk_h^T q_h) . t_i, and
 * sum_i p_i (Wv_h t_i) = Wv_h (sum_i p_i t_i). The bias of k adds the same number to every score and drops
 * out of the softmax; that of v is added once, since the probabilities sum to 1. For RN50 this leaves a
 * fiftieth of the multiplications. */
clipc_status clipc_attention_pool_forward(clipc_workspace *workspace, float *y, const float *x,
                                          const clipc_attention_pool *pool, const float *positions, size_t hw,
                                          size_t b, clipc_attention_pool_tape *tape);

/* The gradient with respect to x; with m_h = sum_i p_hi t_i and u_h = Wk_h^T q_h:
 *
 *   dv = Wc^T dy,  dm_h = Wv_h^T dv_h,  dp_hi = dm_h . t_i,  ds_h = p_h * (dp_h - p_h . dp_h) / sqrt(HS),
 *   du_h = sum_i ds_hi t_i,  dq_h = Wk_h du_h,  dt_i = sum_h (p_hi dm_h + ds_hi u_h),  dt_0 += Wq^T dq,
 *   dx_i = dt_i + dt_0 / HW
 *
 * dy: [B, D], dx: [B, HW, C] */
clipc_status clipc_attention_pool_backward(clipc_workspace *workspace, float *dx, const float *dy,
                                           const clipc_attention_pool *pool, size_t hw, size_t b,
                                           const clipc_attention_pool_tape *tape);

/* y = c_proj(v_proj(x)) at each position: the pool with its attention replaced by the identity, without
 * positional embedding, as MaskCLIP does (Zhou, Loy & Dai 2022, arXiv 2112.01071, section 3.2)
 * x: [M, C], y: [M, D] */
clipc_status clipc_attention_pool_identity_forward(clipc_workspace *workspace, float *y, const float *x,
                                                   const clipc_attention_pool *pool, size_t m);

/* The architecture surgery of CLIP Surgery (Li et al. 2023, arXiv 2304.05653) for a ModifiedResNet:
 * y_i = c_proj(concat over heads of softmax(8 / sqrt(HS) n_h n_h^T) v_h),  v = v_proj t, n_h = v_h / (|v_h| +
 * 1e-6) for the tokens of the grid; y_0 is that of clipc_attention_pool_forward x: [B, HW, C], y: [B, 1 + HW,
 * D] */
clipc_status clipc_attention_pool_surgery_forward(clipc_workspace *workspace, float *y, const float *x,
                                                  const clipc_attention_pool *pool, const float *positions,
                                                  size_t hw, size_t b);

void clipc_attention_pool_free(clipc_attention_pool *pool);

#endif
