#include "image/stb_decoder.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>

/* What stb_image may allocate during one call. A few compressed bytes can inflate to a thousand times
 * their size, whatever the header says; no block of more than `largest` bytes is needed for the picture
 * that was announced. */
static _Thread_local struct {
    size_t largest;
    bool exceeded; /* a larger block was asked for */
    bool failed;   /* the system had no memory */
} allowance;

static void *limited_realloc(void *block, size_t size)
{
    if (size > allowance.largest) {
        allowance.exceeded = true;
        return NULL;
    }
    void *moved = realloc(block, size ? size : 1);
    allowance.failed = allowance.failed || moved == NULL;
    return moved;
}

/* ---- parts of the JPEG decoder that are replaced ----
 *
 * Chroma planes are smaller than the picture. stb_image enlarges them by the same triangle filter as libjpeg,
 * but rounds otherwise, takes the wrong neighbour in the last but one column of 4:2:2 pictures (more than 100
 * levels off at a sharp edge), and computes colours and the inverse DCT with 12-bit constants. The functions
 * below compute what libjpeg does, so that a JPEG has the same pixels here as with Pillow.
 *
 * The macros give stb_image's own functions another name where they are defined (there a parenthesis
 * follows); where it takes their address it finds ours. A version of stb_image that calls them otherwise
 * uses its own. */

static inline unsigned char clamp_to_byte(int value)
{
    return (unsigned char)(value < 0 ? 0 : value > 255 ? 255 : value);
}

/* The eight-point inverse DCT of each column of x, times sqrt(8), in integers with 13 fractional bits,
 * rounded to `shift` bits less: y[i] = sum over k of x[k] * c(k) * cos((2 i + 1) k pi / 16),  c(0) = 1, else
 * sqrt(2) The even rows of x give a part that is the same in y[i] and y[7 - i], the odd ones a part that
 * differs in sign. The constants are those to which libjpeg's "slow integer" method expands (Loeffler,
 * Ligtenberg & Moschytz, ICASSP 1989): its factors were rounded one by one, so some of the products below are
 * one off. x, y: [8, 8]; for |x| < 2^15 no sum overflows. */
static void inverse_dct_columns(int *restrict y, const int *restrict x, int shift)
{
    const int half = 1 << (shift - 1);
    for (int column = 0; column < 8; column++) {
        const int *in = x + column;
        const int sum = (in[0] + in[32]) * 8192 + half, difference = (in[0] - in[32]) * 8192 + half;
        const int outer = 10703 * in[16] + 4433 * in[48], inner = 4433 * in[16] - 10704 * in[48];
        const int even[4] = {sum + outer, difference + inner, difference - inner, sum - outer};
        const int odd[4] = {
            11363 * in[8] + 9633 * in[24] + 6437 * in[40] + 2260 * in[56],
            9633 * in[8] - 2259 * in[24] - 11362 * in[40] - 6436 * in[56],
            6437 * in[8] - 11362 * in[24] + 2261 * in[40] + 9633 * in[56],
            2260 * in[8] - 6436 * in[24] + 9633 * in[40] - 11363 * in[56],
        };
        for (int i = 0; i < 4; i++) {
            y[8 * i + column] = (even[i] + odd[i]) >> shift;
            y[8 * (7 - i) + column] = (even[i] - odd[i]) >> shift;
        }
    }
}

/* y = x^T, values beyond 16 bits cut off: only damaged or hostile files have them. */
static void transpose(int *restrict y, const int *restrict x)
{
    for (int i = 0; i < 8; i++) {
        for (int j = 0; j < 8; j++) {
            const int value = x[8 * i + j];
            y[8 * j + i] = value < INT16_MIN ? INT16_MIN : value > INT16_MAX ? INT16_MAX : value;
        }
    }
}

/* A block of pixels from its dequantised coefficients    coefficients: [8, 8], out: 8 rows of 8, `stride`
 * apart */
