/* Pillow's antialiased bicubic resize, and the geometry of CLIP's resize and centre crop.
 *
 * The method, as Pillow has it: the image is resampled along one axis, rounded to 8 bits, then along the
 * other. The kernel is the cubic convolution with a = -0.5, stretched by the scale when the image shrinks.
 * Weights are computed in double precision, normalised to sum 1, and rounded to 22 fractional bits; sums
 * are 32-bit integers. The result equals Pillow's, bit for bit.
 *
 * Which axis comes first decides how the result is rounded. Pillow before 13 always begins along the rows;
 * since 13 it begins along the columns when that loses more than twice as many pixels in height as in width
 * (python-pillow/Pillow pull request 9549): in CLIP's geometry, for pictures more than twice as tall as wide
 * that shrink. The newer order is the default here.
 */
#ifndef CLIPC_IMAGE_RESIZE_H
#define CLIPC_IMAGE_RESIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/status.h"
#include "core/workspace.h"
#include "kernels/resample.h"

/* Sides of an image, pixels. Larger ones are refused. */
#define CLIPC_MAX_SIDE ((size_t)INT32_MAX)
/* Side of the square that an image encoder reads. */
#define CLIPC_MAX_CROP ((size_t)16384)

/* A resized image and the part of it that is wanted, pixels. */
typedef struct {
    size_t height, width; /* of the whole image after resizing */
    size_t top, left;     /* of the part */
    size_t part_height, part_width;
    bool rows_first; /* as Pillow before 13; else as Pillow since 13 */
} clipc_resize_geometry;

/* CLIP's geometry, as torchvision computes it: the shorter side becomes `size`, the longer one
 * floor(size * longer / shorter), the part is the centred square, its offset rounded half to even.
 * height, width from 1 to CLIPC_MAX_SIDE, size from 1 to CLIPC_MAX_CROP. */
clipc_status clipc_crop_geometry(size_t height, size_t width, size_t size, clipc_resize_geometry *geometry,
                                 clipc_message *message);

/* out = part of resize(rgb)    rgb: [height, width, 3], out: [part_height, part_width, 3]
 *
 * Only what the part needs is computed. Scratch comes from the workspace's arena. */
clipc_status clipc_resize_bicubic(clipc_workspace *workspace, uint8_t *out, const uint8_t *rgb, size_t height,
                                  size_t width, const clipc_resize_geometry *geometry);

/* The same in two steps, for many resizes in one call: axes are made once and shared. */

/* One axis of a resize: which input samples each wanted output sample is made of, and with which weights.
 * Constant once it is filled; any number of threads may use it, for rows and for columns. */
typedef struct {
    size_t in_size, out_size;     /* samples of the whole axis, before and after */
    size_t out_begin;             /* the first wanted output sample */
    size_t begin, n_in;           /* the input samples that are read */
    clipc_resample_filter filter; /* filter.n wanted output samples; no weights when in_size = out_size */
    double *exact;                /* [filter.stride] scratch of clipc_resize_axis_fill */
} clipc_resize_axis;

/* Memory for the output samples out_begin to out_begin + n of an axis, from the workspace's arena. n >= 1. */
clipc_status clipc_resize_axis_alloc(clipc_workspace *workspace, clipc_resize_axis *axis, size_t in_size,
                                     size_t out_size, size_t out_begin, size_t n);
void clipc_resize_axis_fill(clipc_resize_axis *axis);

/* along_rows: the axis whose samples are the pixels of a row; along_columns: those of a column. */
typedef struct {
    const clipc_resize_axis *along_rows, *along_columns;
    bool rows_first; /* as Pillow before 13; else as Pillow since 13 */
} clipc_resize_plan;

/* Bytes of scratch that running a plan takes; SIZE_MAX when they cannot be counted. */
size_t clipc_resize_scratch_bytes(const clipc_resize_plan *plan);

/* out = part of resize(rgb)    rgb: rows `stride` bytes apart, so it may be a region of a larger image
 * out: [along_columns n, along_rows n, 3], scratch: [clipc_resize_scratch_bytes]. Cannot fail. */
void clipc_resize_run(const clipc_resize_plan *plan, uint8_t *out, const uint8_t *rgb, size_t stride,
                      uint8_t *scratch);

#endif
