#include "model/loader.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "core/memory.h"
#include "core/workspace.h"

#define BATCHNORM_EPS 1e-5f
#define NAME_LENGTH 256

static float float_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* IEEE 754 binary16. Subnormals are exact multiples of 2^-24. */
static float float_from_half(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t exponent = (half >> 10) & 0x1Fu, fraction = half & 0x3FFu;
    if (exponent == 0) {
        const float magnitude = (float)fraction * 5.9604644775390625e-8f;
        return sign ? -magnitude : magnitude;
    }
    if (exponent == 31) {
        return float_from_bits(sign | 0x7F800000u | fraction << 13);
    }
    return float_from_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

static void convert_to_float(float *out, const clipc_tensor_view *tensor, size_t count)
{
    const uint16_t *halves = tensor->data;
    switch (tensor->dtype) {
    case CLIPC_FLOAT32:
        memcpy(out, tensor->data, count * sizeof(float));
        break;
    case CLIPC_FLOAT16:
        for (size_t i = 0; i < count; i++) {
            out[i] = float_from_half(halves[i]);
        }
        break;
    case CLIPC_BFLOAT16:
        for (size_t i = 0; i < count; i++) {
            out[i] = float_from_bits((uint32_t)halves[i] << 16);
        }
        break;
    }
}

static void format_shape(char *text, size_t size, int rank, const size_t *shape)
{
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i < rank && used < size; i++) {
        used += (size_t)snprintf(text + used, size - used, "%s%zu", i ? ", " : "", shape[i]);
    }
}

static clipc_status fetch_checked(clipc_loader *loader, clipc_tensor_view *tensor, const char *prefix,
                                  const char *name, int rank, const size_t *shape)
{
    char full[NAME_LENGTH];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    CLIPC_TRY(loader->fetch(loader->source, full, tensor, loader->message));
    bool fits = tensor->rank == rank;
    for (int i = 0; fits && i < rank; i++) {
        fits = tensor->shape[i] == shape[i];
    }
    if (fits) {
        return CLIPC_OK;
    }
    char expected[100], found[100];
    format_shape(expected, sizeof expected, rank, shape);
    format_shape(found, sizeof found, tensor->rank, tensor->shape);
    return clipc_fail(loader->message, CLIPC_ERROR_WEIGHTS, "%s: expected [%s], got [%s]", full, expected,
                      found);
}

static size_t count_of(int rank, const size_t *shape)
{
    size_t count = 1;
    for (int i = 0; i < rank; i++) {
        count *= shape[i];
    }
    return count;
}

static clipc_status new_floats(clipc_loader *loader, float **out, size_t count)
{
    *out = clipc_aligned_alloc(count, sizeof(float));
    if (*out == NULL) {
        return clipc_fail_memory(loader->message, (unsigned long long)count * sizeof(float));
    }
    return CLIPC_OK;
}

clipc_status clipc_load_floats(clipc_loader *loader, float **out, const char *prefix, const char *name,
                               int rank, const size_t *shape)
{
    clipc_tensor_view tensor;
    const size_t count = count_of(rank, shape);
    CLIPC_TRY(fetch_checked(loader, &tensor, prefix, name, rank, shape));
    CLIPC_TRY(new_floats(loader, out, count));
    convert_to_float(*out, &tensor, count);
    return CLIPC_OK;
}

/* A matrix that needs no reordering is packed straight from the source when it is float32 already. */
static clipc_status load_matrix(clipc_loader *loader, clipc_packed_matrix *matrix, const char *prefix,
                                const char *name, size_t n, size_t k)
{
    clipc_tensor_view tensor;
    const size_t shape[2] = {n, k};
    float *converted;
    CLIPC_TRY(fetch_checked(loader, &tensor, prefix, name, 2, shape));
    if (tensor.dtype == CLIPC_FLOAT32) {
        return clipc_pack_matrix(matrix, tensor.data, n, k, loader->message);
    }
    CLIPC_TRY(new_floats(loader, &converted, n * k));
    convert_to_float(converted, &tensor, n * k);
    const clipc_status status = clipc_pack_matrix(matrix, converted, n, k, loader->message);
    clipc_aligned_free(converted);
    return status;
}

clipc_status clipc_load_linear(clipc_loader *loader, clipc_linear *linear, const char *prefix, size_t oc,
                               size_t c)
{
    CLIPC_TRY(load_matrix(loader, &linear->weight, prefix, "weight", oc, c));
    return clipc_load_floats(loader, &linear->bias, prefix, "bias", 1, &oc);
}

