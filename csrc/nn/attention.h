/* Multi-head self-attention (Vaswani et al. 2017, arXiv 1706.03762) over sequences of different lengths.
 *
 * Sequences lie one after another without padding: sequence b has the rows offsets[b] to offsets[b + 1];
 * offsets: [B + 1], offsets[0] = 0, offsets[B] = M. A row of qkv holds q, k and v, each NH heads of HS side
 * by side; C = NH * HS. In the formulas below P_h = softmax(q_h @ k_h^T / sqrt(HS)), with `causal` over the
 * columns 0..t of row t only.
 */
#ifndef CLIPC_NN_ATTENTION_H
#define CLIPC_NN_ATTENTION_H

#include "core/workspace.h"

/* For each head h: out_h = P_h @ v_h   qkv: [M, 3C], out: [M, C] */
clipc_status clipc_attention_forward(clipc_workspace *workspace, float *out, const float *qkv,
                                     const size_t *offsets, size_t b, size_t nh, size_t hs, bool causal);

/* out_h = softmax(scale * a_h @ a_h^T) @ v_h, added to out with `accumulate`
 * Each token attends to those that resemble it: q-q and k-k attention of SCLIP, v-v attention of CLIP
 * Surgery. a, v: [M, C] with row stride `stride`; out: [M, C]. */
clipc_status clipc_self_similarity_forward(clipc_workspace *workspace, float *out, const float *a,
                                           const float *v, size_t stride, float scale, bool accumulate,
                                           const size_t *offsets, size_t b, size_t nh, size_t hs);

/* With dP_h = dout_h @ v_h^T and dS_h = P_h * (dP_h - rowsum(P_h * dP_h)) / sqrt(HS):
 *
 *   dq_h = dS_h @ k_h,   dk_h = dS_h^T @ q_h,   dv_h = P_h^T @ dout_h
 *   relevance = relevance + relevance @ mean over h of max(P_h * dP_h, 0)    for each sequence
 *
 * qkv: [M, 3C] from the forward pass, P is computed anew; dqkv: [M, 3C] or NULL, overwritten.
 * relevance: [M] or NULL. A row of R in Chefer, Gur & Wolf 2021 (arXiv 2103.15679, equations 5 and 6), R <- R
 * + A R: taken from the last block to the first, one row of the product needs no matrix. query_rows: NULL,
 * and dout: [M, C]; or [B], one row in each sequence, and dout: [B, C] is the gradient of these rows, those
 * of all others being zero. */
clipc_status clipc_attention_backward(clipc_workspace *workspace, float *dqkv, float *relevance,
                                      const float *dout, const float *qkv, const size_t *query_rows,
                                      const size_t *offsets, size_t b, size_t nh, size_t hs, bool causal);

/* relevance = relevance @ (I + mean over h of P_h) / 2, for each sequence: one block of attention rollout
 * (Abnar & Zuidema 2020, arXiv 2005.00928), from the last to the first.   qkv: [M, 3C], relevance: [M] */
clipc_status clipc_attention_rollout(clipc_workspace *workspace, float *relevance, const float *qkv,
                                     const size_t *offsets, size_t b, size_t nh, size_t hs, bool causal);

#endif
