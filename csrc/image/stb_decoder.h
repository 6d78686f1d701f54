/* stb_image, the only decoder inside clipc, behind one function. */
#ifndef CLIPC_IMAGE_STB_DECODER_H
#define CLIPC_IMAGE_STB_DECODER_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

/* *pixels: [height, width, 3], from malloc, of a JPEG or PNG file that has passed its check and has this
 * size; or NULL with CLIPC_OK when stb_image declines, with its *reason (valid until this thread's next
 * call). Else CLIPC_ERROR_MEMORY, or CLIPC_ERROR_IMAGE when stb_image finds another size. size: at most
 * INT_MAX. */
clipc_status clipc_stb_decode(const uint8_t *data, size_t size, uint32_t height, uint32_t width,
                              uint8_t **pixels, const char **reason, clipc_message *message);

#endif
