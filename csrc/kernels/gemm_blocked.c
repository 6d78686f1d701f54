#include "kernels/gemm_blocked.h"

#include "core/threads.h"

/* Products below this many multiplications are not worth waking another thread. */
#define PARALLEL_THRESHOLD 200000

/* Tasks that each thread gets on average, where the product is large enough: when another program takes one
 * processor for a while, the others do more of them. */
#define TASKS_PER_THREAD 4
#define MULTIPLICATIONS_PER_TASK 100000

/* Rows of W that a backward pass unpacks at a time, a block of them by NR of its columns. */
#define UNPACKED_ROWS 256

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t divide_up(size_t a, size_t b)
{
    return (a + b - 1) / b;
}

/* ---- packing --------------------------------------------------------------------------------------- */

size_t clipc_gemm_panels_size(const clipc_gemm_kernels *kernels, size_t n, size_t k)
{
    return divide_up(n, kernels->nr) * kernels->nr * k;
}

void clipc_gemm_pack_panels(const clipc_gemm_kernels *kernels, float *panels, const float *w, size_t n,
                            size_t k)
{
    const size_t nr = kernels->nr;
    for (size_t row = 0; row < n; row += nr) {
        kernels->pack(panels + row * k, w + row * k, k, smaller(nr, n - row), k);
    }
}

/* block[i, j] = W[begin + i, column + j] for begin + i < end and j < NR; 0 behind the last column
 * block: [end - begin, NR], which is how the micro-kernel reads W^T. */
static void unpack_transposed(const clipc_gemm_kernels *kernels, float *block, const clipc_packed_matrix *w,
                              size_t begin, size_t end, size_t column)
{
    const size_t nr = kernels->nr, n_columns = smaller(nr, w->k - column);
    while (begin < end) {
        const size_t lane = begin % nr, n = smaller(nr - lane, end - begin);
        kernels->pack(block, w->panels + (begin - lane) * w->k + column * nr + lane, nr, n_columns, n);
        block += n * nr;
        begin += n;
    }
}

/* ---- a strip of y: some rows, the columns of one panel ----------------------------------------------- */

typedef struct {
    float *y; /* [m, n] */
    size_t ldy;
    const float *x; /* [m, K] */
    size_t ldx;
    size_t m;
    const float *panel; /* [K, NR] */
    size_t k;
    size_t lane, n;    /* which columns of the panel are wanted */
    const float *onto; /* [m, n] or NULL; may be y */
    size_t ld_onto;
    const float *bias; /* [n] or NULL */
    clipc_activation activation;
    const float *next; /* the panel after this one */
} strip;

/* A tile of which not all columns are wanted: the micro-kernel stores it elsewhere. */
static void partial_tile(const clipc_gemm_kernels *kernels, const clipc_gemm_tile *wanted, size_t lane,
                         size_t n)
{
    float sums[CLIPC_GEMM_MAX_MR * CLIPC_GEMM_MAX_NR];
    const size_t nr = kernels->nr;
    clipc_gemm_tile whole = *wanted;
    whole.c = sums;
    whole.ldc = nr;
    whole.onto = whole.bias = NULL;
    whole.relu = false;
    kernels->tile(&whole);
    for (size_t i = 0; i < wanted->m; i++) {
        float *c = wanted->c + i * wanted->ldc;
        for (size_t j = 0; j < n; j++) {
            float sum = sums[i * nr + lane + j];
            sum = wanted->onto != NULL ? sum + wanted->onto[i * wanted->ld_onto + j] : sum;
            sum = wanted->bias != NULL ? sum + wanted->bias[j] : sum;
            c[j] = wanted->relu && sum < 0.0f ? 0.0f : sum;
        }
    }
}

static void multiply_strip(const clipc_gemm_kernels *kernels, const strip *s)
{
    /* Tiles of nearly equal height: a low one at the end would not keep the multipliers busy. */
    const size_t n_tiles = divide_up(s->m, kernels->mr), lines = s->k / n_tiles;
    clipc_gemm_tile tile = {.ldc = s->ldy,
                            .lda = s->ldx,
                            .b = s->panel,
                            .k = s->k,
                            .ld_onto = s->ld_onto,
                            .bias = s->bias,
                            .relu = s->activation == CLIPC_ACTIVATION_RELU};
    for (size_t i = 0; i < n_tiles; i++) {
        const size_t row = s->m * i / n_tiles;
        tile.m = s->m * (i + 1) / n_tiles - row;
        tile.a = s->x + row * s->ldx;
        tile.c = s->y + row * s->ldy;
        tile.onto = s->onto != NULL ? s->onto + row * s->ld_onto : NULL;
        tile.next = s->next + i * lines * kernels->nr;
        if (s->n == kernels->nr) {
            kernels->tile(&tile);
        } else {
            partial_tile(kernels, &tile, s->lane, s->n);
        }
    }
    if (s->activation != CLIPC_ACTIVATION_NONE && s->activation != CLIPC_ACTIVATION_RELU) {
        clipc_elementwise()->activate(s->y, s->ldy, s->activation, s->m, s->n);
    }
}

