/* Average pooling on images whose channels lie innermost. */
#ifndef CLIPC_NN_POOLING_H
#define CLIPC_NN_POOLING_H

#include <stddef.h>

/* y[oh, ow, c] = mean of x over the size x size window at (oh * size, ow * size); rows and columns left
 * over at the end are dropped, as PyTorch's AvgPool2d(size) does
 * x: [B, H, W, C], y: [B, H / size, W / size, C], not overlapping. */
void clipc_avg_pool2d_forward(float *y, const float *x, size_t size, size_t b, size_t h, size_t w, size_t c);

/* dx[h, w, c] = dy[h / size, w / size, c] / size^2, 0 in the rows and columns that the mean left out
 * dy: [B, H / size, W / size, C], dx: [B, H, W, C], not overlapping. */
void clipc_avg_pool2d_backward(float *dx, const float *dy, size_t size, size_t b, size_t h, size_t w,
                               size_t c);

#endif
