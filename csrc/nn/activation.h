/* Activations as layers of their own, where the values before them are kept. */
#ifndef CLIPC_NN_ACTIVATION_H
#define CLIPC_NN_ACTIVATION_H

#include <stddef.h>

#include "kernels/elementwise.h"

/* y = activation(x)   x, y: [n], may be the same */
void clipc_activation_forward(float *y, const float *x, clipc_activation activation, size_t n);

/* dx = dy * activation'(x)   dx, dy, x: [n]; dx may be dy. For ReLU y = activation(x) serves in the place of
 * x. */
void clipc_activation_backward(float *dx, const float *dy, const float *x, clipc_activation activation,
                               size_t n);

#endif