/* ---- how a product is cut into tasks ------------------------------------------------------------------ */

/* Blocks of rows by blocks of panels, one task each; those of the same panels follow each other. */
typedef struct {
    size_t row_blocks, panel_blocks;
} grid;

static grid choose_grid(const clipc_gemm_kernels *kernels, size_t rows_per_block, size_t m, size_t n_panels,
                        size_t k)
{
    const size_t n_threads = (size_t)clipc_get_num_threads(), max_row_blocks = divide_up(m, kernels->mr);
    const double work = (double)m * (double)(n_panels * kernels->nr) * (double)k;
    grid g = {divide_up(m, rows_per_block), divide_up(n_panels, kernels->nc / kernels->nr)};
    if (n_threads == 1 || work < PARALLEL_THRESHOLD) {
        return g;
    }
    const double most = work / MULTIPLICATIONS_PER_TASK;
    const size_t wanted =
        most < (double)(TASKS_PER_THREAD * n_threads) ? (size_t)most : TASKS_PER_THREAD * n_threads;
    if (g.row_blocks * g.panel_blocks < wanted) {
        g.panel_blocks = smaller(divide_up(wanted, g.row_blocks), n_panels);
    }
    if (g.row_blocks * g.panel_blocks < wanted) {
        g.row_blocks = smaller(divide_up(wanted, g.panel_blocks), max_row_blocks);
    }
    /* As many for each thread, unless one more or less makes little difference. */
    for (size_t i = 1; i < n_threads && g.row_blocks * g.panel_blocks < 4 * TASKS_PER_THREAD * n_threads &&
                       g.row_blocks * g.panel_blocks % n_threads != 0;
         i++) {
        if (g.panel_blocks < n_panels) {
            g.panel_blocks++;
        } else if (g.row_blocks < max_row_blocks) {
            g.row_blocks++;
        }
    }
    return g;
}

/* The i-th of n nearly equal parts of `length`, each but the last a multiple of `step`. */
static void part(size_t *begin, size_t *end, size_t length, size_t step, size_t i, size_t n)
{
    const size_t steps = divide_up(length, step);
    *begin = smaller(steps * i / n * step, length);
    *end = smaller(steps * (i + 1) / n * step, length);
}

/* ---- forward ------------------------------------------------------------------------------------------ */

typedef struct {
    const clipc_gemm_kernels *kernels;
    float *y;
    size_t ldy;
    const float *x;
    size_t ldx;
    const clipc_packed_matrix *w;
    size_t w_row0, w_rows; /* of W that are multiplied by: the columns of y */
    size_t m;
    clipc_epilogue epilogue;
    grid grid;
} forward_job;

/* Rows row0 to row1 of y, panels panel0 to panel1. */
static void forward_block(const forward_job *job, size_t row0, size_t row1, size_t panel0, size_t panel1)
{
    const size_t k = job->w->k, nr = job->kernels->nr, n_blocks = divide_up(k, job->kernels->kc);
    const clipc_epilogue *epilogue = &job->epilogue;
    const float *residual = epilogue->residual ? epilogue->residual + row0 * epilogue->ld_residual : NULL;
    for (size_t block = 0; block < n_blocks; block++) {
        size_t k0, k1;
        part(&k0, &k1, k, 8, block, n_blocks);
        const bool first = block == 0, last = block + 1 == n_blocks;
        strip s = {.ldy = job->ldy,
                   .x = job->x + row0 * job->ldx + k0,
                   .ldx = job->ldx,
                   .m = row1 - row0,
                   .k = k1 - k0,
                   .ld_onto = first ? epilogue->ld_residual : job->ldy,
                   .activation = last ? epilogue->activation : CLIPC_ACTIVATION_NONE};
        for (size_t panel = panel0; panel < panel1; panel++) {
            const size_t begin = panel * nr > job->w_row0 ? panel * nr : job->w_row0;
            const size_t end = smaller((panel + 1) * nr, job->w_row0 + job->w_rows);
            const size_t column = begin - job->w_row0;
            s.panel = job->w->panels + panel * nr * k + k0 * nr;
            s.lane = begin - panel * nr;
            s.n = end - begin;
            s.y = job->y + row0 * job->ldy + column;
            /* The residual goes in first, since y may be its place, and the sums of later blocks follow. */
            s.onto = !first ? s.y : residual != NULL ? residual + column : NULL;
            s.bias = last && epilogue->bias != NULL ? epilogue->bias + column : NULL;
            s.next = panel + 1 < panel1 ? s.panel + nr * k
                     : !last            ? job->w->panels + panel0 * nr * k + k1 * nr
                                        : s.panel;
            multiply_strip(job->kernels, &s);
        }
    }
}

/* The panels that hold rows of W that count. */
static void panels_of(const forward_job *job, size_t *first, size_t *n)
{
    const size_t nr = job->kernels->nr;
    *first = job->w_row0 / nr;
    *n = divide_up(job->w_row0 + job->w_rows, nr) - *first;
}

