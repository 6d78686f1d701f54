#include "image/limits.h"

#include <inttypes.h>

clipc_status clipc_check_pixels(uint32_t height, uint32_t width, uint64_t max_pixels, clipc_message *message)
{
    const uint64_t pixels = (uint64_t)height * width;
    if (pixels > max_pixels) {
        return clipc_fail(message, CLIPC_ERROR_IMAGE,
                          "the image has %" PRIu32 " x %" PRIu32 " = %" PRIu64
                          " pixels, more than the limit of %" PRIu64
                          " (environment variable CLIPC_MAX_IMAGE_PIXELS)",
                          width, height, pixels, max_pixels);
    }
    return CLIPC_OK;
}
