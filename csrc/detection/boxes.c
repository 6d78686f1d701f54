#include "detection/boxes.h"

#include <math.h>
#include <stdbool.h>

#include "core/threads.h"

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF /* the same boxes stay on every processor */
#endif

/* Pairs of boxes between two looks for an interrupt: some milliseconds. */
#define POLL_PAIRS ((size_t)1 << 20)
/* The same for the IoU matrix, which all threads fill. */
#define LOOP_PAIRS ((size_t)1 << 24)
/* Rows of the IoU matrix in one task hold about so many pairs. */
#define TASK_PAIRS ((size_t)1 << 14)

typedef struct {
    double x0, y0, x1, y1, area;
} box;

static inline double box_iou(const box *a, const box *b)
{
    const double width = (a->x1 < b->x1 ? a->x1 : b->x1) - (a->x0 > b->x0 ? a->x0 : b->x0);
    const double height = (a->y1 < b->y1 ? a->y1 : b->y1) - (a->y0 > b->y0 ? a->y0 : b->y0);
    if (width <= 0.0 || height <= 0.0) {
        return 0.0;
    }
    const double inter = width * height;
    return inter / (a->area + b->area - inter);
}

/* *out: [n], boxes in double precision, checked. `name` is the argument in messages. */
static clipc_status read_boxes(clipc_workspace *workspace, box **out, const float *boxes, size_t n,
                               const char *name)
{
    void *block;
    CLIPC_TRY(clipc_workspace_alloc(workspace, &block, n, sizeof **out));
    box *const read = *out = block;
    for (size_t i = 0; i < n; i++) {
        const double x0 = boxes[4 * i], y0 = boxes[4 * i + 1], x1 = boxes[4 * i + 2], y1 = boxes[4 * i + 3];
        const bool finite = isfinite(x0) && isfinite(y0) && isfinite(x1) && isfinite(y1);
        if (!finite || x0 > x1 || y0 > y1) {
            return clipc_fail(&workspace->message, CLIPC_ERROR_VALUE,
                              "%s: expected %s, box %zu is (%g, %g, %g, %g)", name,
                              finite ? "x0 <= x1 and y0 <= y1" : "finite numbers", i, x0, y0, x1, y1);
        }
        read[i] = (box){x0, y0, x1, y1, (x1 - x0) * (y1 - y0)};
    }
    return CLIPC_OK;
}

/* *out: [n], a checked copy. */
static clipc_status read_scores(clipc_workspace *workspace, double **out, const float *scores, size_t n)
{
    void *block;
    CLIPC_TRY(clipc_workspace_alloc(workspace, &block, n, sizeof **out));
    double *const read = *out = block;
    for (size_t i = 0; i < n; i++) {
        read[i] = scores[i];
        if (!isfinite(read[i])) {
            return clipc_fail(&workspace->message, CLIPC_ERROR_VALUE,
                              "scores: expected finite numbers, number %zu is %g", i, read[i]);
        }
    }
    return CLIPC_OK;
}

/* Polls once every POLL_PAIRS pairs of boxes. */
static clipc_status poll_after(clipc_workspace *workspace, size_t *pairs, size_t more)
{
    *pairs += more;
    if (*pairs < POLL_PAIRS) {
        return CLIPC_OK;
    }
    *pairs = 0;
    return clipc_workspace_poll(workspace);
}

typedef struct {
    const box *a, *b;
    float *out;
    size_t m, rows_per_task, end;
} iou_job;

static void iou_rows(void *context, size_t task)
{
    const iou_job *const job = context;
    const size_t begin = task * job->rows_per_task;
    const size_t end = begin + job->rows_per_task < job->end ? begin + job->rows_per_task : job->end;
    for (size_t i = begin; i < end; i++) {
        for (size_t j = 0; j < job->m; j++) {
            job->out[i * job->m + j] = (float)box_iou(&job->a[i], &job->b[j]);
        }
    }
}

