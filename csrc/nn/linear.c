#include "nn/linear.h"

#include "core/memory.h"

void clipc_linear_forward(float *y, const float *x, const float *residual, const clipc_linear *linear,
                          clipc_activation activation, size_t m)
{
    const clipc_packed_matrix *w = &linear->weight;
    const clipc_epilogue epilogue = {linear->bias, residual, w->n, activation};
    clipc_gemm_forward(y, w->n, x, w->k, w, m, &epilogue);
}

void clipc_linear_backward(float *dx, const float *dy, const clipc_linear *linear, size_t m, bool accumulate)
{
    const clipc_packed_matrix *w = &linear->weight;
    clipc_gemm_backward(dx, w->k, dy, w->n, w, 0, w->n, m, accumulate);
}

void clipc_linear_free(clipc_linear *linear)
{
    clipc_packed_matrix_free(&linear->weight);
    clipc_aligned_free(linear->bias);
    linear->bias = NULL;
}