static void stbi__idct_block(unsigned char *out, int stride, short coefficients[64])
{
    int x[64], y[64];
    for (int i = 0; i < 64; i++) {
        x[i] = coefficients[i];
    }
    /* Columns first, keeping two fractional bits; then rows, whose results are 8 times too large. */
    inverse_dct_columns(y, x, 13 - 2);
    transpose(x, y);
    inverse_dct_columns(y, x, 13 + 2 + 3);
    transpose(x, y);
    for (int i = 0; i < 8; i++) {
        for (int j = 0; j < 8; j++) {
            out[i * stride + j] = clamp_to_byte(x[8 * i + j] + 128);
        }
    }
}

static void stbi__idct_simd(unsigned char *out, int stride, short coefficients[64])
{
    stbi__idct_block(out, stride, coefficients);
}

/* out[2 * i], out[2 * i + 1] = near[i] and its neighbours 3:1    near: [w], out: [2 * w] */
static unsigned char *stbi__resample_row_h_2(unsigned char *out, unsigned char *near, unsigned char *far,
                                             int w, int hs)
{
    (void)far;
    (void)hs;
    if (w <= 2) { /* libjpeg does not interpolate such narrow planes */
        for (int i = 0; i < w; i++) {
            out[2 * i] = out[2 * i + 1] = near[i];
        }
        return out;
    }
    out[0] = near[0];
    out[1] = (unsigned char)((3 * near[0] + near[1] + 2) >> 2);
    for (int i = 1; i < w - 1; i++) {
        out[2 * i] = (unsigned char)((3 * near[i] + near[i - 1] + 1) >> 2);
        out[2 * i + 1] = (unsigned char)((3 * near[i] + near[i + 1] + 2) >> 2);
    }
    out[2 * w - 2] = (unsigned char)((3 * near[w - 1] + near[w - 2] + 1) >> 2);
    out[2 * w - 1] = near[w - 1];
    return out;
}

/* out[i] = near[i] and far[i] 3:1, rows of one plane    near, far, out: [w] */
static unsigned char *stbi__resample_row_v_2(unsigned char *out, unsigned char *near, unsigned char *far,
                                             int w, int hs)
{
    (void)hs;
    const int bias = far < near ? 1 : 2; /* the row above rounds down */
    for (int i = 0; i < w; i++) {
        out[i] = (unsigned char)((3 * near[i] + far[i] + bias) >> 2);
    }
    return out;
}

/* Both: rows 3:1, then columns 3:1    near, far: [w], out: [2 * w] */
static unsigned char *stbi__resample_row_hv_2(unsigned char *out, unsigned char *near, unsigned char *far,
                                              int w, int hs)
{
    if (w <= 2) {
        return stbi__resample_row_h_2(out, near, far, w, hs);
    }
    int before = 3 * near[0] + far[0];
    int here = before;
    for (int i = 0; i < w - 1; i++) {
        const int after = 3 * near[i + 1] + far[i + 1];
        out[2 * i] = (unsigned char)((3 * here + before + 8) >> 4);
        out[2 * i + 1] = (unsigned char)((3 * here + after + 7) >> 4);
        before = here;
        here = after;
    }
    out[2 * w - 2] = (unsigned char)((3 * here + before + 8) >> 4);
    out[2 * w - 1] = (unsigned char)((3 * here + here + 7) >> 4);
    return out;
}

static unsigned char *stbi__resample_row_hv_2_simd(unsigned char *out, unsigned char *near,
                                                   unsigned char *far, int w, int hs)
{
    return stbi__resample_row_hv_2(out, near, far, w, hs);
}

/* R = Y + 1.402 (Cr - 128), G = Y - 0.344136 (Cb - 128) - 0.714136 (Cr - 128), B = Y + 1.772 (Cb - 128), with
 * 16-bit constants (JFIF).    y, cb, cr: [count], out: [count, step], step 3 or 4 */
