#include "image/decode.h"

#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "image/jpeg.h"
#include "image/limits.h"
#include "image/png.h"

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

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#define STBI_NO_STDIO
#define STBI_NO_LINEAR
#define STBI_NO_HDR
#define STBI_ASSERT(condition) ((void)sizeof(condition))
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

clipc_status clipc_check_pixels(uint32_t height, uint32_t width, uint64_t max_pixels, clipc_message *message)
{
    const uint64_t pixels = (uint64_t)height * width;
    if (pixels > max_pixels) {
        return clipc_fail(message, CLIPC_ERROR_IMAGE,
                          "the image has %" PRIu32 " x %" PRIu32 " = %" PRIu64 " pixels, more than the limit of %" PRIu64
                          " (environment variable CLIPC_MAX_IMAGE_PIXELS)",
                          width, height, pixels, max_pixels);
    }
    return CLIPC_OK;
}

/* Runs stb_image on a file that has been checked. *pixels stays NULL when it declines. */
static clipc_status decode_checked(const uint8_t *data, size_t size, uint32_t height, uint32_t width, uint8_t **pixels,
                                   clipc_message *message)
{
    /* Planes are filled up to whole coding units of at most 32 x 32 pixels; the largest blocks are 16-bit
     * coefficients, or 16-bit RGBA that stb_image inflates into a buffer it doubles. */
    allowance.largest = 16 * ((size_t)width + 32) * ((size_t)height + 32) + 2 * size + (1 << 20);
    allowance.exceeded = false;
    allowance.failed = false;
    int found_width = 0, found_height = 0, n_components;
    uint8_t *result = stbi_load_from_memory(data, (int)size, &found_width, &found_height, &n_components, 3);
    if (result != NULL && ((uint32_t)found_width != width || (uint32_t)found_height != height)) {
        free(result);
        return clipc_fail(message, CLIPC_ERROR_IMAGE, "the image has two different sizes");
    }
    if (allowance.failed) {
        free(result);
        return clipc_fail(message, CLIPC_ERROR_MEMORY, "out of memory while decoding an image of %" PRIu32 " x %" PRIu32
                          " pixels", width, height);
    }
    *pixels = result;
    return CLIPC_OK;
}

static clipc_status decode_jpeg(const uint8_t *data, size_t size, uint64_t max_pixels, uint8_t **pixels, size_t *height,
                                size_t *width, const char **why, clipc_message *message)
{
    clipc_jpeg_info info;
    clipc_status status = clipc_jpeg_check(data, size, max_pixels, &info, message);
    if (status != CLIPC_OK) {
        return status;
    }
    *height = info.height;
    *width = info.width;
    *why = info.unsupported;
    if (*why == NULL && (size > INT_MAX || 4 * (uint64_t)info.height * info.width > INT_MAX)) {
        *why = "it is too large for this decoder";
    }
    if (*why == NULL) {
        status = decode_checked(data, size, info.height, info.width, pixels, message);
        if (status == CLIPC_OK && *pixels == NULL) {
            /* The file has passed the check, so it is one that stb_image does not know rather than damaged. */
            *why = "this kind of JPEG is not supported";
        }
    }
    return status;
}

static clipc_status decode_png(const uint8_t *data, size_t size, uint64_t max_pixels, uint8_t **pixels, size_t *height,
                               size_t *width, const char **why, clipc_message *message)
{
    clipc_png_info info;
    clipc_status status = clipc_png_check(data, size, max_pixels, &info, message);
    if (status != CLIPC_OK) {
        return status;
    }
    *height = info.height;
    *width = info.width;
    *why = info.unsupported;
    const size_t plain_bytes = clipc_png_plain_bytes(&info);
    if (*why == NULL &&
        (size > INT_MAX || plain_bytes > INT_MAX || 8 * ((uint64_t)info.width + 8) * ((uint64_t)info.height + 8) > INT_MAX)) {
        *why = "it is too large for this decoder";
    }
    if (*why != NULL) {
        return CLIPC_OK;
    }
    uint8_t *plain = malloc(plain_bytes);
    if (plain == NULL) {
        return clipc_fail_memory(message, plain_bytes);
    }
    clipc_png_write_plain(plain, data, size, &info);
    status = decode_checked(plain, plain_bytes, info.height, info.width, pixels, message);
    free(plain);
    if (status == CLIPC_OK && *pixels == NULL) {
        status = clipc_fail(message, CLIPC_ERROR_IMAGE, "the PNG is damaged: its compressed data do not give its pixels (%s)",
                            allowance.exceeded ? "they are far too many" : stbi_failure_reason());
    }
    return status;
}

clipc_status clipc_read_image_info(const uint8_t *data, size_t size, clipc_image_info *info, clipc_message *message)
{
    clipc_status status = CLIPC_OK;
    memset(info, 0, sizeof *info);
    if (clipc_jpeg_has_signature(data, size)) {
        clipc_jpeg_info jpeg;
        status = clipc_jpeg_read_info(data, size, &jpeg, message);
        *info = (clipc_image_info){CLIPC_FORMAT_JPEG, jpeg.height, jpeg.width, jpeg.has_exif};
    } else if (clipc_png_has_signature(data, size)) {
        clipc_png_info png;
        status = clipc_png_read_info(data, size, &png, message);
        *info = (clipc_image_info){CLIPC_FORMAT_PNG, png.height, png.width, png.has_exif};
    }
    return status;
}

clipc_status clipc_decode_image(const uint8_t *data, size_t size, uint64_t max_pixels, uint8_t **pixels, size_t *height,
                                size_t *width, const char **why, clipc_message *message)
{
    *pixels = NULL;
    *height = 0;
    *width = 0;
    *why = NULL;
    if (clipc_jpeg_has_signature(data, size)) {
        return decode_jpeg(data, size, max_pixels, pixels, height, width, why, message);
    }
    if (clipc_png_has_signature(data, size)) {
        return decode_png(data, size, max_pixels, pixels, height, width, why, message);
    }
    *why = "it is neither a JPEG nor a PNG file";
    return CLIPC_OK;
}
