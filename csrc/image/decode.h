/* JPEG and PNG files in memory to 8-bit RGB pixels, by stb_image.
 *
 * Grey is replicated, alpha and transparent colours are dropped (not blended), palettes are expanded, of 16
 * bits the high byte is taken. Nothing is rotated.
 */
#ifndef CLIPC_IMAGE_DECODE_H
#define CLIPC_IMAGE_DECODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

typedef enum { CLIPC_FORMAT_OTHER = 0, CLIPC_FORMAT_JPEG, CLIPC_FORMAT_PNG } clipc_image_format;

typedef struct {
    clipc_image_format format;
    uint32_t height, width; /* pixels; 0 for CLIPC_FORMAT_OTHER */
    bool has_exif;          /* there is an Exif segment, which may tell how to rotate the picture */
} clipc_image_info;

/* Of the first bytes, without decoding. Bytes that are neither JPEG nor PNG are no error. */
clipc_status clipc_read_image_info(const uint8_t *data, size_t size, clipc_image_info *info,
                                   clipc_message *message);

/* *pixels: [height, width, 3], from malloc: the caller frees it. NULL with CLIPC_OK and *why a string
 * constant when the bytes are no JPEG or PNG that stb_image decodes as Pillow would (another format, CMYK,
 * arithmetic coding and the like): something for another decoder.
 *
 * CLIPC_ERROR_IMAGE: the file is damaged or ends early, or has more than max_pixels pixels, which is found
 * before memory is taken for it. Several threads may decode at once. */
clipc_status clipc_decode_image(const uint8_t *data, size_t size, uint64_t max_pixels, uint8_t **pixels,
                                size_t *height, size_t *width, const char **why, clipc_message *message);

#endif
