/* Resampling for any processor: plain C. */
#include "kernels/resample.h"

#define CHANNELS 3
#define HALF (INT32_C(1) << (CLIPC_WEIGHT_BITS - 1))

/* Bytes of an output row whose sums are held at a time, on the stack. */
#define STRIP 384

static inline uint8_t round_to_byte(int32_t sum)
{
    const int32_t value = sum >> CLIPC_WEIGHT_BITS;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

static void resample_pack(clipc_resample_filter *filter)
{
    (void)filter; /* plain weights */
}

static void resample_rows(uint8_t *out, size_t out_stride, const uint8_t *in, size_t in_stride,
                          size_t first_column, const clipc_resample_filter *filter, size_t n_rows)
{
    for (size_t y = 0; y < n_rows; y++) {
        uint8_t *pixel = out + y * out_stride;
        for (size_t i = 0; i < filter->n; i++, pixel += CHANNELS) {
            const int32_t *const weights = filter->weights + i * filter->stride;
            const uint8_t *from = in + y * in_stride + (filter->first[i] - first_column) * CHANNELS;
            const size_t count = filter->count[i];
            int32_t r = HALF, g = HALF, b = HALF;
            for (size_t k = 0; k < count; k++, from += CHANNELS) {
                r += weights[k] * from[0];
                g += weights[k] * from[1];
                b += weights[k] * from[2];
            }
            pixel[0] = round_to_byte(r);
            pixel[1] = round_to_byte(g);
            pixel[2] = round_to_byte(b);
        }
    }
}

static void resample_columns(uint8_t *out, const uint8_t *in, size_t in_stride,
                             const clipc_resample_filter *filter, size_t i, size_t n)
{
    const int32_t *const weights = filter->weights + i * filter->stride;
    for (size_t begin = 0; begin < n; begin += STRIP) {
        const size_t width = n - begin < STRIP ? n - begin : STRIP;
        int32_t sums[STRIP];
        for (size_t x = 0; x < width; x++) {
            sums[x] = HALF;
        }
        for (size_t k = 0; k < filter->count[i]; k++) {
            const int32_t weight = weights[k];
            const uint8_t *const row = in + k * in_stride + begin;
            for (size_t x = 0; x < width; x++) {
                sums[x] += weight * row[x];
            }
        }
        for (size_t x = 0; x < width; x++) {
            out[begin + x] = round_to_byte(sums[x]);
        }
    }
}

const clipc_resample_kernels *clipc_resample_generic(void)
{
    static const clipc_resample_kernels table = {"generic", resample_pack, resample_rows, resample_columns};
    return &table;
}
