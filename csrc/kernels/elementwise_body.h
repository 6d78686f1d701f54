/* Bodies of the row kernels, written so that the compiler turns the inner loops into vector code for
 * whatever instruction set the including file targets. That file defines
 *
 *   KERNEL(name)     the name with the instruction set appended
 *   MULADD(a, b, c)  a * b + c, fused where the instruction set has it
 *
 * Sums run in LANES independent accumulators, which vectorises without allowing the compiler to
 * reorder floating-point operations (-ffast-math would, for the whole process). Everything is static:
 * a shared inline function compiled for AVX2 must not be the copy that the linker keeps.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/elementwise.h"

#define LANES 32

/* e^x: x = k ln 2 + r with |r| <= ln 2 / 2; e^r by its Taylor polynomial of degree 7 (truncation error
 * below 1e-8 relative), 2^k by the exponent bits. Error below 2 units in the last place. Where e^x leaves
 * the normal floats it is 0 or infinity: x / (1 + e^-x) then tends to 0, and masked scores weigh nothing. */
static inline float KERNEL(exp)(float x)
{
    /* Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits. */
    const float shifted = MULADD(x, 1.44269504f, 12582912.0f);
    uint32_t k;
    memcpy(&k, &shifted, sizeof k);
    const float rounded = shifted - 12582912.0f;
    /* ln 2 in two parts, so that r keeps its low bits. */
    float r = MULADD(rounded, -0.693359375f, x);
    r = MULADD(rounded, 2.12194440e-4f, r);
    float p = 1.0f / 5040.0f;
    p = MULADD(p, r, 1.0f / 720.0f);
    p = MULADD(p, r, 1.0f / 120.0f);
    p = MULADD(p, r, 1.0f / 24.0f);
    p = MULADD(p, r, 1.0f / 6.0f);
    p = MULADD(p, r, 0.5f);
    p = MULADD(p, r, 1.0f);
    p = MULADD(p, r, 1.0f);
    const uint32_t bits = (k - 0x4B400000u + 127u) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    float value = p * scale; /* NaN for NaN, which neither comparison catches */
    value = x > 88.3f ? INFINITY : value;
    return x < -87.3f ? 0.0f : value;
}

/* erfc(|x|) = 1 - erf(|x|) by formula 7.1.26 of Abramowitz & Stegun, "Handbook of Mathematical Functions"
 * (1964); absolute error below 1.5e-7. */
static inline float KERNEL(erfc_of_magnitude)(float x)
{
    const float magnitude = fabsf(x);
    const float t = 1.0f / MULADD(0.3275911f, magnitude, 1.0f);
    float p = 1.061405429f;
    p = MULADD(p, t, -1.453152027f);
    p = MULADD(p, t, 1.421413741f);
    p = MULADD(p, t, -0.284496736f);
    p = MULADD(p, t, 0.254829592f);
    return p * t * KERNEL(exp)(-magnitude * magnitude);
}

static inline float KERNEL(quick_gelu)(float x)
{
    return x / (1.0f + KERNEL(exp)(-1.702f * x));
}

static inline float KERNEL(gelu)(float x)
{
    /* (1 + erf(x / sqrt 2)) / 2, without 1 - 1 for negative x: small values keep their digits. */
    const float tail = 0.5f * KERNEL(erfc_of_magnitude)(x * 0.70710678f);
    return x * (x < 0.0f ? tail : 1.0f - tail);
}

static inline void KERNEL(activate_rows)(float *y, size_t ldy, clipc_activation activation, size_t m,
                                         size_t n)
{
    switch (activation) {
    case CLIPC_ACTIVATION_NONE:
        break;
    case CLIPC_ACTIVATION_RELU:
        for (size_t i = 0; i < m; i++) {
            for (size_t j = 0; j < n; j++) {
                y[i * ldy + j] = y[i * ldy + j] < 0.0f ? 0.0f : y[i * ldy + j]; /* keeps NaN */
            }
        }
        break;
    case CLIPC_ACTIVATION_QUICK_GELU:
        for (size_t i = 0; i < m; i++) {
            for (size_t j = 0; j < n; j++) {
                y[i * ldy + j] = KERNEL(quick_gelu)(y[i * ldy + j]);
            }
        }
        break;
    case CLIPC_ACTIVATION_GELU:
        for (size_t i = 0; i < m; i++) {
            for (size_t j = 0; j < n; j++) {
                y[i * ldy + j] = KERNEL(gelu)(y[i * ldy + j]);
            }
        }
        break;
    }
}

