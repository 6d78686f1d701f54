/* Fully connected layer. */
#ifndef CLIPC_NN_LINEAR_H
#define CLIPC_NN_LINEAR_H

#include "kernels/gemm.h"

typedef struct {
    clipc_packed_matrix weight; /* [OC, C] */
    float *bias;                /* [OC] or NULL; owned */
} clipc_linear;

/* y = activation(x @ W^T + b + residual)
 * x: [M, C], y: [M, OC], residual: [M, OC] or NULL; residual may be y itself. */
void clipc_linear_forward(float *y, const float *x, const float *residual, const clipc_linear *linear,
                          clipc_activation activation, size_t m);

/* dx = dy @ W, or dx + dy @ W with `accumulate`; dy is the gradient before the activation
 * dy: [M, OC], dx: [M, C]. The gradient with respect to the residual is dy itself. */
void clipc_linear_backward(float *dx, const float *dy, const clipc_linear *linear, size_t m, bool accumulate);

void clipc_linear_free(clipc_linear *linear);

#endif
