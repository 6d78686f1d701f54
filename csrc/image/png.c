#include "image/png.h"

#include <string.h>

#include "image/limits.h"

#define SIGNATURE_BYTES 8
#define FRAME_BYTES 12 /* of a chunk around its body: length, type, CRC */
#define HEADER_BYTES 13
#define PALETTE_BYTES (3 * 256)

static const uint8_t signature[SIGNATURE_BYTES] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};

typedef struct {
    uint32_t length;
    const uint8_t *type; /* 4 letters */
    const uint8_t *body;
    size_t position; /* of the chunk in the file */
} chunk;

static uint32_t get32(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static uint8_t *put32(uint8_t *out, uint32_t value)
{
    for (int i = 0; i < 4; i++) {
        *out++ = (uint8_t)(value >> (24 - 8 * i));
    }
    return out;
}

/* CRC-32, eight bytes at a time: table[k][b] is the sum of byte b followed by k zero bytes. */
typedef struct {
    uint32_t table[8][256];
} crc_tables;

static void crc_tables_init(crc_tables *crc)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t sum = byte;
        for (int i = 0; i < 8; i++) {
            sum = sum >> 1 ^ (sum & 1 ? UINT32_C(0xEDB88320) : 0);
        }
        crc->table[0][byte] = sum;
    }
    for (int k = 1; k < 8; k++) {
        for (int byte = 0; byte < 256; byte++) {
            const uint32_t sum = crc->table[k - 1][byte];
            crc->table[k][byte] = sum >> 8 ^ crc->table[0][sum & 0xFF];
        }
    }
}

static uint32_t crc_of(const crc_tables *crc, const uint8_t *bytes, size_t n)
{
    uint32_t sum = UINT32_C(0xFFFFFFFF);
    for (; n >= 8; n -= 8, bytes += 8) {
        const uint32_t low =
            sum ^ ((uint32_t)bytes[3] << 24 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[1] << 8 | bytes[0]);
        sum = crc->table[7][low & 0xFF] ^ crc->table[6][low >> 8 & 0xFF] ^ crc->table[5][low >> 16 & 0xFF] ^
              crc->table[4][low >> 24] ^ crc->table[3][bytes[4]] ^ crc->table[2][bytes[5]] ^
              crc->table[1][bytes[6]] ^ crc->table[0][bytes[7]];
    }
    for (; n > 0; n--, bytes++) {
        sum = sum >> 8 ^ crc->table[0][(sum ^ *bytes) & 0xFF];
    }
    return ~sum;
}

static bool is_type(const chunk *chunk, const char *type)
{
    return memcmp(chunk->type, type, 4) == 0;
}

static clipc_status damaged(const chunk *chunk, const char *what, clipc_message *message)
{
    return clipc_fail(message, CLIPC_ERROR_IMAGE, "the PNG is damaged at byte %zu: %s", chunk->position,
                      what);
}

/* The chunk at *position, which is moved behind it. False when the file ends before the chunk does. */
static bool next_chunk(const uint8_t *data, size_t size, size_t *position, chunk *found)
{
    const size_t left = size - *position;
    found->position = *position;
    if (left < FRAME_BYTES) {
        return false;
    }
    found->length = get32(data + *position);
    found->type = data + *position + 4;
    found->body = data + *position + 8;
    if (found->length > left - FRAME_BYTES) {
        return false;
    }
    *position += FRAME_BYTES + found->length;
    return true;
}

static clipc_status read_header(const chunk *header, clipc_png_info *info, clipc_message *message)
{
    static const uint8_t depths[7] = {1 | 2 | 4 | 8 | 16, 0, 8 | 16, 1 | 2 | 4 | 8, 8 | 16, 0, 8 | 16};
    if (!is_type(header, "IHDR") || header->length != HEADER_BYTES) {
        return damaged(header, "the first chunk is no header", message);
    }
    info->width = get32(header->body);
    info->height = get32(header->body + 4);
    info->depth = header->body[8];
    info->colour = header->body[9];
    info->interlaced = header->body[12] == 1;
    const bool power = info->depth != 0 && (info->depth & (info->depth - 1)) == 0;
    if (info->width == 0 || info->height == 0 || info->width > INT32_MAX || info->height > INT32_MAX) {
        return damaged(header, "invalid width or height", message);
    }
    if (info->colour > 6 || !power || !(depths[info->colour] & info->depth) || header->body[10] != 0 ||
        header->body[11] != 0 || header->body[12] > 1) {
        return damaged(header, "invalid colour type, depth or method in the header", message);
    }
    return CLIPC_OK;
}

bool clipc_png_has_signature(const uint8_t *data, size_t size)
{
    return size >= SIGNATURE_BYTES && memcmp(data, signature, SIGNATURE_BYTES) == 0;
}

static clipc_status ends_early(size_t size, clipc_message *message)
{
    return clipc_fail(message, CLIPC_ERROR_IMAGE, "the PNG ends early: no complete end chunk in %zu bytes",
                      size);
}

