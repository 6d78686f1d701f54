/* What matrix multiplication depends on the instruction set for: the micro-kernel with its tile, the packing
 * that it reads, and the sizes of the blocks around it. They are chosen together, in gemm_kernels.c. */
#ifndef CLIPC_KERNELS_GEMM_KERNELS_H
#define CLIPC_KERNELS_GEMM_KERNELS_H

#include <stdbool.h>
#include <stddef.h>

/* The largest MR and NR of all micro-kernels. */
#define CLIPC_GEMM_MAX_MR 16
#define CLIPC_GEMM_MAX_NR 32

/* One tile: c = a @ b + onto + bias, and max(that, 0) with `relu`
 * a: [m, K] with row stride lda, b: [K, NR], a packed panel, c: [m, NR] with row stride ldc, 1 <= m <= MR
 * onto: [m, NR] with row stride ld_onto, or NULL; may be c itself. bias: [NR] or NULL
 *
 * Each element is summed over k from the first to the last and then added to, whatever m is, so a row has the
 * same result alone and among others. Meanwhile the K / 2 cache lines from `next` on are fetched, which is
 * where the panel begins that will be read after this one; it may end earlier. */
typedef struct {
    float *c;
    size_t ldc;
    const float *a;
    size_t lda;
    size_t m;
    const float *b;
    size_t k;
    const float *onto;
    size_t ld_onto;
    const float *bias;
    bool relu;
    const float *next;
} clipc_gemm_tile;

typedef struct {
    const char *name;
    size_t mr, nr;
    /* Blocks: KC terms are summed in registers before the tile is stored, MC rows of x and NC columns of y
     * are worked on together. MC * KC of x and MC * NC of y fit into the second-level cache beside two
     * panels. */
    size_t kc, mc, nc;

    void (*tile)(const clipc_gemm_tile *tile);

    /* panel[l, r] = rows[r, l] for r < n_rows, else 0
     * rows: [n_rows, length] with row stride `stride`, panel: [length, NR], 1 <= n_rows <= NR */
    void (*pack)(float *panel, const float *rows, size_t stride, size_t n_rows, size_t length);
} clipc_gemm_kernels;

/* Those for the selected instruction set; NULL where OpenBLAS multiplies. */
const clipc_gemm_kernels *clipc_gemm_kernels_selected(void);

/* NULL where the compiler's target has none. */
const clipc_gemm_kernels *clipc_gemm_f32_6x16_avx2_kernels(void);

#endif