static clipc_status iou_matrix(clipc_workspace *workspace, float *out, const float *a, size_t n,
                               const float *b, size_t m)
{
    box *boxes_a, *boxes_b;
    CLIPC_TRY(read_boxes(workspace, &boxes_a, a, n, "a"));
    CLIPC_TRY(read_boxes(workspace, &boxes_b, b, m, "b"));
    if (m == 0) {
        return CLIPC_OK;
    }
    const size_t rows_per_task = m < TASK_PAIRS ? TASK_PAIRS / m : 1;
    /* Between two polls. */
    const size_t wanted_tasks = LOOP_PAIRS / (rows_per_task * m);
    const size_t tasks_at_a_time = wanted_tasks < 1 ? 1 : wanted_tasks;
    for (size_t begin = 0; begin < n; begin += tasks_at_a_time * rows_per_task) {
        CLIPC_TRY(clipc_workspace_poll(workspace));
        iou_job job = {boxes_a + begin, boxes_b, out + begin * m, m, rows_per_task, n - begin};
        const size_t n_tasks = (n - begin + rows_per_task - 1) / rows_per_task;
        clipc_parallel_for(n_tasks < tasks_at_a_time ? n_tasks : tasks_at_a_time, iou_rows, &job);
    }
    return CLIPC_OK;
}

clipc_status clipc_box_iou(clipc_workspace *workspace, float *out, const float *a, size_t n, const float *b,
                           size_t m)
{
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    const clipc_status status = iou_matrix(workspace, out, a, n, b, m);
    clipc_arena_release(&workspace->arena, mark);
    return status;
}

/* Whether element a goes before element b, where a stands before b now and equal ones stay so. */
typedef bool (*stays_before)(const void *keys, size_t a, size_t b);

static bool not_lower_score(const void *keys, size_t a, size_t b)
{
    const double *const scores = keys;
    return scores[a] >= scores[b];
}

static bool not_higher_class(const void *keys, size_t a, size_t b)
{
    const int64_t *const classes = keys;
    return classes[a] <= classes[b];
}

/* Merge sort, stable, because qsort is not; order, scratch: [n]. */
static void sort_stably(size_t *order, size_t *scratch, size_t n, stays_before before, const void *keys)
{
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t begin = 0; begin < n; begin += 2 * width) {
            const size_t middle = begin + width < n ? begin + width : n;
            const size_t end = middle + width < n ? middle + width : n;
            size_t left = begin, right = middle;
            for (size_t i = begin; i < end; i++) {
                const bool from_left =
                    right == end || (left < middle && before(keys, order[left], order[right]));
                scratch[i] = from_left ? order[left++] : order[right++];
            }
        }
        for (size_t i = 0; i < n; i++) {
            order[i] = scratch[i];
        }
    }
}

static clipc_status nms(clipc_workspace *workspace, int64_t *kept, size_t *n_kept, const float *box_values,
                        const float *score_values, const int64_t *classes, size_t n, double threshold)
{
    box *boxes;
    double *scores;
    void *block;
    CLIPC_TRY(read_boxes(workspace, &boxes, box_values, n, "boxes"));
    CLIPC_TRY(read_scores(workspace, &scores, score_values, n));
    CLIPC_TRY(clipc_workspace_alloc(workspace, &block, n, sizeof(size_t)));
    size_t *const by_score = block;
    CLIPC_TRY(clipc_workspace_alloc(workspace, &block, n, sizeof(size_t)));
    size_t *const order = block; /* by class, within a class by score */
    CLIPC_TRY(clipc_workspace_alloc(workspace, &block, n, sizeof(size_t)));
    size_t *const scratch = block;
    CLIPC_TRY(clipc_workspace_alloc(workspace, &block, n, sizeof(bool)));
    bool *const stays = block;
    CLIPC_TRY(clipc_workspace_alloc(workspace, &block, n, sizeof(box)));
    box *const standing = block; /* the boxes of the class that stay */

    for (size_t i = 0; i < n; i++) {
        by_score[i] = i;
    }
    sort_stably(by_score, scratch, n, not_lower_score, scores);
    for (size_t i = 0; i < n; i++) {
        order[i] = by_score[i];
    }
    if (classes != NULL) {
        sort_stably(order, scratch, n, not_higher_class, classes);
    }

    size_t n_standing = 0, pairs = 0;
    for (size_t i = 0; i < n; i++) {
        const box *const candidate = &boxes[order[i]];
        if (i > 0 && classes != NULL && classes[order[i]] != classes[order[i - 1]]) {
            n_standing = 0;
        }
        bool covered = false;
        for (size_t j = 0; j < n_standing && !covered; j++) {
            covered = box_iou(candidate, &standing[j]) > threshold;
        }
        stays[order[i]] = !covered;
        if (!covered) {
            standing[n_standing++] = *candidate;
        }
        CLIPC_TRY(poll_after(workspace, &pairs, n_standing));
    }
    *n_kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (stays[by_score[i]]) {
            kept[(*n_kept)++] = (int64_t)by_score[i];
        }
    }
    return CLIPC_OK;
}