clipc_status clipc_load_in_proj(clipc_loader *loader, clipc_linear *linear, const char *prefix, size_t c)
{
    const size_t oc = 3 * c;
    CLIPC_TRY(load_matrix(loader, &linear->weight, prefix, "in_proj_weight", oc, c));
    return clipc_load_floats(loader, &linear->bias, prefix, "in_proj_bias", 1, &oc);
}

clipc_status clipc_load_projection(clipc_loader *loader, clipc_linear *linear, const char *name, size_t c,
                                   size_t d)
{
    const size_t shape[2] = {c, d};
    float *projection = NULL, *transposed = NULL;
    clipc_status status = clipc_load_floats(loader, &projection, "", name, 2, shape);
    if (status == CLIPC_OK) {
        status = new_floats(loader, &transposed, c * d);
    }
    if (status == CLIPC_OK) {
        for (size_t i = 0; i < c; i++) {
            for (size_t j = 0; j < d; j++) {
                transposed[j * c + i] = projection[i * d + j];
            }
        }
        status = clipc_pack_matrix(&linear->weight, transposed, d, c, loader->message);
    }
    clipc_aligned_free(projection);
    clipc_aligned_free(transposed);
    return status;
}

clipc_status clipc_load_layernorm(clipc_loader *loader, clipc_layernorm *layernorm, const char *prefix,
                                  size_t c)
{
    layernorm->c = c;
    CLIPC_TRY(clipc_load_floats(loader, &layernorm->weight, prefix, "weight", 1, &c));
    return clipc_load_floats(loader, &layernorm->bias, prefix, "bias", 1, &c);
}

typedef struct {
    float *gamma, *beta, *mean, *variance; /* [OC] each */
} batchnorm_statistics;

static clipc_status load_batchnorm(clipc_loader *loader, batchnorm_statistics *bn, const char *prefix,
                                   size_t oc)
{
    CLIPC_TRY(clipc_load_floats(loader, &bn->gamma, prefix, "weight", 1, &oc));
    CLIPC_TRY(clipc_load_floats(loader, &bn->beta, prefix, "bias", 1, &oc));
    CLIPC_TRY(clipc_load_floats(loader, &bn->mean, prefix, "running_mean", 1, &oc));
    CLIPC_TRY(clipc_load_floats(loader, &bn->variance, prefix, "running_var", 1, &oc));
    for (size_t i = 0; i < oc; i++) {
        if (!(bn->variance[i] + BATCHNORM_EPS > 0.0f)) {
            return clipc_fail(loader->message, CLIPC_ERROR_WEIGHTS,
                              "%srunning_var: expected positive values, got %g", prefix,
                              (double)bn->variance[i]);
        }
    }
    return CLIPC_OK;
}

static clipc_status load_conv_batchnorm(clipc_loader *loader, clipc_conv2d *layer, batchnorm_statistics *bn,
                                        float **raw, float **folded, const char *conv, const char *batchnorm)
{
    const size_t oc = layer->oc, ic = layer->ic, kk = layer->kernel * layer->kernel;
    const size_t shape[4] = {oc, ic, layer->kernel, layer->kernel};
    CLIPC_TRY(clipc_load_floats(loader, raw, conv, "weight", 4, shape));
    CLIPC_TRY(load_batchnorm(loader, bn, batchnorm, oc));
    CLIPC_TRY(new_floats(loader, folded, oc * kk * ic));
    CLIPC_TRY(new_floats(loader, &layer->bias, oc));
    for (size_t o = 0; o < oc; o++) {
        const float scale = bn->gamma[o] / sqrtf(bn->variance[o] + BATCHNORM_EPS);
        layer->bias[o] = bn->beta[o] - bn->mean[o] * scale;
        for (size_t i = 0; i < ic; i++) {
            for (size_t k = 0; k < kk; k++) {
                (*folded)[(o * kk + k) * ic + i] = (*raw)[(o * ic + i) * kk + k] * scale;
            }
        }
    }
    return clipc_pack_matrix(&layer->weight, *folded, oc, kk * ic, loader->message);
}

clipc_status clipc_load_conv_batchnorm(clipc_loader *loader, clipc_conv2d *layer, const char *conv,
                                       const char *batchnorm)
{
    batchnorm_statistics bn = {NULL, NULL, NULL, NULL};
    float *raw = NULL, *folded = NULL;
    const clipc_status status = load_conv_batchnorm(loader, layer, &bn, &raw, &folded, conv, batchnorm);
    clipc_aligned_free(bn.gamma);
    clipc_aligned_free(bn.beta);
    clipc_aligned_free(bn.mean);
    clipc_aligned_free(bn.variance);
    clipc_aligned_free(raw);
    clipc_aligned_free(folded);
    return status;
}
