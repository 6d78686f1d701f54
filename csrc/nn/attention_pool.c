#include "nn/attention_pool.h"

#include <math.h>
#include <string.h>

#include "core/threads.h"
#include "kernels/elementwise.h"
#include "nn/attention.h"

typedef struct {
    const clipc_attention_pool *pool;
    const float *positions; /* [1 + HW, C] */
    size_t hw;
    size_t b;
    const float *x; /* [B, HW, C] */
    float *tokens;  /* [B, 1 + HW, C] */
    float *q;       /* [B, C] */
    float *keys;    /* [NH, B, C]: Wk_h^T q_h */
    float *p;       /* [NH, B, 1 + HW] */
    float *mixed;   /* [NH, B, C]: sum_i p_i t_i */
    float *v;       /* [B, C] */
} pool_job;

static void tokens_task(void *context, size_t image)
{
    const pool_job *job = context;
    const size_t c = job->pool->c, hw = job->hw;
    const float *x = job->x + image * hw * c;
    const float *positions = job->positions;
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
    const size_t c = job->pool->c, t = 1 + job->hw, hs = c / job->pool->nh, b = job->b;
    const float scale = 1.0f / sqrtf((float)hs);
    float *keys = job->keys + head * b * c, *mixed = job->mixed + head * b * c;
    float *p = job->p + head * b * t;

    clipc_gemm_rows_transposed(keys, c, job->q + head * hs, c, &job->pool->k_proj.weight, head * hs, hs, b);
    for (size_t image = 0; image < b; image++) {
        const float *tokens = job->tokens + image * t * c;
        float *row = p + image * t;
        clipc_gemm_abt(row, t, keys + image * c, c, tokens, c, 1, t, c, scale);
        clipc_elementwise()->softmax(row, t);
        clipc_gemm_ab(mixed + image * c, c, row, t, tokens, c, 1, c, t, 1.0f, false);
    }
    clipc_gemm_rows(job->v + head * hs, c, mixed, c, &job->pool->v_proj.weight, head * hs, hs, b);
}

clipc_status clipc_attention_pool_forward(clipc_workspace *workspace, float *y, const float *x,
                                          const clipc_attention_pool *pool, const float *positions, size_t hw,
                                          size_t b, clipc_attention_pool_tape *tape)
{
    const size_t c = pool->c, t = 1 + hw, nh = pool->nh;
    const clipc_arena_mark all = clipc_arena_get_mark(&workspace->arena);
    pool_job job = {.pool = pool, .positions = positions, .hw = hw, .b = b, .x = x};
    CLIPC_TRY(clipc_workspace_floats(workspace, &job.tokens, b * t * c));
    CLIPC_TRY(clipc_workspace_floats(workspace, &job.keys, nh * b * c));
    CLIPC_TRY(clipc_workspace_floats(workspace, &job.p, nh * b * t));
    const clipc_arena_mark untaped = clipc_arena_get_mark(&workspace->arena);
    CLIPC_TRY(clipc_workspace_floats(workspace, &job.q, b * c));
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
    clipc_arena_release(&workspace->arena, tape ? untaped : all);
    if (tape != NULL) {
        *tape = (clipc_attention_pool_tape){job.tokens, job.keys, job.p};
    }
    return CLIPC_OK;
}

/* ---- backward -------------------------------------------------------------------------------------- */

typedef struct {
    const clipc_attention_pool *pool;
    const clipc_attention_pool_tape *tape;
    size_t hw;
    size_t b;
    const float *dv; /* [B, C] */
    float *dmixed;   /* [NH, B, C] */
    float *ds;       /* [NH, B, 1 + HW] */
    float *dq;       /* [B, C] */
    float *dkeys;    /* [NH, B, C], scratch */
    float *dtokens;  /* [B, 1 + HW, C] */
    float *dx;       /* [B, HW, C] */
} pool_backward_job;

static void head_backward_task(void *context, size_t head)
{
    const pool_backward_job *job = context;
    const size_t c = job->pool->c, t = 1 + job->hw, hs = c / job->pool->nh, b = job->b;
    const float scale = 1.0f / sqrtf((float)hs);
    float *dmixed = job->dmixed + head * b * c, *dkeys = job->dkeys + head * b * c;

    clipc_gemm_rows_transposed(dmixed, c, job->dv + head * hs, c, &job->pool->v_proj.weight, head * hs, hs,
                               b);
    for (size_t image = 0; image < b; image++) {
        const float *tokens = job->tape->tokens + image * t * c;
        float *ds = job->ds + (head * b + image) * t;
        clipc_gemm_abt(ds, t, dmixed + image * c, c, tokens, c, 1, t, c, 1.0f);
        clipc_elementwise()->softmax_backward(ds, job->tape->p + (head * b + image) * t, t);
        for (size_t i = 0; i < t; i++) {
            ds[i] *= scale;
        }
        clipc_gemm_ab(dkeys + image * c, c, ds, t, tokens, c, 1, c, t, 1.0f, false);
    }
    clipc_gemm_rows(job->dq + head * hs, c, dkeys, c, &job->pool->k_proj.weight, head * hs, hs, b);
}

/* dt = sum_h (p_h dm_h + ds_h u_h), without what goes through q. */
static void tokens_backward_task(void *context, size_t image)
{
    const pool_backward_job *job = context;
    const size_t c = job->pool->c, t = 1 + job->hw, nh = job->pool->nh, b = job->b;
    float *dtokens = job->dtokens + image * t * c;
    /* Rows of one image in arrays over heads lie b rows apart. */
    clipc_gemm_atb(dtokens, c, job->tape->p + image * t, b * t, job->dmixed + image * c, b * c, t, c, nh,
                   1.0f, false);
    clipc_gemm_atb(dtokens, c, job->ds + image * t, b * t, job->tape->keys + image * c, b * c, t, c, nh, 1.0f,
                   true);
}

