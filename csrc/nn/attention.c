#include "nn/attention.h"

#include <math.h>
#include <string.h>

#include "core/threads.h"
#include "kernels/elementwise.h"
#include "kernels/gemm.h"

/* Query rows that are worked on together: their scores stay in the second-level cache. */
#define QUERY_BLOCK 64

/* What all passes share: the sequences and heads, and where q, k and v of a token lie. */
typedef struct {
    const float *q, *k, *v; /* of the first token's first head */
    size_t stride;          /* from token to token */
    float scale;
    const size_t *offsets;
    size_t nh;
    size_t hs;
    bool causal;
    size_t n_pairs; /* of sequence and head */
    size_t n_tasks;
    size_t longest; /* sequence */
    float *scratch; /* [n_tasks, scratch_per_task] */
    size_t scratch_per_task;
} attention;

/* One head of one sequence. */
typedef struct {
    size_t head;
    size_t sequence;
    size_t row0; /* its first row among all M */
    size_t t;
    const float *q, *k, *v;
} pair;

static attention new_attention(const float *q, const float *k, const float *v, size_t stride, float scale,
                               const size_t *offsets, size_t b, size_t nh, size_t hs, bool causal)
{
    attention a = {.q = q,
                   .k = k,
                   .v = v,
                   .stride = stride,
                   .scale = scale,
                   .offsets = offsets,
                   .nh = nh,
                   .hs = hs,
                   .causal = causal,
                   .n_pairs = b * nh};
    for (size_t i = 0; i < b; i++) {
        const size_t t = offsets[i + 1] - offsets[i];
        a.longest = t > a.longest ? t : a.longest;
    }
    /* More tasks than threads even out sequences of different lengths. */
    a.n_tasks = 4 * (size_t)clipc_get_num_threads();
    a.n_tasks = a.n_tasks < a.n_pairs ? a.n_tasks : a.n_pairs;
    return a;
}

static attention new_qkv_attention(const float *qkv, const size_t *offsets, size_t b, size_t nh, size_t hs,
                                   bool causal)
{
    const size_t c = nh * hs;
    return new_attention(qkv, qkv + c, qkv + 2 * c, 3 * c, 1.0f / sqrtf((float)hs), offsets, b, nh, hs,
                         causal);
}

/* Scratch for `blocks` blocks of QUERY_BLOCK x T in each task. */
static clipc_status alloc_scratch(clipc_workspace *workspace, attention *a, size_t blocks)
{
    const size_t rows = a->longest < QUERY_BLOCK ? a->longest : QUERY_BLOCK;
    a->scratch_per_task = blocks * rows * a->longest;
    return clipc_workspace_floats(workspace, &a->scratch, a->n_tasks * a->scratch_per_task);
}

static pair get_pair(const attention *a, size_t index)
{
    pair p = {.head = index % a->nh, .sequence = index / a->nh};
    p.row0 = a->offsets[p.sequence];
    p.t = a->offsets[p.sequence + 1] - p.row0;
    const size_t first = p.row0 * a->stride + p.head * a->hs;
    p.q = a->q + first;
    p.k = a->k + first;
    p.v = a->v + first;
    return p;
}

/* The pairs of task `index`. */
static void pair_range(const attention *a, size_t index, size_t *begin, size_t *end)
{
    *begin = a->n_pairs * index / a->n_tasks;
    *end = a->n_pairs * (index + 1) / a->n_tasks;
}

/* p = rows `begin` to `end` of P_h: [end - begin, keys]; gives `keys`, beyond which a causal row is all zero.
 */
static size_t probabilities(float *p, const attention *a, const pair *pair, size_t begin, size_t end)
{
    const size_t keys = a->causal ? end : pair->t;
    clipc_gemm_abt(p, keys, pair->q + begin * a->stride, a->stride, pair->k, a->stride, end - begin, keys,
                   a->hs, a->scale);
    for (size_t i = begin; i < end; i++) {
        float *row = p + (i - begin) * keys;
        const size_t visible = a->causal ? i + 1 : keys;
        clipc_elementwise()->softmax(row, visible);
        memset(row + visible, 0, (keys - visible) * sizeof(float));
    }
    return keys;
}

/* ---- forward --------------------------------------------------------------------------------------- */

typedef struct {
    attention a;
    float *out; /* [M, C] */
    bool accumulate;
} forward_job;

