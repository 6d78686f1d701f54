/* Resampling for x86-64 with AVX2.
 *
 * The instruction that does the work is vpmaddwd: products of 16-bit numbers, two neighbours summed into 32
 * bits. A weight w of up to 26 bits is split exactly into w = 2^11 hi + lo, and two taps (samples) go through
 * at once. Packed weights of two taps are two words:
 *
 *   weights[2 p]      hi of tap 2 p in the low half, hi of tap 2 p + 1 in the high half
 *   weights[2 p + 1]  the same of lo
 *
 * Along the columns, neighbouring bytes of a row are the lanes. Along the rows, eight rows are: their pixels
 * are transposed piece by piece into pairs that lie as vpmaddwd wants them, so first[i] is made even.
 */
#include "kernels/resample.h"

#if defined(__x86_64__)

/* System headers first: their inline functions must not be compiled for AVX2. */
#include <immintrin.h>
#include <string.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif

#define CHANNELS 3
#define HALF (INT32_C(1) << (CLIPC_WEIGHT_BITS - 1))
#define LOW_BITS 11
#define ROWS 8         /* lanes */
#define CHUNK 8        /* pixels transposed at a time */
#define SPAN 384       /* pixels of eight rows that are held transposed: 18 KB, in the first-level cache */
#define GROUP 4        /* output pixels stored at a time */
#define STRIP_BYTES 32 /* bytes of a row summed at a time */

static void resample_pack_avx2(clipc_resample_filter *filter)
{
    for (size_t i = 0; i < filter->n; i++) {
        int32_t *const weights = filter->weights + i * filter->stride;
        if (filter->first[i] % 2 != 0) {
            memmove(weights + 1, weights, filter->count[i] * sizeof *weights);
            weights[0] = 0;
            filter->first[i]--;
            filter->count[i]++;
        }
        if (filter->count[i] % 2 != 0) {
            weights[filter->count[i]] = 0;
        }
        for (size_t k = 0; k < filter->count[i]; k += 2) {
            const uint32_t high0 = (uint16_t)(weights[k] >> LOW_BITS);
            const uint32_t high1 = (uint16_t)(weights[k + 1] >> LOW_BITS);
            const uint32_t low0 = (uint32_t)weights[k] & ((1u << LOW_BITS) - 1);
            const uint32_t low1 = (uint32_t)weights[k + 1] & ((1u << LOW_BITS) - 1);
            weights[k] = (int32_t)(high0 | high1 << 16);
            weights[k + 1] = (int32_t)(low0 | low1 << 16);
        }
    }
}

/* Weight k of packed weights, for what is too small or too wide for vectors. */
static inline int32_t unpacked_weight(const int32_t *weights, size_t k)
{
    const unsigned half = k % 2 != 0 ? 16 : 0;
    const int16_t high = (int16_t)((uint32_t)weights[k - k % 2] >> half);
    const uint16_t low = (uint16_t)((uint32_t)weights[k - k % 2 + 1] >> half);
    return high * (1 << LOW_BITS) + low;
}

