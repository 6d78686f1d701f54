/* Many regions of one picture to the input of an image encoder: the windows and boxes of a detection. */
#ifndef CLIPC_IMAGE_CROPS_H
#define CLIPC_IMAGE_CROPS_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"
#include "core/workspace.h"

/* out[i] = normalise(resize(region i of rgb, size x size)), aspect lost
 * rgb: [height, width, 3], boxes: [n, 4], mean: [3], std: [3], out: [n, 3, size, size]
 *
 * boxes: x0, y0, x1, y1 in pixels, x1 and y1 exclusive; x0 < x1, y0 < y1. A region inside the picture
 * becomes, before it is normalised, exactly what clipc_resize_bicubic makes of a copy of it: nothing outside
 * of the region has any influence.
 *
 * A region may reach beyond the picture. Of its columns, those from a = max(x0, 0) to b = min(x1, width) are
 * visible; their share of the square are the columns
 *
 *   round((a - x0) size / (x1 - x0)) to round((b - x0) size / (x1 - x0)),    halves rounded up
 *
 * and the same with the rows. The visible pixels alone are resized to that rectangle; the rest of the square
 * is 0, the mean colour. Nothing is blended across the edge. Where a share rounds to no column or no row, the
 * whole square is 0.
 *
 * Scratch: 16 MB for all threads together and what one region needs, which does not grow with n. Every few
 * dozen megapixels of regions the workspace is polled. */
clipc_status clipc_crops(clipc_workspace *workspace, float *out, const uint8_t *rgb, size_t height,
                         size_t width, const int64_t *boxes, size_t n, size_t size, const float *mean,
                         const float *std);

#endif
