#include "kernels/gemm_openblas.h"

#include "core/threads.h"

#include <cblas.h>

/* The wheel scipy-openblas32 prefixes its symbols, so that it can share a process with any other BLAS. */
#if defined(CLIPC_SCIPY_OPENBLAS)
#define BLAS(name) scipy_##name
char *scipy_openblas_get_config(void);
char *scipy_openblas_get_corename(void);
void scipy_openblas_set_num_threads(int n);
#else
#define BLAS(name) name
#endif

/* Products below this many multiplications are not worth waking another thread. */
#define PARALLEL_THRESHOLD 200000

typedef struct {
    float *y;
    size_t ldy;
    const float *x;
    size_t ldx;
    const clipc_packed_matrix *w;
    size_t m;
    const clipc_epilogue *epilogue;
    size_t n_tasks;
    bool split_columns; /* of y; else its rows are split */
} gemm_job;

/* The i-th of n_tasks nearly equal parts of `length`, in multiples of `step`. */
static void task_range(size_t length, size_t step, size_t n_tasks, size_t i, size_t *begin, size_t *end)
{
    const size_t steps = (length + step - 1) / step;
    *begin = steps * i / n_tasks * step;
    *end = steps * (i + 1) / n_tasks * step;
    *begin = *begin < length ? *begin : length;
    *end = *end < length ? *end : length;
}

static void gemm_task(void *context, size_t index)
{
    const gemm_job *job = context;
    const size_t k = job->w->k;
    size_t row0 = 0, row1 = job->m, col0 = 0, col1 = job->w->n;
    if (job->split_columns) {
        task_range(job->w->n, 16, job->n_tasks, index, &col0, &col1);
    } else {
        task_range(job->m, 8, job->n_tasks, index, &row0, &row1);
    }
    if (row0 == row1 || col0 == col1) {
        return;
    }
    const clipc_epilogue *epilogue = job->epilogue;
    float *y = job->y + row0 * job->ldy + col0;
    const bool accumulate = epilogue != NULL && epilogue->residual == job->y;
    BLAS(cblas_sgemm)(CblasRowMajor, CblasNoTrans, CblasTrans, (int)(row1 - row0), (int)(col1 - col0), (int)k,
                      1.0f, job->x + row0 * job->ldx, (int)job->ldx, job->w->panels + col0 * k, (int)k,
                      accumulate ? 1.0f : 0.0f, y, (int)job->ldy);
    if (epilogue == NULL) {
        return;
    }
    const float *residual = accumulate ? NULL : epilogue->residual;
    const clipc_elementwise_kernels *kernels = clipc_elementwise();
    for (size_t row = row0; row < row1; row++) {
        kernels->epilogue(job->y + row * job->ldy + col0, epilogue->bias ? epilogue->bias + col0 : NULL,
                          residual ? residual + row * epilogue->ld_residual + col0 : NULL,
                          epilogue->activation, col1 - col0);
    }
}

void clipc_gemm_openblas_forward(float *y, size_t ldy, const float *x, size_t ldx,
                                 const clipc_packed_matrix *w, size_t m, const clipc_epilogue *epilogue)
{
    gemm_job job = {y, ldy, x, ldx, w, m, epilogue, 1, false};
    if ((double)m * (double)w->n * (double)w->k >= PARALLEL_THRESHOLD) {
        job.n_tasks = (size_t)clipc_get_num_threads();
        /* OpenBLAS packs what each task reads: split the longer side, so that the larger operand is
         * packed once in all. */
        job.split_columns = w->n > m;
    }
    clipc_parallel_for(job.n_tasks, gemm_task, &job);
}

typedef struct {
    float *dx;
    size_t lddx;
    const float *dy;
    size_t lddy;
    const float *w; /* its first row that counts */
    size_t rows, k, m;
    bool accumulate;
    size_t n_tasks;
    bool split_columns; /* of dx; else its rows are split */
} gemm_backward_job;

static void gemm_backward_task(void *context, size_t index)
{
    const gemm_backward_job *job = context;
    size_t row0 = 0, row1 = job->m, col0 = 0, col1 = job->k;
    if (job->split_columns) {
        task_range(job->k, 16, job->n_tasks, index, &col0, &col1);
    } else {
        task_range(job->m, 8, job->n_tasks, index, &row0, &row1);
    }
    if (row0 == row1 || col0 == col1) {
        return;
    }
    clipc_gemm_ab(job->dx + row0 * job->lddx + col0, job->lddx, job->dy + row0 * job->lddy, job->lddy,
                  job->w + col0, job->k, row1 - row0, col1 - col0, job->rows, 1.0f, job->accumulate);
}

void clipc_gemm_openblas_backward(float *dx, size_t lddx, const float *dy, size_t lddy,
                                  const clipc_packed_matrix *w, size_t row0, size_t rows, size_t m,
                                  bool accumulate)
{
    gemm_backward_job job = {dx, lddx,       dy, lddy, w->panels + row0 * w->k, rows, w->k,
                             m,  accumulate, 1,  false};
    if ((double)m * (double)rows * (double)w->k >= PARALLEL_THRESHOLD) {
        job.n_tasks = (size_t)clipc_get_num_threads();
        job.split_columns = w->k > m;
    }
    clipc_parallel_for(job.n_tasks, gemm_backward_task, &job);
}

void clipc_gemm_openblas_rows_transposed(float *y, size_t ldy, const float *x, size_t ldx,
                                         const clipc_packed_matrix *w, size_t row0, size_t rows, size_t m)
{
    clipc_gemm_ab(y, ldy, x, ldx, w->panels + row0 * w->k, w->k, m, w->k, rows, 1.0f, false);
}

void clipc_gemm_openblas_rows(float *y, size_t ldy, const float *x, size_t ldx, const clipc_packed_matrix *w,
                              size_t row0, size_t rows, size_t m)
{
    clipc_gemm_abt(y, ldy, x, ldx, w->panels + row0 * w->k, w->k, m, rows, w->k, 1.0f);
}

void clipc_gemm_abt(float *c, size_t ldc, const float *a, size_t lda, const float *b, size_t ldb, size_t m,
                    size_t n, size_t k, float alpha)
{
    BLAS(cblas_sgemm)(CblasRowMajor, CblasNoTrans, CblasTrans, (int)m, (int)n, (int)k, alpha, a, (int)lda, b,
                      (int)ldb, 0.0f, c, (int)ldc);
}

void clipc_gemm_ab(float *c, size_t ldc, const float *a, size_t lda, const float *b, size_t ldb, size_t m,
                   size_t n, size_t k, float alpha, bool accumulate)
{
    BLAS(cblas_sgemm)(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)m, (int)n, (int)k, alpha, a, (int)lda,
                      b, (int)ldb, accumulate ? 1.0f : 0.0f, c, (int)ldc);
}

void clipc_gemm_atb(float *c, size_t ldc, const float *a, size_t lda, const float *b, size_t ldb, size_t m,
                    size_t n, size_t k, float alpha, bool accumulate)
{
    BLAS(cblas_sgemm)(CblasRowMajor, CblasTrans, CblasNoTrans, (int)m, (int)n, (int)k, alpha, a, (int)lda, b,
                      (int)ldb, accumulate ? 1.0f : 0.0f, c, (int)ldc);
}

void clipc_gemm_init(void)
{
    BLAS(openblas_set_num_threads)(1);
}

const char *clipc_gemm_library(void)
{
    return BLAS(openblas_get_config)();
}

const char *clipc_gemm_core_name(void)
{
    return BLAS(openblas_get_corename)();
}