static void stbi__YCbCr_to_RGB_row(unsigned char *out, const unsigned char *y, const unsigned char *cb,
                                   const unsigned char *cr, int count, int step)
{
    enum { HALF = 1 << 15, R_CR = 91881, G_CB = 22554, G_CR = 46802, B_CB = 116130 };
    for (int i = 0; i < count; i++, out += step) {
        const int blue = cb[i] - 128, red = cr[i] - 128;
        out[0] = clamp_to_byte(y[i] + ((R_CR * red + HALF) >> 16));
        out[1] = clamp_to_byte(y[i] + ((-G_CB * blue - G_CR * red + HALF) >> 16));
        out[2] = clamp_to_byte(y[i] + ((B_CB * blue + HALF) >> 16));
        if (step == 4) {
            out[3] = 255;
        }
    }
}

static void stbi__YCbCr_to_RGB_simd(unsigned char *out, const unsigned char *y, const unsigned char *cb,
                                    const unsigned char *cr, int count, int step)
{
    stbi__YCbCr_to_RGB_row(out, y, cb, cr, count, step);
}

#define stbi__idct_block(...) replaced_idct_block(__VA_ARGS__)
#define stbi__idct_simd(...) replaced_idct_simd(__VA_ARGS__)
#define stbi__resample_row_h_2(...) replaced_resample_row_h_2(__VA_ARGS__)
#define stbi__resample_row_v_2(...) replaced_resample_row_v_2(__VA_ARGS__)
#define stbi__resample_row_hv_2(...) replaced_resample_row_hv_2(__VA_ARGS__)
#define stbi__resample_row_hv_2_simd(...) replaced_resample_row_hv_2_simd(__VA_ARGS__)
#define stbi__YCbCr_to_RGB_row(...) replaced_YCbCr_to_RGB_row(__VA_ARGS__)
#define stbi__YCbCr_to_RGB_simd(...) replaced_YCbCr_to_RGB_simd(__VA_ARGS__)

/* ---- stb_image ---- */

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#define STBI_NO_STDIO
#define STBI_NO_LINEAR
#define STBI_NO_HDR
#define STBI_ASSERT(condition) ((void)sizeof(condition)) /* not abort(); the files are checked before */
#define STBI_MALLOC(size) limited_realloc(NULL, size)
#define STBI_REALLOC(block, size) limited_realloc(block, size)
#define STBI_FREE(block) free(block)
#if defined(__aarch64__)
#define STBI_NEON
#endif

#if defined(__GNUC__)
/* Of a static library in a header some functions are declared and not compiled, most are not used. GCC
 * reports these at the end of the file, so this one has to stay in force until there. */
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#endif
#include "stb_image.h"
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

clipc_status clipc_stb_decode(const uint8_t *data, size_t size, uint32_t height, uint32_t width,
                              uint8_t **pixels, const char **reason, clipc_message *message)
{
    /* Planes are filled up to whole coding units of at most 32 x 32 pixels; the largest blocks are 16-bit
     * coefficients, or 16-bit RGBA that stb_image inflates into a buffer it doubles. */
    allowance.largest = 16 * ((size_t)width + 32) * ((size_t)height + 32) + 2 * size + (1 << 20);
    allowance.exceeded = false;
    allowance.failed = false;
    int found_width = 0, found_height = 0, n_components;
    uint8_t *result = stbi_load_from_memory(data, (int)size, &found_width, &found_height, &n_components, 3);
    if (allowance.failed) {
        free(result);
        return clipc_fail(message, CLIPC_ERROR_MEMORY,
                          "out of memory while decoding an image of %" PRIu32 " x %" PRIu32 " pixels", width,
                          height);
    }
    if (result != NULL && ((uint32_t)found_width != width || (uint32_t)found_height != height)) {
        free(result);
        return clipc_fail(message, CLIPC_ERROR_IMAGE, "the image has two different sizes");
    }
    *pixels = result;
    *reason = result != NULL ? NULL : allowance.exceeded ? "they are far too many" : stbi_failure_reason();
    return CLIPC_OK;
}
