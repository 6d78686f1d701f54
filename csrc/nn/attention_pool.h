/* AttentionPool2d: the pooling layer of CLIP's ModifiedResNet (Radford et al. 2021, section 2.4). */
#ifndef CLIPC_NN_ATTENTION_POOL_H
#define CLIPC_NN_ATTENTION_POOL_H

#include "core/workspace.h"
#include "nn/linear.h"

typedef struct {
    float *positional_embedding;         /* [1 + HW, C], owned */
    clipc_linear q_proj, k_proj, v_proj; /* [C, C] */
    clipc_linear c_proj;                 /* [D, C] */
    size_t hw;
    size_t c;
    size_t nh;
} clipc_attention_pool;

/* t = [mean of x; x] + positional_embedding; the mean token is the only query:
 * y = c_proj(concat over heads of softmax(q_h k_h^T / sqrt(HS)) v_h),  q = q_proj t_0, k = k_proj t, v =
 * v_proj t x: [B, HW, C], y: [B, D].
 *
 * With one query the projections of all tokens need not be formed: q_h . (Wk_h t_i) = (Wk_h^T q_h) . t_i, and
 * sum_i p_i (Wv_h t_i) = Wv_h (sum_i p_i t_i). The bias of k adds the same number to every score and drops
 * out of the softmax; that of v is added once, since the probabilities sum to 1. For RN50 this leaves a
 * fiftieth of the multiplications. */
clipc_status clipc_attention_pool_forward(clipc_workspace *workspace, float *y, const float *x,
                                          const clipc_attention_pool *pool, size_t b);

void clipc_attention_pool_free(clipc_attention_pool *pool);

#endif
