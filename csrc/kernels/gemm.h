/* Matrix multiplication, and the form that weight matrices are kept in.
 *
 * Letters: y[M, N] = x[M, K] @ W[N, K]^T, all row-major.
 *
 * Weights are packed once, when a model is loaded, into the panels that the micro-kernel of the selected
 * instruction set reads (gemm_kernels.h): NR rows of W side by side, K steps behind each other, so that one
 * step of a tile is one vector load or two. With NR = 4, N = 6 and K = 3; memory holds panel after panel, in
 * each row after row:
 *
 *            panel 0                          panel 1
 *   k = 0    W[0,0] W[1,0] W[2,0] W[3,0]      W[4,0] W[5,0]   0   0
 *   k = 1    W[0,1] W[1,1] W[2,1] W[3,1]      W[4,1] W[5,1]   0   0
 *   k = 2    W[0,2] W[1,2] W[2,2] W[3,2]      W[4,2] W[5,2]   0   0
 *
 * x is read as it lies. Nothing else keeps a copy of W: the gradient, dx = dy @ W, unpacks a block of the
 * panels at a time (gemm_blocked.c). Where there is no micro-kernel, the packed form is W itself and OpenBLAS
 * reads it (gemm_openblas.c). Code outside of these files treats clipc_packed_matrix as opaque.
 */
#ifndef CLIPC_KERNELS_GEMM_H
#define CLIPC_KERNELS_GEMM_H

#include <stdbool.h>
#include <stddef.h>

#include "core/status.h"
#include "kernels/elementwise.h"

/* A weight matrix W: [N, K]. Owned by its layer; constant after loading. */
typedef struct {
    size_t n;
    size_t k;
    float *panels;
} clipc_packed_matrix;

/* Packs w: [n, k] (a copy is made; `matrix` is freed with clipc_packed_matrix_free). */
clipc_status clipc_pack_matrix(clipc_packed_matrix *matrix, const float *w, size_t n, size_t k,
                               clipc_message *message);
void clipc_packed_matrix_free(clipc_packed_matrix *matrix);

/* What happens to a tile of y while it is still in registers or in cache: y = activation(y + bias +
 * residual). */
typedef struct {
    const float *bias;     /* [N] or NULL */
    const float *residual; /* [M, N] with row stride ld_residual, or NULL; may be y itself */
    size_t ld_residual;
    clipc_activation activation;
} clipc_epilogue;

/* y = epilogue(x @ W^T)   x: [M, K] with row stride ldx, y: [M, N] with row stride ldy
 * Split over the thread pool. `epilogue` may be NULL. When the residual is y itself, y is added to. */
void clipc_gemm_forward(float *y, size_t ldy, const float *x, size_t ldx, const clipc_packed_matrix *w,
                        size_t m, const clipc_epilogue *epilogue);

/* dx = dy @ W[row0 : row0 + rows], or dx + that with `accumulate`
 * dy: [M, rows] with row stride lddy, dx: [M, K] with row stride lddx
 * The gradient of clipc_gemm_forward with respect to x, where dy is that of y; with fewer rows than W has,
 * of the columns row0 to row0 + rows of y. Split over the thread pool. */
void clipc_gemm_backward(float *dx, size_t lddx, const float *dy, size_t lddy, const clipc_packed_matrix *w,
                         size_t row0, size_t rows, size_t m, bool accumulate);

/* y = x @ W[row0 : row0 + rows]   x: [M, rows] with stride ldx, y: [M, K] with stride ldy
 * One thread. The product with a block of rows of W from the other side: one head of an attention. */
void clipc_gemm_rows_transposed(float *y, size_t ldy, const float *x, size_t ldx,
                                const clipc_packed_matrix *w, size_t row0, size_t rows, size_t m);

/* y = x @ W[row0 : row0 + rows]^T   x: [M, K] with stride ldx, y: [M, rows] with stride ldy.  One thread. */
void clipc_gemm_rows(float *y, size_t ldy, const float *x, size_t ldx, const clipc_packed_matrix *w,
                     size_t row0, size_t rows, size_t m);

/* c = alpha * a @ b^T   a: [M, K], b: [N, K], c: [M, N] with their strides.  One thread, activations only. */
void clipc_gemm_abt(float *c, size_t ldc, const float *a, size_t lda, const float *b, size_t ldb, size_t m,
                    size_t n, size_t k, float alpha);

/* c = alpha * a @ b (+ c)     a: [M, K], b: [K, N], c: [M, N] with their strides.  One thread, activations
 * only. */
void clipc_gemm_ab(float *c, size_t ldc, const float *a, size_t lda, const float *b, size_t ldb, size_t m,
                   size_t n, size_t k, float alpha, bool accumulate);

/* c = alpha * a^T @ b (+ c)   a: [K, M], b: [K, N], c: [M, N] with their strides.  One thread, activations
 * only. */
void clipc_gemm_atb(float *c, size_t ldc, const float *a, size_t lda, const float *b, size_t ldb, size_t m,
                    size_t n, size_t k, float alpha, bool accumulate);

/* Restricts OpenBLAS to the calling thread (the pool splits the work); once, when the module is loaded. */
void clipc_gemm_init(void);

/* "6x16 avx2" of our own, or "OpenBLAS": what multiplies by weights. Products of activations alone are
 * OpenBLAS's. */
const char *clipc_gemm_kernels_name(void);

/* "OpenBLAS 0.3.34 ... Haswell", for show_config(). */
const char *clipc_gemm_library(void);
const char *clipc_gemm_core_name(void);

#endif