clipc_status clipc_nms(clipc_workspace *workspace, int64_t *kept, size_t *n_kept, const float *boxes,
                       const float *scores, const int64_t *classes, size_t n, double threshold)
{
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    const clipc_status status = nms(workspace, kept, n_kept, boxes, scores, classes, n, threshold);
    clipc_arena_release(&workspace->arena, mark);
    return status;
}

/* A box that has not been taken. */
typedef struct {
    box box;
    double score;
    int64_t class;
    size_t index;
} candidate;

/* The first of the highest score: candidates stand in the order of their indices. */
static size_t find_best(const candidate *candidates, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++) {
        if (candidates[i].score > candidates[best].score) {
            best = i;
        }
    }
    return best;
}

static clipc_status soft_nms(clipc_workspace *workspace, int64_t *taken, float *new_scores, size_t *n_taken,
                             const float *box_values, const float *score_values, const int64_t *classes,
                             size_t n, clipc_soft_nms_kind kind, double sigma, double iou, double threshold)
{
    box *boxes;
    double *scores;
    void *block;
    CLIPC_TRY(read_boxes(workspace, &boxes, box_values, n, "boxes"));
    CLIPC_TRY(read_scores(workspace, &scores, score_values, n));
    CLIPC_TRY(clipc_workspace_alloc(workspace, &block, n, sizeof(candidate)));
    candidate *const candidates = block;
    size_t left = 0, pairs = 0;
    *n_taken = 0;
    for (size_t i = 0; i < n; i++) {
        if (scores[i] >= threshold) {
            candidates[left++] = (candidate){boxes[i], scores[i], classes != NULL ? classes[i] : 0, i};
        }
    }
    while (left > 0) {
        const size_t best_place = find_best(candidates, left);
        const candidate best = candidates[best_place];
        taken[*n_taken] = (int64_t)best.index;
        new_scores[(*n_taken)++] = (float)best.score;

        CLIPC_TRY(poll_after(workspace, &pairs, left));
        size_t n_staying = 0;
        for (size_t i = 0; i < left; i++) {
            candidate other = candidates[i];
            if (i == best_place) {
                continue;
            }
            if (other.class == best.class) {
                const double overlap = box_iou(&best.box, &other.box);
                if (kind == CLIPC_SOFT_NMS_LINEAR) {
                    other.score *= overlap > iou ? 1.0 - overlap : 1.0;
                } else if (overlap > 0.0) {
                    other.score *= exp(-(overlap * overlap) / sigma);
                }
            }
            if (other.score >= threshold) {
                candidates[n_staying++] = other;
            }
        }
        left = n_staying;
    }
    return CLIPC_OK;
}

clipc_status clipc_soft_nms(clipc_workspace *workspace, int64_t *taken, float *new_scores, size_t *n_taken,
                            const float *boxes, const float *scores, const int64_t *classes, size_t n,
                            clipc_soft_nms_kind kind, double sigma, double iou, double threshold)
{
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    const clipc_status status = soft_nms(workspace, taken, new_scores, n_taken, boxes, scores, classes, n,
                                         kind, sigma, iou, threshold);
    clipc_arena_release(&workspace->arena, mark);
    return status;
}