/* A strip of the matrix product that was just stored is as wide as a tile; with the width known, the compiler
 * makes a few vector operations of each row. */
#define STRIP 16

static void KERNEL(activate)(float *y, size_t ldy, clipc_activation activation, size_t m, size_t n)
{
    if (n == STRIP) {
        KERNEL(activate_rows)(y, ldy, activation, m, STRIP);
    } else {
        KERNEL(activate_rows)(y, ldy, activation, m, n);
    }
}

static void KERNEL(epilogue)(float *restrict y, const float *restrict bias, const float *restrict residual,
                             clipc_activation activation, size_t n)
{
    if (bias != NULL && residual != NULL) {
        for (size_t i = 0; i < n; i++) {
            y[i] = y[i] + bias[i] + residual[i];
        }
    } else if (bias != NULL || residual != NULL) {
        const float *restrict term = bias != NULL ? bias : residual;
        for (size_t i = 0; i < n; i++) {
            y[i] += term[i];
        }
    }
    KERNEL(activate_rows)(y, n, activation, 1, n);
}

static float KERNEL(sum_of_lanes)(const float *lanes)
{
    float sum = 0.0f;
    for (size_t l = 0; l < LANES; l++) {
        sum += lanes[l];
    }
    return sum;
}

static void KERNEL(softmax)(float *x, size_t n)
{
    float largest = x[0];
    for (size_t i = 1; i < n; i++) {
        largest = x[i] > largest ? x[i] : largest;
    }
    float lanes[LANES] = {0.0f};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (size_t l = 0; l < LANES; l++) {
            x[i + l] = KERNEL(exp)(x[i + l] - largest);
            lanes[l] += x[i + l];
        }
    }
    float sum = KERNEL(sum_of_lanes)(lanes);
    for (; i < n; i++) {
        x[i] = KERNEL(exp)(x[i] - largest);
        sum += x[i];
    }
    const float scale = 1.0f / sum;
    for (i = 0; i < n; i++) {
        x[i] *= scale;
    }
}

static void KERNEL(layernorm)(float *out, float *mean_out, float *rstd_out, const float *in,
                              const float *weight, const float *bias, float eps, size_t n)
{
    float lanes[LANES] = {0.0f};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (size_t l = 0; l < LANES; l++) {
            lanes[l] += in[i + l];
        }
    }
    float sum = KERNEL(sum_of_lanes)(lanes);
    for (; i < n; i++) {
        sum += in[i];
    }
    const float mean = sum / (float)n;

    /* The second pass subtracts the mean first: sums of squares would cancel for rows far from zero. There
     * the mean itself is rounded coarsely; `rest` is what it lacks, the mean of the differences. */
    float squared_lanes[LANES] = {0.0f};
    memset(lanes, 0, sizeof lanes);
    for (i = 0; i + LANES <= n; i += LANES) {
        for (size_t l = 0; l < LANES; l++) {
            const float d = in[i + l] - mean;
            lanes[l] += d;
            squared_lanes[l] = MULADD(d, d, squared_lanes[l]);
        }
    }
    float differences = KERNEL(sum_of_lanes)(lanes);
    float squares = KERNEL(sum_of_lanes)(squared_lanes);
    for (; i < n; i++) {
        const float d = in[i] - mean;
        differences += d;
        squares = MULADD(d, d, squares);
    }
    const float rest = differences / (float)n;
    float variance = squares / (float)n - rest * rest;
    variance = variance < 0.0f ? 0.0f : variance; /* by rounding only; keeps NaN */
    const float rstd = 1.0f / sqrtf(variance + eps);
    for (i = 0; i < n; i++) {
        out[i] = MULADD((in[i] - mean - rest) * rstd, weight[i], bias[i]);
    }
    if (mean_out != NULL) {
        *mean_out = mean + rest;
    }
    if (rstd_out != NULL) {
        *rstd_out = rstd;
    }
}

/* d/dx x s(x) = s (1 + 1.702 x (1 - s)),  s(x) = 1 / (1 + e),  1 - s = e s,  e = e^(-1.702 x) */
static inline float KERNEL(quick_gelu_slope)(float x)
{
    /* From here on e is 0, and 0 times an infinite x would be NaN. The test is on x: one on e makes GCC
     * branch instead of selecting, and the loop is no longer vectorised. */
    const float bounded = x > 60.0f ? 60.0f : x;
    const float e = KERNEL(exp)(-1.702f * bounded), s = 1.0f / (1.0f + e);
    const float slope = s * (1.0f + 1.702f * bounded * (e * s));
    return s == 0.0f ? 0.0f : slope; /* there e is infinite */
}

