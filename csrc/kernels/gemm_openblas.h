/* Matrix multiplication by OpenBLAS, for weights packed as they stand: the rows of W. The functions are those
 * of gemm.h of the same name; the products of activations alone are there. */
#ifndef CLIPC_KERNELS_GEMM_OPENBLAS_H
#define CLIPC_KERNELS_GEMM_OPENBLAS_H

#include "kernels/gemm.h"

void clipc_gemm_openblas_forward(float *y, size_t ldy, const float *x, size_t ldx,
                                 const clipc_packed_matrix *w, size_t m, const clipc_epilogue *epilogue);
void clipc_gemm_openblas_backward(float *dx, size_t lddx, const float *dy, size_t lddy,
                                  const clipc_packed_matrix *w, size_t row0, size_t rows, size_t m,
                                  bool accumulate);
void clipc_gemm_openblas_rows(float *y, size_t ldy, const float *x, size_t ldx, const clipc_packed_matrix *w,
                              size_t row0, size_t rows, size_t m);
void clipc_gemm_openblas_rows_transposed(float *y, size_t ldy, const float *x, size_t ldx,
                                         const clipc_packed_matrix *w, size_t row0, size_t rows, size_t m);

#endif
