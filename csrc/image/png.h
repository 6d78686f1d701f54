/* The structure of a PNG file (ISO/IEC 15948): what it declares, and whether all of it is there.
 *
 * stb_image reads no check sums, lets pixels refer to palette entries that do not exist (they get
 * uninitialised memory), and refuses or reorders some valid files. So the chunks are checked first, and what
 * the pixels depend on is written anew in the plainest form.
 *
 * Not checked: the Adler-32 sum inside the compressed data, because the CRC of every chunk covers the same
 * bytes.
 */
#ifndef CLIPC_IMAGE_PNG_H
#define CLIPC_IMAGE_PNG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

typedef struct {
    uint32_t height, width; /* pixels, 1 to 2^31 - 1 */
    int depth;              /* bits per sample: 1, 2, 4, 8, 16 */
    int colour;             /* 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha */
    bool interlaced;
    bool has_exif;           /* a chunk eXIf */
    const char *unsupported; /* NULL, or why stb_image does not decode this valid file: a string constant */

    size_t data_bytes;      /* compressed data, all chunks IDAT together */
    const uint8_t *palette; /* in the file: n_colours RGB triples, or NULL */
    size_t n_colours;
} clipc_png_info;

bool clipc_png_has_signature(const uint8_t *data, size_t size);

/* Reads the chunks up to the end of what is there, without checking them. `data` (size bytes) is only read.
 */
clipc_status clipc_png_read_info(const uint8_t *data, size_t size, clipc_png_info *info,
                                 clipc_message *message);

/* Reads and checks the file up to its chunk IEND: order, lengths, CRCs; bytes behind it are ignored. More
 * than `max_pixels` is refused. Allocates nothing. CLIPC_ERROR_IMAGE when the file is damaged. */
clipc_status clipc_png_check(const uint8_t *data, size_t size, uint64_t max_pixels, clipc_png_info *info,
                             clipc_message *message);

/* A PNG file with the same pixels, of a file that has passed the check: IHDR, for palette images a PLTE of
 * 256 entries (missing ones black), one IDAT, IEND. Without tRNS, because transparency is dropped. CRCs are
 * 0.
 *
 * out: [clipc_png_plain_bytes(info)] */
size_t clipc_png_plain_bytes(const clipc_png_info *info);
void clipc_png_write_plain(uint8_t *out, const uint8_t *data, size_t size, const clipc_png_info *info);

#endif
