/* The structure of a JPEG file (ITU-T T.81): what it declares, and whether all of it is there.
 *
 * stb_image takes a scan that ends early for a grey area, leaves the memory of a component that no scan
 * codes uninitialised, and trusts Huffman tables and restart markers. So the file is checked before
 * stb_image sees it: every segment's length and tables, and the entropy-coded data of every scan, code by
 * code, up to the end-of-image marker. What passes holds all blocks that the frame declares.
 *
 * Not found by this: flipped bits that leave the sequence of codes valid (JPEG carries no check sum), and
 * a progressive file that was cut between two scans and closed with an end-of-image marker (a valid file
 * of lower quality).
 */
#ifndef CLIPC_IMAGE_JPEG_H
#define CLIPC_IMAGE_JPEG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

typedef struct {
    uint32_t height, width; /* pixels, 1 to 65535 */
    int n_components;       /* 1 grey, 3 YCbCr or RGB, 4 CMYK or YCCK */
    bool has_exif;          /* an APP1 segment with an Exif header stands before the first scan */
    /* NULL, or why stb_image does not decode this valid kind of JPEG, or decodes it to other colours than
     * libjpeg: a string constant. */
    const char *unsupported;
} clipc_jpeg_info;

bool clipc_jpeg_has_signature(const uint8_t *data, size_t size);

/* Reads the segments up to the first scan. `data` (size bytes) is only read. */
clipc_status clipc_jpeg_read_info(const uint8_t *data, size_t size, clipc_jpeg_info *info,
                                  clipc_message *message);

/* Reads and checks the file up to its end-of-image marker; bytes behind it are ignored. More than
 * `max_pixels` is refused before anything is allocated. CLIPC_ERROR_IMAGE when the file is damaged. */
clipc_status clipc_jpeg_check(const uint8_t *data, size_t size, uint64_t max_pixels, clipc_jpeg_info *info,
                              clipc_message *message);

#endif
