#include "image/jpeg.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "image/limits.h"

#define MAX_COMPONENTS 4
#define FAST_BITS 9

enum {
    MARKER_SOF0 = 0xC0, /* baseline */
    MARKER_SOF1 = 0xC1, /* extended sequential */
    MARKER_SOF2 = 0xC2, /* progressive */
    MARKER_DHT = 0xC4,
    MARKER_JPG = 0xC8,
    MARKER_DAC = 0xCC,
    MARKER_SOF15 = 0xCF,
    MARKER_RST0 = 0xD0,
    MARKER_RST7 = 0xD7,
    MARKER_SOI = 0xD8,
    MARKER_EOI = 0xD9,
    MARKER_SOS = 0xDA,
    MARKER_DQT = 0xDB,
    MARKER_DRI = 0xDD,
    MARKER_APP0 = 0xE0,
    MARKER_APP1 = 0xE1,
    MARKER_APP14 = 0xEE,
    MARKER_APP15 = 0xEF,
    MARKER_COM = 0xFE
};

typedef struct {
    uint16_t fast[1 << FAST_BITS]; /* [next bits]: length << 8 | symbol of the code they begin with, or 0 */
    uint32_t limit[17];            /* [length]: end of the codes of this length, left-aligned in 16 bits */
    int offset[17];                /* [length]: code + offset = index of its symbol */
    uint8_t symbols[256];
    bool defined;
} huffman_table;

typedef struct {
    uint8_t id;
    int h, v;                    /* sampling factors */
    int quantisation;            /* index of its table */
    uint32_t blocks_x, blocks_y; /* blocks that hold pixels: what a scan of this component alone codes */
    uint32_t stride;             /* blocks in a row, filled up to whole interleaved units */
    uint64_t *nonzero; /* [blocks]: bit k: coefficient k (zigzag order) is not 0. Progressive only */
    bool coded;        /* a scan has given it its (first) DC coefficients */
    int dc;            /* prediction */
} component;

typedef struct {
    component *component;
    const huffman_table *dc, *ac;
} scan_component;

typedef struct {
    int n;
    scan_component components[MAX_COMPONENTS];
    int first, last;  /* band of coefficients */
    int high, low;    /* successive approximation: bit positions before and after */
    uint32_t eob_run; /* blocks, after this one, whose band has ended */
} scan_header;

typedef struct {
    const uint8_t *data;
    size_t size;
    size_t position;
    bool header_only;
    uint64_t max_pixels;
    clipc_jpeg_info *info;
    clipc_message *message;

    bool have_frame, progressive;
    component components[MAX_COMPONENTS];
    int h_max, v_max;
    uint32_t units_x, units_y; /* interleaved coding units (MCU) */
    uint32_t restart_interval;
    bool quantisation_defined[4];
    huffman_table dc_tables[4], ac_tables[4];
    bool have_jfif, have_adobe;
    int adobe_transform;
    int n_scans;
} jpeg_file;

/* Entropy-coded bits, the next one at the top of `bits`. The reader never passes a marker. */
typedef struct {
    const uint8_t *next, *end;
    uint64_t bits;
    int n_bits;
} bit_reader;

typedef enum { BLOCK_OK, BLOCK_SHORT, BLOCK_INVALID } block_result;

static clipc_status damaged(jpeg_file *file, const char *what)
{
    return clipc_fail(file->message, CLIPC_ERROR_IMAGE, "the JPEG is damaged at byte %zu: %s", file->position,
                      what);
}

static clipc_status ends_early(jpeg_file *file)
{
    return clipc_fail(file->message, CLIPC_ERROR_IMAGE,
                      "the JPEG ends early: no end-of-image marker in %zu bytes", file->size);
}

/* A file may have several peculiarities; the first one is reported. */
static void not_supported(jpeg_file *file, const char *why)
{
    if (file->info->unsupported == NULL) {
        file->info->unsupported = why;
    }
}

static unsigned get16(const uint8_t *bytes)
{
    return (unsigned)bytes[0] << 8 | bytes[1];
}

/* ---- bits ---- */

