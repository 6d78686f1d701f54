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

    /* x = exp(x - max x) / sum exp(x - max x)   x: [n], n >= 1 */
    void (*softmax)(float *x, size_t n);

    /* out = (in - mean) * rstd * weight + bias, rstd = 1 / sqrt(variance + eps), variance over n
     * out, in, weight, bias: [n]; mean, rstd: [1] or NULL, kept for the backward pass */
    void (*layernorm)(float *out, float *mean, float *rstd, const float *in, const float *weight,
                      const float *bias, float eps, size_t n);
} clipc_elementwise_kernels;

const clipc_elementwise_kernels *clipc_elementwise(void);

/* The tables of each instruction set; NULL where the compiler's target has none. */
const clipc_elementwise_kernels *clipc_elementwise_generic(void);
const clipc_elementwise_kernels *clipc_elementwise_avx2(void);

#endif
