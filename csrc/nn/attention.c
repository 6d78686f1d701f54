#include "nn/attention.h"

#include <math.h>
#include <string.h>

#include "core/threads.h"
#include "kernels/elementwise.h"
#include "kernels/gemm.h"

/* Query rows that are worked on together: their scores stay in the second-level cache. */
#define QUERY_BLOCK 64

typedef struct {
    float *out;
    const float *qkv;
    const size_t *offsets;
    size_t n_pairs; /* of sequence and head */
    size_t nh;
    size_t hs;
    bool causal;
    size_t n_tasks;
    float *scores; /* [n_tasks, QUERY_BLOCK * longest sequence] */
    size_t scores_per_task;
} attention_job;

/* One head of one sequence of T rows. */
static void attention_head(const attention_job *job, float *scores, size_t row0, size_t t, size_t head)
{
    const size_t c = job->nh * job->hs, stride = 3 * c;
    const float *q = job->qkv + row0 * stride + head * job->hs;
    const float *k = q + c, *v = k + c;
    float *out = job->out + row0 * c + head * job->hs;
    const float scale = 1.0f / sqrtf((float)job->hs);
    const clipc_elementwise_kernels *kernels = clipc_elementwise();

    for (size_t begin = 0; begin < t; begin += QUERY_BLOCK) {
        const size_t end = begin + QUERY_BLOCK < t ? begin + QUERY_BLOCK : t;
        const size_t keys = job->causal ? end : t;
        clipc_gemm_abt(scores, keys, q + begin * stride, stride, k, stride, end - begin, keys, job->hs,
                       scale);
        for (size_t i = begin; i < end; i++) {
            float *row = scores + (i - begin) * keys;
            const size_t visible = job->causal ? i + 1 : keys;
            kernels->softmax(row, visible);
            memset(row + visible, 0, (keys - visible) * sizeof(float));
        }
        clipc_gemm_ab(out + begin * c, c, scores, keys, v, stride, end - begin, job->hs, keys);
    }
}

static void attention_task(void *context, size_t index)
{
    const attention_job *job = context;
    const size_t begin = job->n_pairs * index / job->n_tasks, end = job->n_pairs * (index + 1) / job->n_tasks;
    for (size_t pair = begin; pair < end; pair++) {
        const size_t sequence = pair / job->nh;
        const size_t row0 = job->offsets[sequence];
        attention_head(job, job->scores + index * job->scores_per_task, row0,
                       job->offsets[sequence + 1] - row0, pair % job->nh);
    }
}

clipc_status clipc_attention_forward(clipc_workspace *workspace, float *out, const float *qkv,
                                     const size_t *offsets, size_t b, size_t nh, size_t hs, bool causal)
{
    size_t longest = 0;
    for (size_t i = 0; i < b; i++) {
        const size_t t = offsets[i + 1] - offsets[i];
        longest = t > longest ? t : longest;
    }
    attention_job job = {
        .out = out, .qkv = qkv, .offsets = offsets, .n_pairs = b * nh, .nh = nh, .hs = hs, .causal = causal};
    /* More tasks than threads even out sequences of different lengths. */
    job.n_tasks = 4 * (size_t)clipc_get_num_threads();
    job.n_tasks = job.n_tasks < job.n_pairs ? job.n_tasks : job.n_pairs;
    job.scores_per_task = (longest < QUERY_BLOCK ? longest : QUERY_BLOCK) * longest;

    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    CLIPC_TRY(clipc_workspace_floats(workspace, &job.scores, job.n_tasks * job.scores_per_task));
    clipc_parallel_for(job.n_tasks, attention_task, &job);
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}