static void refill_slowly(bit_reader *reader)
{
    while (reader->n_bits <= 56 && reader->next < reader->end) {
        uint64_t byte = *reader->next;
        const uint8_t *after = reader->next + 1;
        if (byte == 0xFF) {
            while (after < reader->end && *after == 0xFF) {
                after++;
            }
            if (after == reader->end || *after != 0) {
                return; /* a marker */
            }
            after++;
        }
        reader->bits |= byte << (56 - reader->n_bits);
        reader->n_bits += 8;
        reader->next = after;
    }
}

/* Afterwards there are at least 32 bits, or all that are left before the next marker. */
static inline void refill(bit_reader *reader)
{
    if (reader->n_bits >= 32) {
        return;
    }
    if (reader->end - reader->next >= 4) {
        const uint8_t *b = reader->next;
        const uint32_t word = (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
        /* A byte 0xFF is the only one whose complement is 0. */
        if (((~word - UINT32_C(0x01010101)) & word & UINT32_C(0x80808080)) == 0) {
            reader->bits |= (uint64_t)word << (32 - reader->n_bits);
            reader->n_bits += 32;
            reader->next += 4;
            return;
        }
    }
    refill_slowly(reader);
}

static inline void drop_bits(bit_reader *reader, int n)
{
    reader->bits <<= n;
    reader->n_bits -= n;
}

/* n from 0 to 16 */
static inline bool take_bits(bit_reader *reader, int n, uint32_t *value)
{
    refill(reader);
    if (reader->n_bits < n) {
        return false;
    }
    *value = n ? (uint32_t)(reader->bits >> (64 - n)) : 0;
    drop_bits(reader, n);
    return true;
}

/* Afterwards at least 16 bits follow in the reader, or all that are left. */
static inline block_result take_symbol(bit_reader *reader, const huffman_table *table, int *symbol)
{
    refill(reader);
    const unsigned entry = table->fast[reader->bits >> (64 - FAST_BITS)];
    int length = (int)(entry >> 8);
    if (length != 0) {
        *symbol = (int)(entry & 0xFF);
    } else {
        const uint32_t code = (uint32_t)(reader->bits >> 48);
        for (length = FAST_BITS + 1; length <= 16 && code >= table->limit[length]; length++) {
        }
        if (length > 16) {
            return reader->n_bits < 16 ? BLOCK_SHORT : BLOCK_INVALID;
        }
        *symbol = table->symbols[(int)(code >> (16 - length)) + table->offset[length]];
    }
    if (reader->n_bits < length) {
        return BLOCK_SHORT;
    }
    drop_bits(reader, length);
    return BLOCK_OK;
}

/* ---- blocks ----
 * Each function passes over the codes of one block as T.81 section F.2 and G.2 describe them. Of the values
 * only what later codes depend on is kept. */

static inline block_result pass_dc(bit_reader *reader, const huffman_table *table, component *component,
                                   int low)
{
    int size;
    const block_result result = take_symbol(reader, table, &size);
    if (result != BLOCK_OK) {
        return result;
    }
    if (size > 15) {
        return BLOCK_INVALID;
    }
    if (reader->n_bits < size) {
        return BLOCK_SHORT;
    }
    if (size > 0) {
        const int value = (int)(reader->bits >> (64 - size));
        drop_bits(reader, size);
        component->dc += value < 1 << (size - 1) ? value - (1 << size) + 1 : value;
    }
    /* Far outside what 8-bit samples lead to; decoders compute with 16 bits. */
    if (component->dc > 32767 >> low || component->dc < -(32767 >> low)) {
        return BLOCK_INVALID;
    }
    return BLOCK_OK;
}

static inline block_result pass_sequential_block(bit_reader *reader, const scan_component *part)
{
    block_result result = pass_dc(reader, part->dc, part->component, 0);
    int k = 1;
    while (result == BLOCK_OK && k < 64) {
        int symbol;
        result = take_symbol(reader, part->ac, &symbol);
        if (result != BLOCK_OK) {
            break;
        }
        const int run = symbol >> 4, size = symbol & 15;
        if (size == 0) {
            if (run != 15) {
                break; /* end of block */
            }
            k += 16;
            continue;
        }
        k += run + 1;
        if (k > 64) {
            return BLOCK_INVALID;
        }
        if (reader->n_bits < size) {
            return BLOCK_SHORT;
        }
        drop_bits(reader, size);
    }
    return result;
}

/* Coefficients first to last. */
static uint64_t band_mask(const scan_header *scan)
{
    return (~UINT64_C(0) << scan->first) & (~UINT64_C(0) >> (63 - scan->last));
}

static block_result pass_ac_first(bit_reader *reader, scan_header *scan, uint64_t *nonzero)
{
    const huffman_table *table = scan->components[0].ac;
    if (scan->eob_run > 0) {
        scan->eob_run--;
        return BLOCK_OK;
    }
    for (int k = scan->first; k <= scan->last;) {
        int symbol;
        const block_result result = take_symbol(reader, table, &symbol);
        if (result != BLOCK_OK) {
            return result;
        }
        const int run = symbol >> 4, size = symbol & 15;
        if (size == 0) {
            if (run == 15) {
                k += 16;
                continue;
            }
            uint32_t more;
            if (!take_bits(reader, run, &more)) {
                return BLOCK_SHORT;
            }
            scan->eob_run = (UINT32_C(1) << run) - 1 + more;
            return BLOCK_OK;
        }
        k += run;
        if (k > scan->last || size + scan->low > 15) {
            return BLOCK_INVALID;
        }
        if (reader->n_bits < size) {
            return BLOCK_SHORT;
        }
        drop_bits(reader, size);
        *nonzero |= UINT64_C(1) << k;
        k++;
    }
    return BLOCK_OK;
}

/* One correction bit for each coefficient of `mask`. */
static block_result pass_corrections(bit_reader *reader, uint64_t mask)
{
    for (; mask != 0; mask &= mask - 1) {
        uint32_t bit;
        if (!take_bits(reader, 1, &bit)) {
            return BLOCK_SHORT;
        }
    }
    return BLOCK_OK;
}

static block_result pass_ac_refinement(bit_reader *reader, scan_header *scan, uint64_t *nonzero)
{
    const huffman_table *table = scan->components[0].ac;
    const uint64_t band = band_mask(scan);
    const uint64_t before = *nonzero;
    if (scan->eob_run > 0) {
        scan->eob_run--;
        return pass_corrections(reader, before & band);
    }
    int k = scan->first;
    while (k <= scan->last) {
        int symbol;
        uint32_t bits;
        const block_result result = take_symbol(reader, table, &symbol);
        if (result != BLOCK_OK) {
            return result;
        }
        int run = symbol >> 4;
        const int size = symbol & 15;
        if (size > 1) {
            return BLOCK_INVALID;
        }
        if (size == 0 && run < 15) {
            if (!take_bits(reader, run, &bits)) {
                return BLOCK_SHORT;
            }
            scan->eob_run = (UINT32_C(1) << run) - 1 + bits;
            return pass_corrections(reader, before & band & ~UINT64_C(0) << k);
        }
        if (size == 1 && !take_bits(reader, 1, &bits)) { /* the sign */
            return BLOCK_SHORT;
        }
        /* Passes `run` coefficients that are zero, correcting those between that are not; the next zero is
         * the one that becomes nonzero (or, after 15 zeros and size 0, the sixteenth zero). */
        for (;; k++) {
            if (k > scan->last) {
                if (size == 1) {
                    return BLOCK_INVALID;
                }
                break;
            }
            if (before >> k & 1) {
                if (!take_bits(reader, 1, &bits)) {
                    return BLOCK_SHORT;
                }
            } else if (run-- == 0) {
                if (size == 1) {
                    *nonzero |= UINT64_C(1) << k;
                }
                k++;
                break;
            }
        }
    }
    return BLOCK_OK;
}

static inline block_result pass_block(jpeg_file *file, bit_reader *reader, scan_header *scan, int part,
                                      uint32_t x, uint32_t y)
{
    const scan_component *const coded = &scan->components[part];
    if (!file->progressive) {
        return pass_sequential_block(reader, coded);
    }
    if (scan->first == 0) {
        uint32_t bit;
        if (scan->high == 0) {
            return pass_dc(reader, coded->dc, coded->component, scan->low);
        }
        return take_bits(reader, 1, &bit) ? BLOCK_OK : BLOCK_SHORT;
    }
    uint64_t *nonzero = &coded->component->nonzero[(size_t)y * coded->component->stride + x];
    return scan->high == 0 ? pass_ac_first(reader, scan, nonzero) : pass_ac_refinement(reader, scan, nonzero);
}

/* ---- scans ---- */

/* Between two restart intervals: demands the marker RST(number mod 8) and steps behind it. */
static clipc_status pass_restart(jpeg_file *file, bit_reader *reader, scan_header *scan, uint32_t number)
{
    if (reader->n_bits >= 8) {
        /* libjpeg skips such bytes; stb_image would stop decoding here. */
        not_supported(file, "there are bytes between the coded data and a restart marker");
    }
    const uint8_t *at = reader->next;
    for (;; at++) {
        if (reader->end - at < 2) {
            return ends_early(file);
        }
        if (at[0] == 0xFF && at[1] != 0xFF && at[1] != 0) {
            break;
        }
        if (at[0] != 0xFF) {
            not_supported(file, "there are bytes between the coded data and a restart marker");
        }
    }
    if (at[1] != MARKER_RST0 + number % 8) {
        file->position = (size_t)(at - file->data);
        return damaged(file, "a restart marker is missing or out of order");
    }
    reader->next = at + 2;
    reader->bits = 0;
    reader->n_bits = 0;
    scan->eob_run = 0;
    for (int i = 0; i < scan->n; i++) {
        scan->components[i].component->dc = 0;
    }
    return CLIPC_OK;
}

/* The entropy-coded data that begin at file->position; leaves it at the marker that ends them. */
static clipc_status pass_scan_data(jpeg_file *file, scan_header *scan)
{
    bit_reader reader = {file->data + file->position, file->data + file->size, 0, 0};
    const component *const single = scan->components[0].component;
    const uint32_t columns = scan->n == 1 ? single->blocks_x : file->units_x;
    const uint32_t rows = scan->n == 1 ? single->blocks_y : file->units_y;
    uint32_t until_restart = file->restart_interval;
    uint32_t n_restarts = 0;
    block_result result = BLOCK_OK;

    for (uint32_t y = 0; y < rows; y++) {
        for (uint32_t x = 0; x < columns; x++) {
            if (file->restart_interval != 0) {
                if (until_restart == 0) {
                    const clipc_status status = pass_restart(file, &reader, scan, n_restarts++);
                    if (status != CLIPC_OK) {
                        return status;
                    }
                    until_restart = file->restart_interval;
                }
                until_restart--;
            }
            if (scan->n == 1) {
                result = pass_block(file, &reader, scan, 0, x, y);
            } else {
                for (int i = 0; i < scan->n && result == BLOCK_OK; i++) {
                    const component *part = scan->components[i].component;
                    for (int j = 0; j < part->h * part->v && result == BLOCK_OK; j++) {
                        result = pass_block(file, &reader, scan, i,
                                            x * (uint32_t)part->h + (uint32_t)(j % part->h),
                                            y * (uint32_t)part->v + (uint32_t)(j / part->h));
                    }
                }
            }
            if (result != BLOCK_OK) {
                const uint64_t done = (uint64_t)y * columns + x, all = (uint64_t)rows * columns;
                if (result == BLOCK_SHORT) {
                    return clipc_fail(file->message, CLIPC_ERROR_IMAGE,
                                      "the JPEG ends early: scan %d holds %" PRIu64 " of %" PRIu64
                                      " coding units",
                                      file->n_scans, done, all);
                }
                file->position = (size_t)(reader.next - file->data);
                return damaged(file, "invalid code in the compressed data");
            }
        }
    }
    if (scan->eob_run > 0) {
        file->position = (size_t)(reader.next - file->data);
        return damaged(file, "a run of blocks goes beyond the end of its scan");
    }
    const uint8_t *at = reader.next;
    while (reader.end - at >= 2 && !(at[0] == 0xFF && at[1] != 0xFF && at[1] != 0)) {
        at++;
    }
    if (reader.end - at < 2) {
        return ends_early(file);
    }
    file->position = (size_t)(at - file->data);
    return CLIPC_OK;
}

/* ---- segments ---- */

static clipc_status read_huffman_tables(jpeg_file *file, const uint8_t *body, size_t length)
{
    while (length > 0) {
        size_t n = 0;
        const uint8_t *counts = body + 1;
        if (length < 17) {
            return damaged(file, "a Huffman table is cut off");
        }
        for (int i = 0; i < 16; i++) {
            n += counts[i];
        }
        if (n > 256 || length - 17 < n) {
            return damaged(file, "a Huffman table does not fit its segment");
        }
        const unsigned kind = body[0] >> 4, index = body[0] & 15;
        if (kind > 1 || index > 3) {
            return damaged(file, "a Huffman table has an invalid number");
        }
        huffman_table *table = kind == 0 ? &file->dc_tables[index] : &file->ac_tables[index];
        memset(table, 0, sizeof *table);
        memcpy(table->symbols, body + 17, n);
        uint32_t code = 0;
        int symbol = 0;
        for (int bits = 1; bits <= 16; bits++) {
            const uint32_t count = counts[bits - 1];
            if (code + count > UINT32_C(1) << bits) {
                return damaged(file, "a Huffman table has more codes than its lengths allow");
            }
            table->offset[bits] = symbol - (int)code;
            for (uint32_t i = 0; i < count && bits <= FAST_BITS; i++) {
                const uint32_t first = (code + i) << (FAST_BITS - bits);
                for (uint32_t j = 0; j < UINT32_C(1) << (FAST_BITS - bits); j++) {
                    table->fast[first + j] = (uint16_t)(bits << 8 | table->symbols[symbol + (int)i]);
                }
            }
            code += count;
            symbol += (int)count;
            table->limit[bits] = code << (16 - bits);
            code <<= 1;
        }
        table->defined = true;
        body += 17 + n;
        length -= 17 + n;
    }
    return CLIPC_OK;
}

static clipc_status read_quantisation_tables(jpeg_file *file, const uint8_t *body, size_t length)
{
    while (length > 0) {
        const unsigned precision = body[0] >> 4, index = body[0] & 15;
        const size_t bytes = precision == 0 ? 65 : 129;
        if (precision > 1 || index > 3 || length < bytes) {
            return damaged(file, "invalid quantisation table");
        }
        file->quantisation_defined[index] = true;
        body += bytes;
        length -= bytes;
    }
    return CLIPC_OK;
}

/* stb_image and libjpeg guess the colour space of three components by different rules. Where these
 * disagree, libjpeg (and so Pillow) is right. */
static void check_colour_space(jpeg_file *file)
{
    const component *c = file->components;
    const bool named_rgb = c[0].id == 'R' && c[1].id == 'G' && c[2].id == 'B';
    const bool adobe_rgb = file->have_adobe && file->adobe_transform == 0;
    const bool stb_rgb = named_rgb || (adobe_rgb && !file->have_jfif);
    bool libjpeg_rgb = named_rgb;
    if (file->have_jfif) {
        libjpeg_rgb = false;
    } else if (file->have_adobe) {
        libjpeg_rgb = adobe_rgb;
    }
    if (stb_rgb != libjpeg_rgb) {
        not_supported(file, "its markers contradict each other about the colour space");
    }
}

static clipc_status read_frame(jpeg_file *file, int marker, const uint8_t *body, size_t length)
{
    clipc_jpeg_info *info = file->info;
    if (file->have_frame) {
        return damaged(file, "it has two frame headers");
    }
    if (length < 6 || length != 6 + 3 * (size_t)body[5]) {
        return damaged(file, "invalid frame header");
    }
    info->height = get16(body + 1);
    info->width = get16(body + 3);
    info->n_components = body[5];
    if (info->width == 0 || info->n_components == 0) {
        return damaged(file, "it has no pixels");
    }
    if (info->height == 0) {
        return clipc_fail(file->message, CLIPC_ERROR_IMAGE,
                          "this JPEG does not give its height in its header");
    }
    const clipc_status status =
        clipc_check_pixels(info->height, info->width, file->max_pixels, file->message);
    if (status != CLIPC_OK) {
        return status;
    }
    file->have_frame = true;
    file->progressive = marker == MARKER_SOF2;
    if (marker > MARKER_SOF2) {
        not_supported(file, "it is lossless, hierarchical or arithmetically coded");
        return CLIPC_OK;
    }
    if (body[0] != 8) {
        not_supported(file, "its samples have more than 8 bits");
        return CLIPC_OK;
    }
    if (info->n_components == 2 || info->n_components > MAX_COMPONENTS) {
        not_supported(file, "it has an unusual number of components");
        return CLIPC_OK;
    }
    if (info->n_components == 4) {
        not_supported(file, "it has four components (CMYK)");
    }
    file->h_max = 1;
    file->v_max = 1;
    for (int i = 0; i < info->n_components; i++) {
        component *part = &file->components[i];
        part->id = body[6 + 3 * i];
        part->h = body[7 + 3 * i] >> 4;
        part->v = body[7 + 3 * i] & 15;
        part->quantisation = body[8 + 3 * i];
        if (part->h < 1 || part->h > 4 || part->v < 1 || part->v > 4 || part->quantisation > 3) {
            return damaged(file, "invalid frame header");
        }
        for (int j = 0; j < i; j++) {
            if (file->components[j].id == part->id) {
                return damaged(file, "two components have the same number");
            }
        }
        file->h_max = part->h > file->h_max ? part->h : file->h_max;
        file->v_max = part->v > file->v_max ? part->v : file->v_max;
    }
    if (info->n_components == 3) {
        check_colour_space(file);
    }
    const uint32_t h_max = (uint32_t)file->h_max, v_max = (uint32_t)file->v_max;
    file->units_x = (info->width + 8 * h_max - 1) / (8 * h_max);
    file->units_y = (info->height + 8 * v_max - 1) / (8 * v_max);
    for (int i = 0; i < info->n_components; i++) {
        component *part = &file->components[i];
        const uint32_t h = (uint32_t)part->h, v = (uint32_t)part->v;
        if (h_max % h != 0 || v_max % v != 0) {
            not_supported(file, "its subsampling is not a whole number");
        }
        part->blocks_x = ((info->width * h + h_max - 1) / h_max + 7) / 8;
        part->blocks_y = ((info->height * v + v_max - 1) / v_max + 7) / 8;
        part->stride = file->units_x * h;
        if (file->progressive && !file->header_only) {
            const size_t blocks = (size_t)part->stride * (file->units_y * v);
            part->nonzero = calloc(blocks, sizeof *part->nonzero);
            if (part->nonzero == NULL) {
                return clipc_fail_memory(file->message, (unsigned long long)(blocks * sizeof *part->nonzero));
            }
        }
    }
    return CLIPC_OK;
}

/* Parses the header of a scan and checks that what it refers to is there. */
static clipc_status read_scan_header(jpeg_file *file, const uint8_t *body, size_t length, scan_header *scan)
{
    memset(scan, 0, sizeof *scan);
    if (length < 1 || body[0] < 1 || body[0] > file->info->n_components ||
        length != 4 + 2 * (size_t)body[0]) {
        return damaged(file, "invalid scan header");
    }
    scan->n = body[0];
    const uint8_t *const band = body + 1 + 2 * scan->n;
    scan->first = band[0];
    scan->last = band[1];
    scan->high = band[2] >> 4;
    scan->low = band[2] & 15;
    if (file->progressive) {
        if (scan->first > scan->last || scan->last > 63 || scan->high > 13 || scan->low > 13 ||
            (scan->first == 0 && scan->last != 0) || (scan->first > 0 && scan->n != 1)) {
            return damaged(file, "invalid scan header");
        }
    } else if (scan->first != 0 || scan->last != 63 || scan->high != 0 || scan->low != 0) {
        not_supported(file, "a sequential scan has the parameters of a progressive one");
    }
    const bool needs_dc = !file->progressive || (scan->first == 0 && scan->high == 0);
    const bool needs_ac = !file->progressive || scan->first > 0;
    int blocks = 0;
    for (int i = 0; i < scan->n; i++) {
        component *part = NULL;
        for (int j = 0; j < file->info->n_components; j++) {
            if (file->components[j].id == body[1 + 2 * i]) {
                part = &file->components[j];
            }
        }
        for (int j = 0; j < i; j++) {
            if (scan->components[j].component == part) {
                part = NULL; /* named twice */
                break;
            }
        }
        const unsigned dc = body[2 + 2 * i] >> 4, ac = body[2 + 2 * i] & 15;
        if (part == NULL || dc > 3 || ac > 3) {
            return damaged(file, "invalid scan header");
        }
        if ((needs_dc && !file->dc_tables[dc].defined) || (needs_ac && !file->ac_tables[ac].defined) ||
            !file->quantisation_defined[part->quantisation]) {
            return damaged(file, "a scan uses a table that is not defined");
        }
        if (file->progressive && needs_dc == part->coded) {
            /* AC or refinement before the first DC scan, or a second one: stb_image would mix them up. */
            not_supported(file, "its scans come in an unusual order");
        }
        part->coded = part->coded || needs_dc;
        part->dc = 0;
        scan->components[i] = (scan_component){part, &file->dc_tables[dc], &file->ac_tables[ac]};
        blocks += part->h * part->v;
    }
    if (scan->n > 1 && blocks > 10) {
        return damaged(file, "a coding unit has more than 10 blocks");
    }
    return CLIPC_OK;
}

/* Skips the coded data of a kind of JPEG that is not looked into: to the next marker but RST. */
static clipc_status skip_scan_data(jpeg_file *file)
{
    size_t at = file->position;
    while (file->size - at >= 2 &&
           !(file->data[at] == 0xFF && file->data[at + 1] != 0 && file->data[at + 1] != 0xFF &&
             !(file->data[at + 1] >= MARKER_RST0 && file->data[at + 1] <= MARKER_RST7))) {
        at++;
    }
    file->position = at;
    return file->size - at < 2 ? ends_early(file) : CLIPC_OK;
}

static void read_application_segment(jpeg_file *file, int marker, const uint8_t *body, size_t length)
{
    if (marker == MARKER_APP0 && length >= 5 && memcmp(body, "JFIF", 5) == 0) {
        file->have_jfif = true;
    } else if (marker == MARKER_APP1 && length >= 6 && memcmp(body, "Exif\0", 6) == 0) {
        file->info->has_exif = true;
    } else if (marker == MARKER_APP14 && length >= 12 && memcmp(body, "Adobe", 5) == 0) {
        file->have_adobe = true;
        file->adobe_transform = body[11];
    }
}

/* Puts the next marker into *marker and file->position behind it. */
static clipc_status next_marker(jpeg_file *file, int *marker)
{
    size_t at = file->position;
    while (file->size - at >= 2 &&
           !(file->data[at] == 0xFF && file->data[at + 1] != 0 && file->data[at + 1] != 0xFF)) {
        if (file->data[at] != 0xFF || file->data[at + 1] == 0) { /* a single 0xFF is allowed as filling */
            not_supported(file, "there are bytes between its segments");
        }
        at++;
    }
    if (file->size - at < 2) {
        return ends_early(file);
    }
    *marker = file->data[at + 1];
    file->position = at + 2;
    return CLIPC_OK;
}

static clipc_status read_segment(jpeg_file *file, int marker, const uint8_t *body, size_t length, bool *done)
{
    if (marker == MARKER_DHT) {
        return read_huffman_tables(file, body, length);
    }
    if (marker == MARKER_DQT) {
        return read_quantisation_tables(file, body, length);
    }
    if (marker == MARKER_DRI) {
        if (length != 2) {
            return damaged(file, "invalid restart interval");
        }
        file->restart_interval = get16(body);
        return CLIPC_OK;
    }
    if (marker >= MARKER_APP0 && marker <= MARKER_APP15) {
        read_application_segment(file, marker, body, length);
        return CLIPC_OK;
    }
    if (marker == MARKER_COM) {
        return CLIPC_OK;
    }
    if (marker == MARKER_DAC) {
        not_supported(file, "it is arithmetically coded");
        return CLIPC_OK;
    }
    if (marker >= MARKER_SOF0 && marker <= MARKER_SOF15 && marker != MARKER_JPG) {
        return read_frame(file, marker, body, length);
    }
    if (marker == MARKER_SOS) {
        if (!file->have_frame) {
            return damaged(file, "a scan comes before the frame header");
        }
        if (file->header_only) {
            *done = true;
            return CLIPC_OK;
        }
        file->n_scans++;
        file->position += length;
        if (file->components[0].h == 0) {
            return skip_scan_data(file);
        }
        scan_header scan;
        const clipc_status status = read_scan_header(file, body, length, &scan);
        return status == CLIPC_OK ? pass_scan_data(file, &scan) : status;
    }
    not_supported(file, "it has an unusual segment");
    return CLIPC_OK;
}

static clipc_status read_file(jpeg_file *file)
{
    file->position = 2; /* SOI */
    for (bool done = false; !done;) {
        int marker = 0;
        clipc_status status = next_marker(file, &marker);
        if (status != CLIPC_OK) {
            return status;
        }
        if (marker == MARKER_EOI) {
            break;
        }
        if (marker == 0x01 || (marker >= MARKER_RST0 && marker <= MARKER_SOI)) {
            /* These have no length. Here they have no meaning either. */
            not_supported(file, "a marker stands where it has no meaning");
            continue;
        }
        if (file->size - file->position < 2) {
            return ends_early(file);
        }
        const size_t length = get16(file->data + file->position);
        if (length < 2) {
            return damaged(file, "a segment has an invalid length");
        }
        if (file->size - file->position < length) {
            return ends_early(file);
        }
        const size_t body = file->position + 2;
        file->position = body;
        status = read_segment(file, marker, file->data + body, length - 2, &done);
        if (status != CLIPC_OK) {
            return status;
        }
        if (marker != MARKER_SOS) {
            file->position = body + length - 2;
        }
    }
    if (!file->have_frame) {
        return damaged(file, "it has no frame header");
    }
    if (!file->header_only && file->n_scans == 0) {
        return damaged(file, "it has no scan");
    }
    for (int i = 0; i < file->info->n_components && i < MAX_COMPONENTS; i++) {
        if (!file->header_only && file->components[0].h != 0 && !file->components[i].coded) {
            return damaged(file, "a component is not coded by any scan");
        }
    }
    return CLIPC_OK;
}

static clipc_status inspect(const uint8_t *data, size_t size, bool header_only, uint64_t max_pixels,
                            clipc_jpeg_info *info, clipc_message *message)
{
    /* About 16 kB of tables: rather on the heap than on the stack of a thread we do not know. */
    jpeg_file *file = calloc(1, sizeof *file);
    memset(info, 0, sizeof *info);
    if (file == NULL) {
        return clipc_fail_memory(message, sizeof *file);
    }
    file->data = data;
    file->size = size;
    file->header_only = header_only;
    file->max_pixels = max_pixels;
    file->info = info;
    file->message = message;
    const clipc_status status = read_file(file);
    for (int i = 0; i < MAX_COMPONENTS; i++) {
        free(file->components[i].nonzero);
    }
    free(file);
    return status;
}

bool clipc_jpeg_has_signature(const uint8_t *data, size_t size)
{
    return size >= 3 && data[0] == 0xFF && data[1] == MARKER_SOI && data[2] == 0xFF;
}

clipc_status clipc_jpeg_read_info(const uint8_t *data, size_t size, clipc_jpeg_info *info,
                                  clipc_message *message)
{
    return inspect(data, size, true, UINT64_MAX, info, message);
}

clipc_status clipc_jpeg_check(const uint8_t *data, size_t size, uint64_t max_pixels, clipc_jpeg_info *info,
                              clipc_message *message)
{
    return inspect(data, size, false, max_pixels, info, message);
}
