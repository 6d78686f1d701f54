/* The loops around a micro-kernel: which tiles a thread computes, and in which order they pass through the
 * caches. The functions are those of gemm.h of the same name, for weights packed into the panels of
 * `kernels`. */
#ifndef CLIPC_KERNELS_GEMM_BLOCKED_H
#define CLIPC_KERNELS_GEMM_BLOCKED_H

#include "kernels/gemm.h"
#include "kernels/gemm_kernels.h"

/* Floats that the panels of a matrix take: [N rounded up to NR, K]. */
size_t clipc_gemm_panels_size(const clipc_gemm_kernels *kernels, size_t n, size_t k);
void clipc_gemm_pack_panels(const clipc_gemm_kernels *kernels, float *panels, const float *w, size_t n,
                            size_t k);

void clipc_gemm_blocked_forward(const clipc_gemm_kernels *kernels, float *y, size_t ldy, const float *x,
                                size_t ldx, const clipc_packed_matrix *w, size_t m,
                                const clipc_epilogue *epilogue);
void clipc_gemm_blocked_backward(const clipc_gemm_kernels *kernels, float *dx, size_t lddx, const float *dy,
                                 size_t lddy, const clipc_packed_matrix *w, size_t row0, size_t rows,
                                 size_t m, bool accumulate);
void clipc_gemm_blocked_rows(const clipc_gemm_kernels *kernels, float *y, size_t ldy, const float *x,
                             size_t ldx, const clipc_packed_matrix *w, size_t row0, size_t rows, size_t m);
void clipc_gemm_blocked_rows_transposed(const clipc_gemm_kernels *kernels, float *y, size_t ldy,
                                        const float *x, size_t ldx, const clipc_packed_matrix *w, size_t row0,
                                        size_t rows, size_t m);

#endif
