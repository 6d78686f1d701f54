#include "kernels/gemm.h"

#include <string.h>

#include "core/memory.h"
#include "kernels/gemm_blocked.h"
#include "kernels/gemm_kernels.h"
#include "kernels/gemm_openblas.h"

clipc_status clipc_pack_matrix(clipc_packed_matrix *matrix, const float *w, size_t n, size_t k,
                               clipc_message *message)
{
    const clipc_gemm_kernels *kernels = clipc_gemm_kernels_selected();
    const size_t count = kernels != NULL ? clipc_gemm_panels_size(kernels, n, k) : n * k;
    matrix->n = n;
    matrix->k = k;
    matrix->panels = clipc_aligned_alloc(count, sizeof(float));
    if (matrix->panels == NULL) {
        return clipc_fail_memory(message, (unsigned long long)count * sizeof(float));
    }
    clipc_want_large_pages(matrix->panels, count * sizeof(float));
    if (kernels != NULL) {
        clipc_gemm_pack_panels(kernels, matrix->panels, w, n, k);
    } else {
        memcpy(matrix->panels, w, count * sizeof(float));
    }
    return CLIPC_OK;
}

void clipc_packed_matrix_free(clipc_packed_matrix *matrix)
{
    clipc_aligned_free(matrix->panels);
    matrix->panels = NULL;
}

void clipc_gemm_forward(float *y, size_t ldy, const float *x, size_t ldx, const clipc_packed_matrix *w,
                        size_t m, const clipc_epilogue *epilogue)
{
    const clipc_gemm_kernels *kernels = clipc_gemm_kernels_selected();
    if (kernels != NULL) {
        clipc_gemm_blocked_forward(kernels, y, ldy, x, ldx, w, m, epilogue);
    } else {
        clipc_gemm_openblas_forward(y, ldy, x, ldx, w, m, epilogue);
    }
}

void clipc_gemm_backward(float *dx, size_t lddx, const float *dy, size_t lddy, const clipc_packed_matrix *w,
                         size_t row0, size_t rows, size_t m, bool accumulate)
{
    const clipc_gemm_kernels *kernels = clipc_gemm_kernels_selected();
    if (kernels != NULL) {
        clipc_gemm_blocked_backward(kernels, dx, lddx, dy, lddy, w, row0, rows, m, accumulate);
    } else {
        clipc_gemm_openblas_backward(dx, lddx, dy, lddy, w, row0, rows, m, accumulate);
    }
}

void clipc_gemm_rows_transposed(float *y, size_t ldy, const float *x, size_t ldx,
                                const clipc_packed_matrix *w, size_t row0, size_t rows, size_t m)
{
    const clipc_gemm_kernels *kernels = clipc_gemm_kernels_selected();
    if (kernels != NULL) {
        clipc_gemm_blocked_rows_transposed(kernels, y, ldy, x, ldx, w, row0, rows, m);
    } else {
        clipc_gemm_openblas_rows_transposed(y, ldy, x, ldx, w, row0, rows, m);
    }
}

void clipc_gemm_rows(float *y, size_t ldy, const float *x, size_t ldx, const clipc_packed_matrix *w,
                     size_t row0, size_t rows, size_t m)
{
    const clipc_gemm_kernels *kernels = clipc_gemm_kernels_selected();
    if (kernels != NULL) {
        clipc_gemm_blocked_rows(kernels, y, ldy, x, ldx, w, row0, rows, m);
    } else {
        clipc_gemm_openblas_rows(y, ldy, x, ldx, w, row0, rows, m);
    }
}

const char *clipc_gemm_kernels_name(void)
{
    const clipc_gemm_kernels *kernels = clipc_gemm_kernels_selected();
    return kernels != NULL ? kernels->name : "OpenBLAS";
}
