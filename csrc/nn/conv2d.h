/* Two-dimensional convolution on images whose channels lie innermost: [B, H, W, C]. */
#ifndef CLIPC_NN_CONV2D_H
#define CLIPC_NN_CONV2D_H

#include "core/workspace.h"
#include "kernels/gemm.h"

typedef struct {
    clipc_packed_matrix weight; /* [OC, KH * KW * IC] */
    float *bias;                /* [OC], owned; holds the folded BatchNorm */
    size_t ic, oc;
    size_t kernel; /* KH = KW */
    size_t stride;
    size_t padding;
} clipc_conv2d;

/* Output height or width for an input of `size`: floor((size + 2 padding - kernel) / stride) + 1. */
size_t clipc_conv2d_output_size(const clipc_conv2d *conv, size_t size);

/* y[oh, ow, oc] = activation(sum over kh, kw, ic of W[oc, kh, kw, ic] * x[oh * stride + kh - padding,
 * ow * stride + kw - padding, ic] + bias[oc] + residual[oh, ow, oc]), x being 0 outside the image
 * x: [B, H, W, IC], y and residual: [B, OH, OW, OC]; residual may be NULL or y itself. */
clipc_status clipc_conv2d_forward(clipc_workspace *workspace, float *y, const float *x, const float *residual,
                                  const clipc_conv2d *conv, clipc_activation activation, size_t b, size_t h,
                                  size_t w);

/* dx[h, w, ic] = sum over kh, kw, oc of W[oc, kh, kw, ic] * dy[oh, ow, oc], where oh * stride + kh - padding
 * = h and ow * stride + kw - padding = w; with `accumulate` added to dx dy: [B, OH, OW, OC], the gradient
 * before the activation; dx: [B, H, W, IC], not overlapping. */
clipc_status clipc_conv2d_backward(clipc_workspace *workspace, float *dx, const float *dy,
                                   const clipc_conv2d *conv, size_t b, size_t h, size_t w, bool accumulate);

void clipc_conv2d_free(clipc_conv2d *conv);

#endif
