/* Matrix multiplication for x86-64 with AVX2 and FMA: a tile of 6 rows and 16 columns, which with one row of
 * the panel and one broadcast element of x takes 15 of the 16 vector registers. */
#include "kernels/gemm_kernels.h"

#if defined(__x86_64__)

/* System headers first: their inline functions must not be compiled for AVX2. */
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#define MR 6
#define NR 16
#define ALWAYS_INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define FOR_EACH_ROW(i) _Pragma("clang loop unroll(full)") for (int i = 0; i < m; i++)
#else
#define FOR_EACH_ROW(i) _Pragma("GCC unroll 6") for (int i = 0; i < m; i++)
#endif

/* One step along K. */
ALWAYS_INLINE void rank_one_update(const int m, __m256 sums[MR][2], const float *const rows[MR], size_t k,
                                   const float *b)
{
    const __m256 left = _mm256_loadu_ps(b), right = _mm256_loadu_ps(b + 8);
    FOR_EACH_ROW(i)
    {
        const __m256 x = _mm256_broadcast_ss(rows[i] + k);
        sums[i][0] = _mm256_fmadd_ps(x, left, sums[i][0]);
        sums[i][1] = _mm256_fmadd_ps(x, right, sums[i][1]);
    }
}

/* m is a constant in each of the six copies, so that the sums live in registers. */
ALWAYS_INLINE void tile_of_rows(const int m, const clipc_gemm_tile *t)
{
    __m256 sums[MR][2];
    const float *rows[MR], *b = t->b;
    const char *next = (const char *)t->next;
    FOR_EACH_ROW(i)
    {
        sums[i][0] = sums[i][1] = _mm256_setzero_ps();
        rows[i] = t->a + (size_t)i * t->lda;
        /* Six pointers and one index: left alone, GCC makes a pointer of its own for each load and spills. */
        __asm__("" : "+r"(rows[i]));
    }
    /* More steps in one round are slower: GCC then moves sums between registers. */
    const size_t k = t->k;
    size_t l = 0;
    for (; l + 2 <= k; l += 2, b += 2 * NR, next += 64) {
        _mm_prefetch(next, _MM_HINT_T0);
        rank_one_update(m, sums, rows, l, b);
        rank_one_update(m, sums, rows, l + 1, b + NR);
    }
    if (l < k) {
        rank_one_update(m, sums, rows, l, b);
    }
    if (t->onto != NULL) {
        FOR_EACH_ROW(i)
        {
            const float *onto = t->onto + (size_t)i * t->ld_onto;
            sums[i][0] = _mm256_add_ps(sums[i][0], _mm256_loadu_ps(onto));
            sums[i][1] = _mm256_add_ps(sums[i][1], _mm256_loadu_ps(onto + 8));
        }
    }
    if (t->bias != NULL) {
        const __m256 left = _mm256_loadu_ps(t->bias), right = _mm256_loadu_ps(t->bias + 8);
        FOR_EACH_ROW(i)
        {
            sums[i][0] = _mm256_add_ps(sums[i][0], left);
            sums[i][1] = _mm256_add_ps(sums[i][1], right);
        }
    }
    if (t->relu) {
        const __m256 zero = _mm256_setzero_ps();
        FOR_EACH_ROW(i)
        {
            /* The second operand comes back when one of them is NaN. */
            sums[i][0] = _mm256_max_ps(zero, sums[i][0]);
            sums[i][1] = _mm256_max_ps(zero, sums[i][1]);
        }
    }
    FOR_EACH_ROW(i)
    {
        float *c = t->c + (size_t)i * t->ldc;
        _mm256_storeu_ps(c, sums[i][0]);
        _mm256_storeu_ps(c + 8, sums[i][1]);
    }
}

static void clipc_gemm_f32_6x16_avx2(const clipc_gemm_tile *t)
{
    switch (t->m) {
    case 1:
        tile_of_rows(1, t);
        break;
    case 2:
        tile_of_rows(2, t);
        break;
    case 3:
        tile_of_rows(3, t);
        break;
    case 4:
        tile_of_rows(4, t);
        break;
    case 5:
        tile_of_rows(5, t);
        break;
    default:
        tile_of_rows(6, t);
    }
}

/* panel[l, r] = rows[r, l] for eight r and eight l */
ALWAYS_INLINE void transpose_8x8(float *panel, const float *rows, size_t stride)
{
    __m256 pairs[8], quads[8];
    for (int i = 0; i < 8; i += 2) {
        const __m256 upper = _mm256_loadu_ps(rows + (size_t)i * stride);
        const __m256 lower = _mm256_loadu_ps(rows + (size_t)(i + 1) * stride);
        pairs[i] = _mm256_unpacklo_ps(upper, lower);
        pairs[i + 1] = _mm256_unpackhi_ps(upper, lower);
    }
    for (int i = 0; i < 8; i += 4) {
        for (int j = 0; j < 2; j++) {
            const __m256 upper = pairs[i + j], lower = pairs[i + j + 2];
            quads[i + 2 * j] = _mm256_shuffle_ps(upper, lower, 0x44);
            quads[i + 2 * j + 1] = _mm256_shuffle_ps(upper, lower, 0xEE);
        }
    }
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(panel + (size_t)i * NR, _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x20));
        _mm256_storeu_ps(panel + (size_t)(i + 4) * NR, _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x31));
    }
}

static void clipc_gemm_pack_f32_x16_avx2(float *panel, const float *rows, size_t stride, size_t n_rows,
                                         size_t length)
{
    size_t l = 0;
    if (n_rows == NR) {
        for (; l + 8 <= length; l += 8) {
            transpose_8x8(panel + l * NR, rows + l, stride);
            transpose_8x8(panel + l * NR + 8, rows + 8 * stride + l, stride);
        }
    }
    for (; l < length; l++) {
        for (size_t r = 0; r < NR; r++) {
            panel[l * NR + r] = r < n_rows ? rows[r * stride + l] : 0.0f;
        }
    }
}

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const clipc_gemm_kernels *clipc_gemm_f32_6x16_avx2_kernels(void)
{
    static const clipc_gemm_kernels kernels = {.name = "6x16 avx2",
                                               .mr = MR,
                                               .nr = NR,
                                               .kc = 512,
                                               .mc = 60,
                                               .nc = 1024,
                                               .tile = clipc_gemm_f32_6x16_avx2,
                                               .pack = clipc_gemm_pack_f32_x16_avx2};
    return &kernels;
}

#else

const clipc_gemm_kernels *clipc_gemm_f32_6x16_avx2_kernels(void)
{
    return 0;
}

#endif
