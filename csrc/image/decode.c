#include "image/decode.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "image/jpeg.h"
#include "image/limits.h"
#include "image/png.h"
#include "image/stb_decoder.h"

static clipc_status decode_jpeg(const uint8_t *data, size_t size, uint64_t max_pixels, uint8_t **pixels,
                                size_t *height, size_t *width, const char **why, clipc_message *message)
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
        const char *reason;
        status = clipc_stb_decode(data, size, info.height, info.width, pixels, &reason, message);
        if (status == CLIPC_OK && *pixels == NULL) {
            /* It has passed the check, so it is something that stb_image does not know, not damaged. */
            *why = "this kind of JPEG is not supported";
        }
    }
    return status;
}

static clipc_status decode_png(const uint8_t *data, size_t size, uint64_t max_pixels, uint8_t **pixels,
                               size_t *height, size_t *width, const char **why, clipc_message *message)
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
    if (*why == NULL && (size > INT_MAX || plain_bytes > INT_MAX ||
                         8 * ((uint64_t)info.width + 8) * ((uint64_t)info.height + 8) > INT_MAX)) {
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
    const char *reason;
    status = clipc_stb_decode(plain, plain_bytes, info.height, info.width, pixels, &reason, message);
    free(plain);
    if (status == CLIPC_OK && *pixels == NULL) {
        status = clipc_fail(message, CLIPC_ERROR_IMAGE,
                            "the PNG is damaged: its compressed data do not give its pixels (%s)", reason);
    }
    return status;
}

clipc_status clipc_read_image_info(const uint8_t *data, size_t size, clipc_image_info *info,
                                   clipc_message *message)
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

clipc_status clipc_decode_image(const uint8_t *data, size_t size, uint64_t max_pixels, uint8_t **pixels,
                                size_t *height, size_t *width, const char **why, clipc_message *message)
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
