/* Layer normalisation (Ba, Kiros & Hinton 2016, arXiv 1607.06450). */
#ifndef CLIPC_NN_LAYERNORM_H
#define CLIPC_NN_LAYERNORM_H

#include <stddef.h>

#define CLIPC_LAYERNORM_EPS 1e-5f

typedef struct {
    float *weight; /* [C], owned */
    float *bias;   /* [C], owned */
    size_t c;
} clipc_layernorm;

/* out = (in - mean) / sqrt(variance + eps) * weight + bias, over the C values of each row
 * in, out: [M, C], may be the same; mean, rstd: [M] or NULL, kept for the backward pass. */
void clipc_layernorm_forward(float *out, float *mean, float *rstd, const float *in,
                             const clipc_layernorm *layernorm, size_t m);

/* din = din + rstd * (g - mean_C g - h * mean_C(g h)),  g = dout * weight,  h = (in - mean) * rstd
 * din, dout, in: [M, C]; mean, rstd: [M], from the forward pass. Added to din, where the gradient of the
 * residual path usually stands already. */
void clipc_layernorm_backward(float *din, const float *dout, const float *in, const float *mean,
                              const float *rstd, const clipc_layernorm *layernorm, size_t m);

void clipc_layernorm_free(clipc_layernorm *layernorm);

#endif
