#include "nn/attention_pool.h"

#include <math.h>
#include <string.h>

#include "core/threads.h"
#include "kernels/elementwise.h"

typedef struct {
    const clipc_attention_pool *pool;
    size_t b;
    const float *x; /* [B, HW, C] */
    float *tokens;  /* [B, 1 + HW, C] */
    float *q;       /* [B, C] */
    float *keys;    /* [NH, B, C]: Wk_h^T q_h */
    float *scores;  /* [NH, B, 1 + HW] */
    float *mixed;   /* [NH, B, C]: sum_i p_i t_i */
    float *v;       /* [B, C] */
} pool_job;

static void tokens_task(void *context, size_t image)
{
    const pool_job *job = context;
    const size_t c = job->pool->c, hw = job->pool->hw;
    const float *x = job->x + image * hw * c;
    const float *positions = job->pool->positional_embedding;
    float *tokens = job->tokens + image * (1 + hw) * c;
    float *mean = tokens;

    memset(mean, 0, c * sizeof(float));
    for (size_t i = 0; i < hw; i++) {
        for (size_t j = 0; j < c; j++) {
            mean[j] += x[i * c + j];
        }
    }
    const float scale = 1.0f / (float)hw;
    for (size_t j = 0; j < c; j++) {
        mean[j] = mean[j] * scale + positions[j];
    }
    for (size_t i = 0; i < hw * c; i++) {
        tokens[c + i] = x[i] + positions[c + i];
    }
}

static void head_task(void *context, size_t head)
{
    const pool_job *job = context;
    const size_t c = job->pool->c, t = 1 + job->pool->hw, hs = c / job->pool->nh, b = job->b;
    const float scale = 1.0f / sqrtf((float)hs);
    float *keys = job->keys + head * b * c, *mixed = job->mixed + head * b * c;
    float *scores = job->scores + head * b * t;

    clipc_gemm_rows_transposed(keys, c, job->q + head * hs, c, &job->pool->k_proj.weight, head * hs, hs, b);
    for (size_t image = 0; image < b; image++) {
        const float *tokens = job->tokens + image * t * c;
        float *row = scores + image * t;
        clipc_gemm_abt(row, t, keys + image * c, c, tokens, c, 1, t, c, scale);
        clipc_elementwise()->softmax(row, t);
        clipc_gemm_ab(mixed + image * c, c, row, t, tokens, c, 1, c, t);
    }
    clipc_gemm_rows(job->v + head * hs, c, mixed, c, &job->pool->v_proj.weight, head * hs, hs, b);
}

clipc_status clipc_attention_pool_forward(clipc_workspace *workspace, float *y, const float *x,
                                          const clipc_attention_pool *pool, size_t b)
{
    const size_t c = pool->c, t = 1 + pool->hw, nh = pool->nh;
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    pool_job job = {.pool = pool, .b = b, .x = x};
    CLIPC_TRY(clipc_workspace_floats(workspace, &job.tokens, b * t * c));
    CLIPC_TRY(clipc_workspace_floats(workspace, &job.q, b * c));
    CLIPC_TRY(clipc_workspace_floats(workspace, &job.keys, nh * b * c));
    CLIPC_TRY(clipc_workspace_floats(workspace, &job.scores, nh * b * t));
    CLIPC_TRY(clipc_workspace_floats(workspace, &job.mixed, nh * b * c));
    CLIPC_TRY(clipc_workspace_floats(workspace, &job.v, b * c));

    clipc_parallel_for(b, tokens_task, &job);
    /* The queries are the first tokens, t rows apart. */
    const clipc_epilogue q_bias = {pool->q_proj.bias, NULL, 0, CLIPC_ACTIVATION_NONE};
    clipc_gemm_forward(job.q, c, job.tokens, t * c, &pool->q_proj.weight, b, &q_bias);
    clipc_parallel_for(nh, head_task, &job);
    for (size_t image = 0; image < b; image++) {
        clipc_elementwise()->epilogue(job.v + image * c, pool->v_proj.bias, NULL, CLIPC_ACTIVATION_NONE, c);
    }
    clipc_linear_forward(y, job.v, NULL, &pool->c_proj, CLIPC_ACTIVATION_NONE, b);
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

void clipc_attention_pool_free(clipc_attention_pool *pool)
{
    clipc_aligned_free(pool->positional_embedding);
    pool->positional_embedding = NULL;
    clipc_linear_free(&pool->q_proj);
    clipc_linear_free(&pool->k_proj);
    clipc_linear_free(&pool->v_proj);
    clipc_linear_free(&pool->c_proj);
}
