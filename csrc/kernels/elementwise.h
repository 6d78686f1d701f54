/* Row kernels: one row of floats in, one row out. The same body (elementwise_body.h) is compiled once
 * per instruction set; clipc_elementwise() gives the table for the selected one. */
#ifndef CLIPC_KERNELS_ELEMENTWISE_H
#define CLIPC_KERNELS_ELEMENTWISE_H

#include <stddef.h>

typedef enum {
    CLIPC_ACTIVATION_NONE = 0,
    CLIPC_ACTIVATION_RELU,       /* max(x, 0) */
    CLIPC_ACTIVATION_QUICK_GELU, /* x * sigmoid(1.702 x) */
    CLIPC_ACTIVATION_GELU        /* x * (1 + erf(x / sqrt 2)) / 2 */
} clipc_activation;

typedef struct {
    const char *name;

    /* y = activation(y + bias + residual)   y: [n]; bias, residual: [n] or NULL */
    void (*epilogue)(float *y, const float *bias, const float *residual, clipc_activation activation,
                     size_t n);

    /* y = activation(y)   y: [m, n] with row stride ldy */
    void (*activate)(float *y, size_t ldy, clipc_activation activation, size_t m, size_t n);

    /* x = exp(x - max x) / sum exp(x - max x)   x: [n], n >= 1 */
    void (*softmax)(float *x, size_t n);

    /* out = (in - mean) * rstd * weight + bias, rstd = 1 / sqrt(variance + eps), variance over n
     * out, in, weight, bias: [n]; mean, rstd: [1] or NULL, kept for the backward pass */
    void (*layernorm)(float *out, float *mean, float *rstd, const float *in, const float *weight,
                      const float *bias, float eps, size_t n);

    /* dy = dy * activation'(x)   dy, x: [n]; x is what the activation was applied to; for ReLU its result
     * serves as well */
    void (*activation_backward)(float *dy, const float *x, clipc_activation activation, size_t n);

    /* dp = p * (dp - sum p dp), the gradient with respect to the scores whose softmax is p   dp, p: [n] */
    void (*softmax_backward)(float *dp, const float *p, size_t n);

    /* din = din + rstd * (g - mean g - h * mean(g h)),  g = dout * weight, h = (in - mean) * rstd
     * din, dout, in, weight: [n]; mean, rstd as layernorm gave them */
    void (*layernorm_backward)(float *din, const float *dout, const float *in, float mean, float rstd,
                               const float *weight, size_t n);
} clipc_elementwise_kernels;

const clipc_elementwise_kernels *clipc_elementwise(void);

/* The tables of each instruction set; NULL where the compiler's target has none. */
const clipc_elementwise_kernels *clipc_elementwise_generic(void);
const clipc_elementwise_kernels *clipc_elementwise_avx2(void);

#endif