/* out = one sample from count samples `step` bytes apart */
static uint8_t resample_one_avx2(const uint8_t *in, size_t step, const int32_t *weights, size_t count)
{
    int32_t sum = HALF;
    for (size_t k = 0; k < count; k++) {
        sum += unpacked_weight(weights, k) * in[k * step];
    }
    const int32_t value = sum >> CLIPC_WEIGHT_BITS;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

static inline __m256i rounded(__m256i high, __m256i low)
{
    const __m256i sum = _mm256_add_epi32(_mm256_slli_epi32(high, LOW_BITS), low);
    return _mm256_srai_epi32(sum, CLIPC_WEIGHT_BITS);
}

/* CHUNK pixels of eight rows to CHUNK / 2 * 3 vectors, one for each pair of pixels and channel c: lane y
 * holds (in[y, 2 p, c], in[y, 2 p + 1, c]) in 16 bits each. Reads exactly the 24 bytes from rows[y] + offset.
 */
static inline void transpose_chunk(uint32_t *out, const uint8_t *const rows[ROWS], size_t offset)
{
    /* Where in the 24 bytes the 16 begin of which each four vectors are made, and which bytes they take. */
    static const size_t starts[3] = {0, 6, 8};
    static const int8_t takes[3][16] = {
        {0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, 6, -1, 9, -1},        /* r01 g01 b01 r23 */
        {1, -1, 4, -1, 2, -1, 5, -1, 6, -1, 9, -1, 7, -1, 10, -1},       /* g23 b23 r45 g45 */
        {6, -1, 9, -1, 10, -1, 13, -1, 11, -1, 14, -1, 12, -1, 15, -1}}; /* b45 r67 g67 b67 */
    for (int part = 0; part < 3; part++) {
        const __m256i take = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)takes[part]));
        __m256i quads[4]; /* of rows y and y + 4 */
        for (int y = 0; y < 4; y++) {
            const __m128i upper = _mm_loadu_si128((const __m128i *)(rows[y] + offset + starts[part]));
            const __m128i lower = _mm_loadu_si128((const __m128i *)(rows[y + 4] + offset + starts[part]));
            quads[y] = _mm256_shuffle_epi8(_mm256_set_m128i(lower, upper), take);
        }
        const __m256i low01 = _mm256_unpacklo_epi32(quads[0], quads[1]);
        const __m256i low23 = _mm256_unpacklo_epi32(quads[2], quads[3]);
        const __m256i high01 = _mm256_unpackhi_epi32(quads[0], quads[1]);
        const __m256i high23 = _mm256_unpackhi_epi32(quads[2], quads[3]);
        __m256i *const to = (__m256i *)(out + (size_t)part * 4 * ROWS);
        _mm256_storeu_si256(to, _mm256_unpacklo_epi64(low01, low23));
        _mm256_storeu_si256(to + 1, _mm256_unpackhi_epi64(low01, low23));
        _mm256_storeu_si256(to + 2, _mm256_unpacklo_epi64(high01, high23));
        _mm256_storeu_si256(to + 3, _mm256_unpackhi_epi64(high01, high23));
    }
}

/* The n pixels of eight rows that begin at rows[y] + offset, and zeros behind them up to a whole chunk. */
static void transpose_span(uint32_t *out, const uint8_t *const rows[ROWS], size_t offset, size_t n)
{
    const size_t chunk_words = CHUNK / 2 * CHANNELS * ROWS;
    size_t x = 0;
    for (; x + CHUNK <= n; x += CHUNK, out += chunk_words) {
        transpose_chunk(out, rows, offset + x * CHANNELS);
    }
    if (x < n) {
        uint8_t rest[ROWS][CHUNK * CHANNELS] = {{0}};
        const uint8_t *rest_rows[ROWS];
        for (size_t y = 0; y < ROWS; y++) {
            memcpy(rest[y], rows[y] + offset + x * CHANNELS, (n - x) * CHANNELS);
            rest_rows[y] = rest[y];
        }
        transpose_chunk(out, rest_rows, 0);
    }
}

/* sums: [GROUP, CHANNELS], lane y of each the value for row y. Stores n <= GROUP pixels in n_rows <= ROWS
 * rows.
 */
static inline void store_group(uint8_t *out, size_t out_stride, const __m256i *sums, size_t n, size_t n_rows)
{
    const __m256i by_row = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15, 0, 4, 8, 12,
                                            1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    uint32_t words[CHANNELS][ROWS]; /* [.][y]: four bytes of row y */
    for (int w = 0; w < CHANNELS; w++) {
        const __m256i *const four = sums + w * 4;
        const __m256i bytes =
            _mm256_packus_epi16(_mm256_packs_epi32(four[0], four[1]), _mm256_packs_epi32(four[2], four[3]));
        _mm256_storeu_si256((__m256i *)words[w], _mm256_shuffle_epi8(bytes, by_row));
    }
    for (size_t y = 0; y < n_rows; y++) {
        const uint32_t row[CHANNELS] = {words[0][y], words[1][y], words[2][y]};
        if (n == GROUP) {
            memcpy(out + y * out_stride, row, sizeof row);
        } else {
            memcpy(out + y * out_stride, row, n * CHANNELS);
        }
    }
}