clipc_status clipc_png_read_info(const uint8_t *data, size_t size, clipc_png_info *info,
                                 clipc_message *message)
{
    size_t position = SIGNATURE_BYTES;
    chunk chunk;
    memset(info, 0, sizeof *info);
    if (!next_chunk(data, size, &position, &chunk)) {
        return ends_early(size, message);
    }
    if (is_type(&chunk, "CgBI") && !next_chunk(data, size, &position, &chunk)) {
        return ends_early(size, message);
    }
    const clipc_status status = read_header(&chunk, info, message);
    while (status == CLIPC_OK && next_chunk(data, size, &position, &chunk)) {
        info->has_exif = info->has_exif || is_type(&chunk, "eXIf");
    }
    return status;
}

clipc_status clipc_png_check(const uint8_t *data, size_t size, uint64_t max_pixels, clipc_png_info *info,
                             clipc_message *message)
{
    size_t position = SIGNATURE_BYTES;
    bool have_header = false, data_ended = false, have_data = false;
    crc_tables crc;
    chunk chunk;
    crc_tables_init(&crc);
    memset(info, 0, sizeof *info);
    do {
        if (!next_chunk(data, size, &position, &chunk)) {
            return ends_early(size, message);
        }
        if (crc_of(&crc, chunk.type, 4 + (size_t)chunk.length) != get32(chunk.body + chunk.length)) {
            return damaged(&chunk, "the check sum of a chunk does not fit its content", message);
        }
        if (is_type(&chunk, "CgBI")) {
            info->unsupported = "it is of Apple's variant";
            continue;
        }
        if (!have_header) {
            clipc_status status = read_header(&chunk, info, message);
            if (status == CLIPC_OK) {
                status = clipc_check_pixels(info->height, info->width, max_pixels, message);
            }
            if (status != CLIPC_OK) {
                return status;
            }
            have_header = true;
            continue;
        }
        if (is_type(&chunk, "IDAT")) {
            if (data_ended) {
                return damaged(&chunk, "the compressed data are interrupted by another chunk", message);
            }
            if (info->colour == 3 && info->palette == NULL) {
                return damaged(&chunk, "the palette is missing", message);
            }
            have_data = true;
            info->data_bytes += chunk.length;
            continue;
        }
        data_ended = have_data;
        if (is_type(&chunk, "IHDR")) {
            return damaged(&chunk, "there is a second header", message);
        }
        if (is_type(&chunk, "PLTE")) {
            if (have_data || info->palette != NULL || chunk.length == 0 || chunk.length % 3 != 0 ||
                chunk.length > PALETTE_BYTES) {
                return damaged(&chunk, "invalid palette", message);
            }
            info->palette = chunk.body;
            info->n_colours = chunk.length / 3;
        } else if (is_type(&chunk, "eXIf")) {
            info->has_exif = true;
        } else if (!is_type(&chunk, "IEND") && !(chunk.type[0] & 0x20)) {
            info->unsupported =
                "it has an unknown chunk that matters"; /* its name begins with a capital letter */
        }
    } while (!is_type(&chunk, "IEND"));
    if (info->data_bytes == 0) {
        return damaged(&chunk, "there are no image data", message);
    }
    return CLIPC_OK;
}

size_t clipc_png_plain_bytes(const clipc_png_info *info)
{
    return SIGNATURE_BYTES + (FRAME_BYTES + HEADER_BYTES) +
           (info->colour == 3 ? FRAME_BYTES + PALETTE_BYTES : 0) + (FRAME_BYTES + info->data_bytes) +
           FRAME_BYTES;
}

static uint8_t *begin_chunk(uint8_t *out, uint32_t length, const char *type)
{
    out = put32(out, length);
    memcpy(out, type, 4);
    return out + 4;
}

void clipc_png_write_plain(uint8_t *out, const uint8_t *data, size_t size, const clipc_png_info *info)
{
    memcpy(out, signature, SIGNATURE_BYTES);
    out = begin_chunk(out + SIGNATURE_BYTES, HEADER_BYTES, "IHDR");
    out = put32(out, info->width);
    out = put32(out, info->height);
    *out++ = (uint8_t)info->depth;
    *out++ = (uint8_t)info->colour;
    *out++ = 0;
    *out++ = 0;
    *out++ = info->interlaced;
    out = put32(out, 0);
    if (info->colour == 3) {
        out = begin_chunk(out, PALETTE_BYTES, "PLTE");
        memset(out, 0, PALETTE_BYTES);
        memcpy(out, info->palette, 3 * info->n_colours);
        out = put32(out + PALETTE_BYTES, 0);
    }
    out = begin_chunk(out, (uint32_t)info->data_bytes, "IDAT");
    size_t position = SIGNATURE_BYTES;
    chunk chunk;
    while (next_chunk(data, size, &position, &chunk) && !is_type(&chunk, "IEND")) {
        if (is_type(&chunk, "IDAT")) {
            memcpy(out, chunk.body, chunk.length);
            out += chunk.length;
        }
    }
    out = put32(out, 0);
    out = begin_chunk(out, 0, "IEND");
    put32(out, 0);
}