static void forward_task(void *context, size_t index)
{
    const forward_job *job = context;
    const attention *a = &job->a;
    const size_t c = a->nh * a->hs;
    float *p = a->scratch + index * a->scratch_per_task;
    size_t first, last;
    pair_range(a, index, &first, &last);
    for (size_t i = first; i < last; i++) {
        const pair pair = get_pair(a, i);
        float *out = job->out + pair.row0 * c + pair.head * a->hs;
        for (size_t begin = 0; begin < pair.t; begin += QUERY_BLOCK) {
            const size_t end = begin + QUERY_BLOCK < pair.t ? begin + QUERY_BLOCK : pair.t;
            const size_t keys = probabilities(p, a, &pair, begin, end);
            clipc_gemm_ab(out + begin * c, c, p, keys, pair.v, a->stride, end - begin, a->hs, keys, 1.0f,
                          job->accumulate);
        }
    }
}

static clipc_status run_forward(clipc_workspace *workspace, forward_job *job)
{
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    CLIPC_TRY(alloc_scratch(workspace, &job->a, 1));
    clipc_parallel_for(job->a.n_tasks, forward_task, job);
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

clipc_status clipc_attention_forward(clipc_workspace *workspace, float *out, const float *qkv,
                                     const size_t *offsets, size_t b, size_t nh, size_t hs, bool causal)
{
    forward_job job = {new_qkv_attention(qkv, offsets, b, nh, hs, causal), out, false};
    return run_forward(workspace, &job);
}

clipc_status clipc_self_similarity_forward(clipc_workspace *workspace, float *out, const float *a,
                                           const float *v, size_t stride, float scale, bool accumulate,
                                           const size_t *offsets, size_t b, size_t nh, size_t hs)
{
    forward_job job = {new_attention(a, a, v, stride, scale, offsets, b, nh, hs, false), out, accumulate};
    return run_forward(workspace, &job);
}

/* ---- backward -------------------------------------------------------------------------------------- */

typedef struct {
    attention a;
    float *dqkv;
    const float *dout;
    const size_t *query_rows;
    const float *relevance; /* [M], of the blocks behind this one */
    float *gained;          /* [B * NH, longest]: what each head adds to the relevance of its sequence */
} backward_job;

/* gained += weight * max(p * dp, 0)   all of them [keys] */
static void gain_relevance(float *gained, float weight, const float *p, const float *dp, size_t keys)
{
    for (size_t j = 0; j < keys; j++) {
        const float product = p[j] * dp[j];
        gained[j] += weight * (product > 0.0f ? product : 0.0f);
    }
}

/* The gradients that the queries `begin` to `end` of one head pass on.
 * dout: [end - begin, C], of these rows; p, dp: scratch. */
static void backward_block(const backward_job *job, const pair *pair, const float *dout, float *p, float *dp,
                           size_t begin, size_t end)
{
    const attention *a = &job->a;
    const size_t c = a->nh * a->hs, n = end - begin;
    const size_t keys = probabilities(p, a, pair, begin, end);
    clipc_gemm_abt(dp, keys, dout, c, pair->v, a->stride, n, keys, a->hs, 1.0f);
    if (job->relevance != NULL) {
        float *gained = job->gained + (pair->sequence * a->nh + pair->head) * a->longest;
        for (size_t i = 0; i < n; i++) {
            gain_relevance(gained, job->relevance[pair->row0 + begin + i], p + i * keys, dp + i * keys, keys);
        }
    }
    if (job->dqkv == NULL) {
        return;
    }
    for (size_t i = 0; i < n; i++) {
        clipc_elementwise()->softmax_backward(dp + i * keys, p + i * keys, keys);
    }
    float *dq = job->dqkv + pair->row0 * 3 * c + pair->head * a->hs, *dk = dq + c, *dv = dk + c;
    clipc_gemm_ab(dq + begin * 3 * c, 3 * c, dp, keys, pair->k, a->stride, n, a->hs, keys, a->scale, false);
    clipc_gemm_atb(dk, 3 * c, dp, keys, pair->q + begin * a->stride, a->stride, keys, a->hs, n, a->scale,
                   true);
    clipc_gemm_atb(dv, 3 * c, p, keys, dout, c, keys, a->hs, n, 1.0f, true);
}

static void backward_task(void *context, size_t index)
{
    const backward_job *job = context;
    const attention *a = &job->a;
    const size_t c = a->nh * a->hs;
    float *p = a->scratch + index * a->scratch_per_task, *dp = p + a->scratch_per_task / 2;
    size_t first, last;
    pair_range(a, index, &first, &last);
    for (size_t i = first; i < last; i++) {
        const pair pair = get_pair(a, i);
        const size_t head = pair.head * a->hs;
        if (job->query_rows != NULL) {
            const size_t row = job->query_rows[pair.sequence] - pair.row0;
            backward_block(job, &pair, job->dout + pair.sequence * c + head, p, dp, row, row + 1);
            continue;
        }
        for (size_t begin = 0; begin < pair.t; begin += QUERY_BLOCK) {
            const size_t end = begin + QUERY_BLOCK < pair.t ? begin + QUERY_BLOCK : pair.t;
            backward_block(job, &pair, job->dout + (pair.row0 + begin) * c + head, p, dp, begin, end);
        }
    }
}

/* relevance = keep * relevance + share * sum over the heads of gained */
static void collect_relevance(float *relevance, const float *gained, const attention *a, float keep,
                              float share)
{
    for (size_t sequence = 0; sequence < a->n_pairs / a->nh; sequence++) {
        const size_t row0 = a->offsets[sequence], t = a->offsets[sequence + 1] - row0;
        const float *heads = gained + sequence * a->nh * a->longest;
        for (size_t j = 0; j < t; j++) {
            float sum = 0.0f;
            for (size_t head = 0; head < a->nh; head++) {
                sum += heads[head * a->longest + j];
            }
            relevance[row0 + j] = keep * relevance[row0 + j] + share * sum;
        }
    }
}

static clipc_status alloc_gained(clipc_workspace *workspace, float **gained, const attention *a)
{
    CLIPC_TRY(clipc_workspace_floats(workspace, gained, a->n_pairs * a->longest));
    memset(*gained, 0, a->n_pairs * a->longest * sizeof **gained);
    return CLIPC_OK;
}

clipc_status clipc_attention_backward(clipc_workspace *workspace, float *dqkv, float *relevance,
                                      const float *dout, const float *qkv, const size_t *query_rows,
                                      const size_t *offsets, size_t b, size_t nh, size_t hs, bool causal)
{
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    backward_job job = {.a = new_qkv_attention(qkv, offsets, b, nh, hs, causal),
                        .dqkv = dqkv,
                        .dout = dout,
                        .query_rows = query_rows,
                        .relevance = relevance};
    CLIPC_TRY(alloc_scratch(workspace, &job.a, 2));
    if (relevance != NULL) {
        CLIPC_TRY(alloc_gained(workspace, &job.gained, &job.a));
    }
    if (dqkv != NULL) { /* k and v are added to; with query_rows, q has rows that are not touched */
        memset(dqkv, 0, offsets[b] * 3 * nh * hs * sizeof *dqkv);
    }
    clipc_parallel_for(job.a.n_tasks, backward_task, &job);
    if (relevance != NULL) {
        collect_relevance(relevance, job.gained, &job.a, 1.0f, 1.0f / (float)nh);
    }
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

/* ---- rollout --------------------------------------------------------------------------------------- */

static void rollout_task(void *context, size_t index)
{
    const backward_job *job = context;
    const attention *a = &job->a;
    float *p = a->scratch + index * a->scratch_per_task;
    size_t first, last;
    pair_range(a, index, &first, &last);
    for (size_t i = first; i < last; i++) {
        const pair pair = get_pair(a, i);
        float *gained = job->gained + i * a->longest;
        for (size_t begin = 0; begin < pair.t; begin += QUERY_BLOCK) {
            const size_t end = begin + QUERY_BLOCK < pair.t ? begin + QUERY_BLOCK : pair.t;
            const size_t keys = probabilities(p, a, &pair, begin, end);
            clipc_gemm_ab(gained, keys, job->relevance + pair.row0 + begin, end - begin, p, keys, 1, keys,
                          end - begin, 1.0f, true);
        }
    }
}

clipc_status clipc_attention_rollout(clipc_workspace *workspace, float *relevance, const float *qkv,
                                     const size_t *offsets, size_t b, size_t nh, size_t hs, bool causal)
{
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    backward_job job = {.a = new_qkv_attention(qkv, offsets, b, nh, hs, causal), .relevance = relevance};
    CLIPC_TRY(alloc_scratch(workspace, &job.a, 1));
    CLIPC_TRY(alloc_gained(workspace, &job.gained, &job.a));
    clipc_parallel_for(job.a.n_tasks, rollout_task, &job);
    collect_relevance(relevance, job.gained, &job.a, 0.5f, 0.5f / (float)nh);
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}
