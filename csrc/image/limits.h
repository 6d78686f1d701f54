/* The one size check of all image formats. */
#ifndef CLIPC_IMAGE_LIMITS_H
#define CLIPC_IMAGE_LIMITS_H

#include <stdint.h>

#include "core/status.h"

/* CLIPC_ERROR_IMAGE when height * width > max_pixels. Called before anything is allocated for the image. */
clipc_status clipc_check_pixels(uint32_t height, uint32_t width, uint64_t max_pixels, clipc_message *message);

#endif
