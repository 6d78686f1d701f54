/* Resampling of 8-bit RGB along one axis, in fixed point, as Pillow has it. clipc_resample() gives the table
 * for the selected instruction set; all tables give the same bytes.
 *
 *   out[i] = clamp((2^21 + sum over k < count[i] of weights[i, k] * in[first[i] + k]) >> 22, 0, 255)
 *
 * in 32-bit integers; the weights have 22 fractional bits.
 */
#ifndef CLIPC_KERNELS_RESAMPLE_H
#define CLIPC_KERNELS_RESAMPLE_H

#include <stddef.h>
#include <stdint.h>

#define CLIPC_WEIGHT_BITS 22

/* How each output sample along an axis is made. first[i] and first[i] + count[i] do not fall with i. */
typedef struct {
    size_t n;
    size_t stride;    /* of weights: even, and greater than every count */
    int32_t *weights; /* [n, stride]: plain until `pack`, then in the order of the kernels that packed them */
    size_t *first;    /* [n] */
    size_t *count;    /* [n] */
} clipc_resample_filter;

typedef struct {
    const char *name;

    /* Brings a filter into the form that `rows` and `columns` of this table read. first[i] may fall by 1, to
     * a sample that then weighs nothing. */
    void (*pack)(clipc_resample_filter *filter);

    /* Along the rows: out[y, i, c] from in[y, first[i] - first_column + k, c], for y < n_rows
     * in: n_rows rows `in_stride` bytes apart, each begins with pixel `first_column` of the axis
     * out: n_rows rows of filter->n pixels, `out_stride` bytes apart */
    void (*rows)(uint8_t *out, size_t out_stride, const uint8_t *in, size_t in_stride, size_t first_column,
                 const clipc_resample_filter *filter, size_t n_rows);

    /* Along the columns, output row i: out[x] from in[k, x], for x < n
     * in: count[i] rows `in_stride` bytes apart, from row first[i] of the axis; out: [n]; n in bytes */
    void (*columns)(uint8_t *out, const uint8_t *in, size_t in_stride, const clipc_resample_filter *filter,
                    size_t i, size_t n);
} clipc_resample_kernels;

const clipc_resample_kernels *clipc_resample(void);

/* The tables of each instruction set; NULL where the compiler's target has none. */
const clipc_resample_kernels *clipc_resample_generic(void);
const clipc_resample_kernels *clipc_resample_avx2(void);

#endif