/* One output pixel in eight rows: sums[c], from the pairs of transposed pixels. */
static inline void sum_pixel(__m256i *sums, const uint32_t *pairs, const int32_t *weights, size_t count)
{
    __m256i high0 = _mm256_setzero_si256(), high1 = high0, high2 = high0;
    __m256i low0 = _mm256_set1_epi32(HALF), low1 = low0, low2 = low0;
    for (size_t k = 0; k < count; k += 2, pairs += CHANNELS * ROWS) {
        const __m256i high = _mm256_set1_epi32(weights[k]);
        const __m256i low = _mm256_set1_epi32(weights[k + 1]);
        const __m256i r = _mm256_loadu_si256((const __m256i *)pairs);
        const __m256i g = _mm256_loadu_si256((const __m256i *)(pairs + ROWS));
        const __m256i b = _mm256_loadu_si256((const __m256i *)(pairs + 2 * ROWS));
        high0 = _mm256_add_epi32(high0, _mm256_madd_epi16(r, high));
        high1 = _mm256_add_epi32(high1, _mm256_madd_epi16(g, high));
        high2 = _mm256_add_epi32(high2, _mm256_madd_epi16(b, high));
        low0 = _mm256_add_epi32(low0, _mm256_madd_epi16(r, low));
        low1 = _mm256_add_epi32(low1, _mm256_madd_epi16(g, low));
        low2 = _mm256_add_epi32(low2, _mm256_madd_epi16(b, low));
    }
    sums[0] = rounded(high0, low0);
    sums[1] = rounded(high1, low1);
    sums[2] = rounded(high2, low2);
}

/* Eight rows (some of them may be the same) of input, n_rows <= ROWS of output. */
static void resample_eight_rows(uint8_t *out, size_t out_stride, const uint8_t *const rows[ROWS],
                                size_t first_column, const clipc_resample_filter *filter, size_t n_rows)
{
    uint32_t pairs[SPAN / 2 * CHANNELS * ROWS];
    size_t i = 0;
    while (i < filter->n) {
        const size_t begin = filter->first[i];
        const size_t offset = (begin - first_column) * CHANNELS;
        if (filter->count[i] > SPAN) {
            for (size_t y = 0; y < n_rows; y++) {
                for (size_t c = 0; c < CHANNELS; c++) {
                    out[y * out_stride + i * CHANNELS + c] =
                        resample_one_avx2(rows[y] + offset + c, CHANNELS,
                                          filter->weights + i * filter->stride, filter->count[i]);
                }
            }
            i++;
            continue;
        }
        size_t end = i + 1;
        while (end < filter->n && filter->first[end] + filter->count[end] - begin <= SPAN) {
            end++;
        }
        transpose_span(pairs, rows, offset, filter->first[end - 1] + filter->count[end - 1] - begin);
        for (; i < end; i += GROUP) {
            const size_t n = end - i < GROUP ? end - i : GROUP;
            __m256i sums[GROUP * CHANNELS];
            for (size_t j = n; j < GROUP; j++) {
                sums[j * CHANNELS] = sums[j * CHANNELS + 1] = sums[j * CHANNELS + 2] = _mm256_setzero_si256();
            }
            for (size_t j = 0; j < n; j++) {
                sum_pixel(sums + j * CHANNELS, pairs + (filter->first[i + j] - begin) / 2 * CHANNELS * ROWS,
                          filter->weights + (i + j) * filter->stride, filter->count[i + j]);
            }
            store_group(out + i * CHANNELS, out_stride, sums, n, n_rows);
        }
        i = end;
    }
}