/* d/dx x Phi(x) = Phi(x) + x phi(x), the normal distribution and its density */
static inline float KERNEL(gelu_slope)(float x)
{
    const float tail = 0.5f * KERNEL(erfc_of_magnitude)(x * 0.70710678f);
    const float density = 0.39894228f * KERNEL(exp)(-0.5f * x * x);
    const float xdensity = density == 0.0f ? 0.0f : x * density;
    return (x < 0.0f ? tail : 1.0f - tail) + xdensity;
}

static void KERNEL(activation_backward)(float *restrict dy, const float *restrict x,
                                        clipc_activation activation, size_t n)
{
    switch (activation) {
    case CLIPC_ACTIVATION_NONE:
        break;
    case CLIPC_ACTIVATION_RELU:
        for (size_t i = 0; i < n; i++) {
            dy[i] = x[i] > 0.0f ? dy[i] : 0.0f;
        }
        break;
    case CLIPC_ACTIVATION_QUICK_GELU:
        for (size_t i = 0; i < n; i++) {
            dy[i] *= KERNEL(quick_gelu_slope)(x[i]);
        }
        break;
    case CLIPC_ACTIVATION_GELU:
        for (size_t i = 0; i < n; i++) {
            dy[i] *= KERNEL(gelu_slope)(x[i]);
        }
        break;
    }
}

static void KERNEL(softmax_backward)(float *restrict dp, const float *restrict p, size_t n)
{
    float lanes[LANES] = {0.0f};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (size_t l = 0; l < LANES; l++) {
            lanes[l] = MULADD(p[i + l], dp[i + l], lanes[l]);
        }
    }
    float sum = KERNEL(sum_of_lanes)(lanes);
    for (; i < n; i++) {
        sum = MULADD(p[i], dp[i], sum);
    }
    for (i = 0; i < n; i++) {
        dp[i] = p[i] * (dp[i] - sum);
    }
}

static void KERNEL(layernorm_backward)(float *restrict din, const float *restrict dout,
                                       const float *restrict in, float mean, float rstd,
                                       const float *restrict weight, size_t n)
{
    /* As in the forward pass: far from zero the mean is rounded coarsely, and `rest` is what it lacks. With
     * d = in - mean, h = (d - rest) * rstd, so that sum g h = rstd * (sum g d - rest * sum g). */
    float d_lanes[LANES] = {0.0f}, g_lanes[LANES] = {0.0f}, gd_lanes[LANES] = {0.0f};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (size_t l = 0; l < LANES; l++) {
            const float g = dout[i + l] * weight[i + l], d = in[i + l] - mean;
            d_lanes[l] += d;
            g_lanes[l] += g;
            gd_lanes[l] = MULADD(g, d, gd_lanes[l]);
        }
    }
    float d_sum = KERNEL(sum_of_lanes)(d_lanes), g_sum = KERNEL(sum_of_lanes)(g_lanes);
    float gd_sum = KERNEL(sum_of_lanes)(gd_lanes);
    for (; i < n; i++) {
        const float g = dout[i] * weight[i], d = in[i] - mean;
        d_sum += d;
        g_sum += g;
        gd_sum = MULADD(g, d, gd_sum);
    }
    const float rest = d_sum / (float)n, g_mean = g_sum / (float)n;
    const float gh_mean = rstd * (gd_sum - rest * g_sum) / (float)n;
    for (i = 0; i < n; i++) {
        const float h = (in[i] - mean - rest) * rstd;
        din[i] += rstd * (dout[i] * weight[i] - g_mean - h * gh_mean);
    }
}

static const clipc_elementwise_kernels KERNEL(elementwise_table) = {
    .name = KERNEL_ISA_NAME,
    .epilogue = KERNEL(epilogue),
    .activate = KERNEL(activate),
    .softmax = KERNEL(softmax),
    .layernorm = KERNEL(layernorm),
    .activation_backward = KERNEL(activation_backward),
    .softmax_backward = KERNEL(softmax_backward),
    .layernorm_backward = KERNEL(layernorm_backward),
};
