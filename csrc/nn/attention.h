/* Multi-head self-attention (Vaswani et al. 2017, arXiv 1706.03762) over sequences of different lengths.
 *
 * Sequences lie one after another without padding: sequence b has the rows offsets[b] to offsets[b + 1].
 */
#ifndef CLIPC_NN_ATTENTION_H
#define CLIPC_NN_ATTENTION_H

#include "core/workspace.h"

/* For each head h: out_h = softmax(q_h @ k_h^T / sqrt(HS)) @ v_h; with `causal`, row t sees rows 0..t only.
 * qkv: [M, 3 * NH * HS], a row holds q, k and v, each NH heads side by side; out: [M, NH * HS];
 * offsets: [B + 1], offsets[0] = 0, offsets[B] = M. */
clipc_status clipc_attention_forward(clipc_workspace *workspace, float *out, const float *qkv,
                                     const size_t *offsets, size_t b, size_t nh, size_t hs, bool causal);

#endif
