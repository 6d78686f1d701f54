/* Pixels to the input of CLIP's image encoder. R: image resolution of the encoder. */
#ifndef CLIPC_IMAGE_PREPROCESS_H
#define CLIPC_IMAGE_PREPROCESS_H

#include "image/resize.h"

/* table[c][v] = (v / 255 - mean[c]) / std[c], each step rounded to float32: all that normalising a pixel can
 * give. */
typedef float clipc_normalise_table[3][256];
void clipc_make_normalise_table(clipc_normalise_table table, const float *mean, const float *std);

/* out[c, y, x] = table[c][pixels[y, x, c]]
 * pixels: [height, width, 3]; out: three planes `plane` floats apart, their rows `stride` floats apart */
void clipc_normalise(float *out, size_t plane, size_t stride, const uint8_t *pixels, size_t height,
                     size_t width, clipc_normalise_table table);

/* out = crop(resize(rgb))    rgb: [height, width, 3], out: [size, size, 3] */
clipc_status clipc_resize_crop(clipc_workspace *workspace, uint8_t *out, const uint8_t *rgb, size_t height,
                               size_t width, size_t size);

/* out[c, y, x] = (pixel[y, x, c] / 255 - mean[c]) / std[c], each step rounded to float32
 * pixel = crop(resize(rgb))    rgb: [height, width, 3], mean: [3], std: [3], out: [3, R, R] */
clipc_status clipc_preprocess(clipc_workspace *workspace, float *out, const uint8_t *rgb, size_t height,
                              size_t width, size_t size, const float *mean, const float *std);

#endif