static void resample_rows_avx2(uint8_t *out, size_t out_stride, const uint8_t *in, size_t in_stride,
                               size_t first_column, const clipc_resample_filter *filter, size_t n_rows)
{
    for (size_t y = 0; y < n_rows; y += ROWS) {
        const size_t n = n_rows - y < ROWS ? n_rows - y : ROWS;
        const uint8_t *rows[ROWS];
        for (size_t j = 0; j < ROWS; j++) {
            rows[j] = in + (y + (j < n ? j : n - 1)) * in_stride;
        }
        resample_eight_rows(out + y * out_stride, out_stride, rows, first_column, filter, n);
    }
}

static void resample_columns_avx2(uint8_t *out, const uint8_t *in, size_t in_stride,
                                  const clipc_resample_filter *filter, size_t i, size_t n)
{
    const int32_t *const weights = filter->weights + i * filter->stride;
    const size_t count = filter->count[i];
    const __m256i zero = _mm256_setzero_si256();
    if (n < STRIP_BYTES) {
        for (size_t x = 0; x < n; x++) {
            out[x] = resample_one_avx2(in + x, in_stride, weights, count);
        }
        return;
    }
    for (size_t begin = 0; begin < n; begin += STRIP_BYTES) {
        /* The last strip overlaps the one before. */
        const size_t x = n - begin < STRIP_BYTES ? n - STRIP_BYTES : begin;
        __m256i high[4] = {zero, zero, zero, zero};
        __m256i low[4];
        low[0] = low[1] = low[2] = low[3] = _mm256_set1_epi32(HALF);
        for (size_t k = 0; k < count; k += 2) {
            const uint8_t *const row = in + k * in_stride + x;
            /* Behind an odd number of rows the weight is 0, and there may be no row. */
            const uint8_t *const next = k + 1 < count ? row + in_stride : row;
            const __m256i a = _mm256_loadu_si256((const __m256i *)row);
            const __m256i b = _mm256_loadu_si256((const __m256i *)next);
            const __m256i a_low = _mm256_unpacklo_epi8(a, zero), a_high = _mm256_unpackhi_epi8(a, zero);
            const __m256i b_low = _mm256_unpacklo_epi8(b, zero), b_high = _mm256_unpackhi_epi8(b, zero);
            const __m256i pairs[4] = {
                _mm256_unpacklo_epi16(a_low, b_low), _mm256_unpackhi_epi16(a_low, b_low),
                _mm256_unpacklo_epi16(a_high, b_high), _mm256_unpackhi_epi16(a_high, b_high)};
            const __m256i high_weights = _mm256_set1_epi32(weights[k]);
            const __m256i low_weights = _mm256_set1_epi32(weights[k + 1]);
            for (int j = 0; j < 4; j++) {
                high[j] = _mm256_add_epi32(high[j], _mm256_madd_epi16(pairs[j], high_weights));
                low[j] = _mm256_add_epi32(low[j], _mm256_madd_epi16(pairs[j], low_weights));
            }
        }
        /* Packing brings the bytes back into the order that unpacking took them from. */
        const __m256i first = _mm256_packs_epi32(rounded(high[0], low[0]), rounded(high[1], low[1]));
        const __m256i second = _mm256_packs_epi32(rounded(high[2], low[2]), rounded(high[3], low[3]));
        _mm256_storeu_si256((__m256i *)(out + x), _mm256_packus_epi16(first, second));
    }
}

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const clipc_resample_kernels *clipc_resample_avx2(void)
{
    static const clipc_resample_kernels table = {"avx2", resample_pack_avx2, resample_rows_avx2,
                                                 resample_columns_avx2};
    return &table;
}

#else

const clipc_resample_kernels *clipc_resample_avx2(void)
{
    return 0;
}

#endif