static void forward_task(void *context, size_t index)
{
    const forward_job *job = context;
    size_t first, n, row0, row1, panel0, panel1;
    panels_of(job, &first, &n);
    part(&row0, &row1, job->m, job->kernels->mr, index % job->grid.row_blocks, job->grid.row_blocks);
    part(&panel0, &panel1, n, 1, index / job->grid.row_blocks, job->grid.panel_blocks);
    forward_block(job, row0, row1, first + panel0, first + panel1);
}

void clipc_gemm_blocked_forward(const clipc_gemm_kernels *kernels, float *y, size_t ldy, const float *x,
                                size_t ldx, const clipc_packed_matrix *w, size_t m,
                                const clipc_epilogue *epilogue)
{
    static const clipc_epilogue nothing = {NULL, NULL, 0, CLIPC_ACTIVATION_NONE};
    forward_job job = {kernels, y, ldy, x, ldx, w, 0, w->n, m, epilogue ? *epilogue : nothing, {1, 1}};
    job.grid = choose_grid(kernels, kernels->mc, m, divide_up(w->n, kernels->nr), w->k);
    clipc_parallel_for(job.grid.row_blocks * job.grid.panel_blocks, forward_task, &job);
}

void clipc_gemm_blocked_rows(const clipc_gemm_kernels *kernels, float *y, size_t ldy, const float *x,
                             size_t ldx, const clipc_packed_matrix *w, size_t row0, size_t rows, size_t m)
{
    forward_job job = {kernels, y, ldy, x, ldx, w, row0, rows, m, {NULL, NULL, 0, CLIPC_ACTIVATION_NONE},
                       {1, 1}};
    size_t first, n;
    panels_of(&job, &first, &n);
    for (size_t row = 0; row < m; row += kernels->mc) {
        forward_block(&job, row, smaller(row + kernels->mc, m), first, first + n);
    }
}

/* ---- backward ----------------------------------------------------------------------------------------- */

typedef struct {
    const clipc_gemm_kernels *kernels;
    float *dx;
    size_t lddx;
    const float *dy;
    size_t lddy;
    const clipc_packed_matrix *w;
    size_t w_row0, w_rows;
    size_t m;
    bool accumulate;
    grid grid;
} backward_job;

/* Rows row0 to row1 of dx, its columns column0 to column1. */
static void backward_block(const backward_job *job, size_t row0, size_t row1, size_t column0, size_t column1)
{
    _Alignas(64) float panel[UNPACKED_ROWS * CLIPC_GEMM_MAX_NR];
    const size_t nr = job->kernels->nr, w_end = job->w_row0 + job->w_rows;
    size_t begin = job->w_row0;
    while (begin < w_end) {
        const size_t end = smaller(begin / UNPACKED_ROWS * UNPACKED_ROWS + UNPACKED_ROWS, w_end);
        for (size_t column = column0; column < column1; column += nr) {
            float *dx = job->dx + row0 * job->lddx + column;
            const strip s = {.y = dx,
                             .ldy = job->lddx,
                             .x = job->dy + row0 * job->lddy + (begin - job->w_row0),
                             .ldx = job->lddy,
                             .m = row1 - row0,
                             .panel = panel,
                             .k = end - begin,
                             .n = smaller(nr, column1 - column),
                             .onto = begin > job->w_row0 || job->accumulate ? dx : NULL,
                             .ld_onto = job->lddx,
                             .activation = CLIPC_ACTIVATION_NONE,
                             .next = panel};
            unpack_transposed(job->kernels, panel, job->w, begin, end, column);
            multiply_strip(job->kernels, &s);
        }
        begin = end;
    }
}

static void backward_task(void *context, size_t index)
{
    const backward_job *job = context;
    size_t row0, row1, column0, column1;
    part(&row0, &row1, job->m, job->kernels->mr, index % job->grid.row_blocks, job->grid.row_blocks);
    part(&column0, &column1, job->w->k, job->kernels->nr, index / job->grid.row_blocks,
         job->grid.panel_blocks);
    backward_block(job, row0, row1, column0, column1);
}

void clipc_gemm_blocked_backward(const clipc_gemm_kernels *kernels, float *dx, size_t lddx, const float *dy,
                                 size_t lddy, const clipc_packed_matrix *w, size_t row0, size_t rows,
                                 size_t m, bool accumulate)
{
    backward_job job = {kernels, dx, lddx, dy, lddy, w, row0, rows, m, accumulate, {1, 1}};
    /* All rows together, or each block of rows would unpack W anew. */
    job.grid = choose_grid(kernels, m, m, divide_up(w->k, kernels->nr), rows);
    clipc_parallel_for(job.grid.row_blocks * job.grid.panel_blocks, backward_task, &job);
}

void clipc_gemm_blocked_rows_transposed(const clipc_gemm_kernels *kernels, float *y, size_t ldy,
                                        const float *x, size_t ldx, const clipc_packed_matrix *w, size_t row0,
                                        size_t rows, size_t m)
{
    const backward_job job = {kernels, y, ldy, x, ldx, w, row0, rows, m, false, {1, 1}};
    backward_block(&job, 0, m, 0, w->k);
}