static void grid_backward_task(void *context, size_t image)
{
    const pool_backward_job *job = context;
    const size_t c = job->pool->c, hw = job->hw;
    const float *dtokens = job->dtokens + image * (1 + hw) * c, scale = 1.0f / (float)hw;
    float *dx = job->dx + image * hw * c;
    for (size_t i = 0; i < hw; i++) {
        for (size_t j = 0; j < c; j++) {
            dx[i * c + j] = dtokens[(1 + i) * c + j] + scale * dtokens[j];
        }
    }
}

clipc_status clipc_attention_pool_backward(clipc_workspace *workspace, float *dx, const float *dy,
                                           const clipc_attention_pool *pool, size_t hw, size_t b,
                                           const clipc_attention_pool_tape *tape)
{
    const size_t c = pool->c, t = 1 + hw, nh = pool->nh;
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    pool_backward_job job = {.pool = pool, .tape = tape, .hw = hw, .b = b, .dx = dx};
    float *dv;
    CLIPC_TRY(clipc_workspace_floats(workspace, &dv, b * c));
    CLIPC_TRY(clipc_workspace_floats(workspace, &job.dmixed, nh * b * c));
    CLIPC_TRY(clipc_workspace_floats(workspace, &job.ds, nh * b * t));
    CLIPC_TRY(clipc_workspace_floats(workspace, &job.dq, b * c));
    CLIPC_TRY(clipc_workspace_floats(workspace, &job.dkeys, nh * b * c));
    CLIPC_TRY(clipc_workspace_floats(workspace, &job.dtokens, b * t * c));
    job.dv = dv;
    clipc_linear_backward(dv, dy, &pool->c_proj, b, false);
    clipc_parallel_for(nh, head_backward_task, &job);
    clipc_parallel_for(b, tokens_backward_task, &job);
    clipc_gemm_backward(job.dtokens, t * c, job.dq, c, &pool->q_proj.weight, 0, c, b, true);
    clipc_parallel_for(b, grid_backward_task, &job);
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

/* ---- dense features -------------------------------------------------------------------------------- */

clipc_status clipc_attention_pool_identity_forward(clipc_workspace *workspace, float *y, const float *x,
                                                   const clipc_attention_pool *pool, size_t m)
{
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    float *v;
    CLIPC_TRY(clipc_workspace_floats(workspace, &v, m * pool->c));
    clipc_linear_forward(v, x, NULL, &pool->v_proj, CLIPC_ACTIVATION_NONE, m);
    clipc_linear_forward(y, v, NULL, &pool->c_proj, CLIPC_ACTIVATION_NONE, m);
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

typedef struct {
    float *out;      /* [M, C] */
    const float *in; /* [M, C] */
    size_t nh;
    size_t hs;
} unit_heads_job;

/* Scales each head of one token to length 1. */
static void unit_heads_task(void *context, size_t row)
{
    const unit_heads_job *job = context;
    for (size_t head = 0; head < job->nh; head++) {
        const float *in = job->in + (row * job->nh + head) * job->hs;
        float *out = job->out + (row * job->nh + head) * job->hs;
        float squares = 0.0f;
        for (size_t i = 0; i < job->hs; i++) {
            squares += in[i] * in[i];
        }
        const float scale = 1.0f / (sqrtf(squares) + 1e-6f);
        for (size_t i = 0; i < job->hs; i++) {
            out[i] = in[i] * scale;
        }
    }
}

clipc_status clipc_attention_pool_surgery_forward(clipc_workspace *workspace, float *y, const float *x,
                                                  const clipc_attention_pool *pool, const float *positions,
                                                  size_t hw, size_t b)
{
    const size_t c = pool->c, t = 1 + hw, d = pool->c_proj.weight.n, hs = c / pool->nh;
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    clipc_attention_pool_tape tape;
    void *memory;
    float *pooled, *v, *unit, *attended;
    CLIPC_TRY(clipc_workspace_floats(workspace, &pooled, b * d));
    CLIPC_TRY(clipc_attention_pool_forward(workspace, pooled, x, pool, positions, hw, b, &tape));
    CLIPC_TRY(clipc_workspace_floats(workspace, &v, b * t * c));
    CLIPC_TRY(clipc_workspace_floats(workspace, &unit, b * t * c));
    CLIPC_TRY(clipc_workspace_floats(workspace, &attended, b * t * c));
    CLIPC_TRY(clipc_workspace_alloc(workspace, &memory, b + 1, sizeof(size_t)));
    size_t *offsets = memory;
    for (size_t i = 0; i <= b; i++) {
        offsets[i] = i * t;
    }
    clipc_linear_forward(v, tape.tokens, NULL, &pool->v_proj, CLIPC_ACTIVATION_NONE, b * t);
    unit_heads_job job = {unit, v, pool->nh, hs};
    clipc_parallel_for(b * t, unit_heads_task, &job);
    CLIPC_TRY(clipc_self_similarity_forward(workspace, attended, unit, v, c, 8.0f / sqrtf((float)hs), false,
                                            offsets, b, pool->nh, hs));
    clipc_linear_forward(y, attended, NULL, &pool->c_proj, CLIPC_ACTIVATION_NONE, b * t);
    for (size_t i = 0; i < b; i++) {
        memcpy(y + i * t * d, pooled + i * d, d * sizeof *y);
    }
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
