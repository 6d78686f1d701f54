#include "model/transformer.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nn/activation.h"
#include "nn/attention.h"

static clipc_status load_block(clipc_residual_attention_block *block, const clipc_transformer *transformer,
                               clipc_loader *loader, const char *prefix)
{
    const size_t c = transformer->c;
    char name[200];
#define NAME(suffix) (snprintf(name, sizeof name, "%s%s", prefix, suffix), name)
    CLIPC_TRY(clipc_load_layernorm(loader, &block->ln_1, NAME("ln_1."), c));
    CLIPC_TRY(clipc_load_in_proj(loader, &block->in_proj, NAME("attn."), c));
    CLIPC_TRY(clipc_load_linear(loader, &block->out_proj, NAME("attn.out_proj."), c, c));
    CLIPC_TRY(clipc_load_layernorm(loader, &block->ln_2, NAME("ln_2."), c));
    CLIPC_TRY(clipc_load_linear(loader, &block->c_fc, NAME("mlp.c_fc."), transformer->mlp_width, c));
    CLIPC_TRY(clipc_load_linear(loader, &block->c_proj, NAME("mlp.c_proj."), c, transformer->mlp_width));
#undef NAME
    return CLIPC_OK;
}

clipc_status clipc_transformer_load(clipc_transformer *transformer, clipc_loader *loader, const char *prefix)
{
    transformer->blocks = calloc(transformer->layers, sizeof *transformer->blocks);
    if (transformer->blocks == NULL) {
        return clipc_fail_memory(loader->message, transformer->layers * sizeof *transformer->blocks);
    }
    for (size_t i = 0; i < transformer->layers; i++) {
        char block_prefix[100];
        snprintf(block_prefix, sizeof block_prefix, "%sresblocks.%zu.", prefix, i);
        CLIPC_TRY(load_block(&transformer->blocks[i], transformer, loader, block_prefix));
    }
    return CLIPC_OK;
}

/* ---- forward --------------------------------------------------------------------------------------- */

/* *copy: a copy of count floats that stays in the workspace. */
static clipc_status keep(clipc_workspace *workspace, float **copy, const float *values, size_t count)
{
    CLIPC_TRY(clipc_workspace_floats(workspace, copy, count));
    memcpy(*copy, values, count * sizeof **copy);
    return CLIPC_OK;
}

/* x = x + c_proj(activation(c_fc(ln_2(x))))   x: [M, C]; tape: NULL, or its x_2 to hidden are filled in */
static clipc_status mlp_forward(clipc_workspace *workspace, float *x,
                                const clipc_residual_attention_block *block,
                                const clipc_transformer *transformer, size_t m, clipc_block_tape *tape)
{
    if (tape != NULL) {
        CLIPC_TRY(keep(workspace, &tape->x_2, x, m * transformer->c));
        CLIPC_TRY(clipc_workspace_floats(workspace, &tape->mean_2, m));
        CLIPC_TRY(clipc_workspace_floats(workspace, &tape->rstd_2, m));
        CLIPC_TRY(clipc_workspace_floats(workspace, &tape->hidden, m * transformer->mlp_width));
    }
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    float *normed, *hidden;
    CLIPC_TRY(clipc_workspace_floats(workspace, &normed, m * transformer->c));
    CLIPC_TRY(clipc_workspace_floats(workspace, &hidden, m * transformer->mlp_width));
    if (tape == NULL) {
        clipc_layernorm_forward(normed, NULL, NULL, x, &block->ln_2, m);
        clipc_linear_forward(hidden, normed, NULL, &block->c_fc, transformer->activation, m);
    } else {
        clipc_layernorm_forward(normed, tape->mean_2, tape->rstd_2, x, &block->ln_2, m);
        clipc_linear_forward(tape->hidden, normed, NULL, &block->c_fc, CLIPC_ACTIVATION_NONE, m);
        clipc_activation_forward(hidden, tape->hidden, transformer->activation, m * transformer->mlp_width);
    }
    clipc_linear_forward(x, hidden, x, &block->c_proj, CLIPC_ACTIVATION_NONE, m);
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

/* out = attention(in_proj(ln_1(x)))   x, out: [M, C]; tape: NULL, or its x to qkv are filled in */
static clipc_status attention_forward(clipc_workspace *workspace, float *out, const float *x,
                                      const clipc_residual_attention_block *block,
                                      const clipc_transformer *transformer, const size_t *offsets, size_t b,
                                      clipc_block_tape *tape)
{
    const size_t m = offsets[b], c = transformer->c;
    if (tape != NULL) {
        CLIPC_TRY(keep(workspace, &tape->x, x, m * c));
        CLIPC_TRY(clipc_workspace_floats(workspace, &tape->mean_1, m));
        CLIPC_TRY(clipc_workspace_floats(workspace, &tape->rstd_1, m));
        CLIPC_TRY(clipc_workspace_floats(workspace, &tape->qkv, 3 * m * c));
    }
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    float *qkv;
    if (tape != NULL) {
        qkv = tape->qkv;
    } else {
        CLIPC_TRY(clipc_workspace_floats(workspace, &qkv, 3 * m * c));
    }
    /* `out` is free until the attention is computed, so ln_1 goes there. */
    clipc_layernorm_forward(out, tape ? tape->mean_1 : NULL, tape ? tape->rstd_1 : NULL, x, &block->ln_1, m);
    clipc_linear_forward(qkv, out, NULL, &block->in_proj, CLIPC_ACTIVATION_NONE, m);
    CLIPC_TRY(clipc_attention_forward(workspace, out, qkv, offsets, b, transformer->nh, c / transformer->nh,
                                      transformer->causal));
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

static clipc_status new_tape(clipc_workspace *workspace, clipc_transformer_tape *tape,
                             const clipc_transformer *transformer, const size_t *offsets,
                             const size_t *pooled_rows, size_t b)
{
    void *memory;
    CLIPC_TRY(clipc_workspace_alloc(workspace, &memory, transformer->layers, sizeof *tape->blocks));
    memset(memory, 0, transformer->layers * sizeof *tape->blocks);
    tape->blocks = memory;
    tape->offsets = offsets;
    tape->pooled_rows = pooled_rows;
    tape->b = b;
    return CLIPC_OK;
}

clipc_status clipc_transformer_forward(clipc_workspace *workspace, float *pooled, float *x,
                                       const clipc_transformer *transformer, const size_t *offsets,
                                       const size_t *pooled_rows, size_t b, clipc_transformer_tape *tape)
{
    const size_t m = offsets[b], c = transformer->c;
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    float *attended, *chosen;
    assert(pooled_rows != NULL || tape == NULL);
    CLIPC_TRY(clipc_workspace_floats(workspace, &attended, m * c));
    CLIPC_TRY(clipc_workspace_floats(workspace, &chosen, b * c));
    if (tape != NULL) {
        CLIPC_TRY(new_tape(workspace, tape, transformer, offsets, pooled_rows, b));
    }

    for (size_t i = 0; i < transformer->layers; i++) {
        const clipc_residual_attention_block *block = &transformer->blocks[i];
        clipc_block_tape *kept = tape != NULL && i >= tape->first ? &tape->blocks[i] : NULL;
        clipc_block_tape *kept_mlp = kept != NULL && tape->gradients ? kept : NULL;
        CLIPC_TRY(clipc_workspace_poll(workspace));
        CLIPC_TRY(attention_forward(workspace, attended, x, block, transformer, offsets, b, kept));
        if (i + 1 < transformer->layers || pooled_rows == NULL) {
            clipc_linear_forward(x, attended, x, &block->out_proj, CLIPC_ACTIVATION_NONE, m);
            CLIPC_TRY(mlp_forward(workspace, x, block, transformer, m, kept_mlp));
            continue;
        }
        for (size_t sequence = 0; sequence < b; sequence++) {
            memcpy(chosen + sequence * c, attended + pooled_rows[sequence] * c, c * sizeof(float));
            memcpy(pooled + sequence * c, x + pooled_rows[sequence] * c, c * sizeof(float));
        }
        clipc_linear_forward(pooled, chosen, pooled, &block->out_proj, CLIPC_ACTIVATION_NONE, b);
        CLIPC_TRY(mlp_forward(workspace, pooled, block, transformer, b, kept_mlp));
    }
    if (tape == NULL) {
        clipc_arena_release(&workspace->arena, mark);
    }
    return CLIPC_OK;
}

/* ---- backward -------------------------------------------------------------------------------------- */

/* dx = dx + the gradient through c_proj(activation(c_fc(ln_2(x))))   dx: [M', C] */
static clipc_status mlp_backward(clipc_workspace *workspace, float *dx,
                                 const clipc_residual_attention_block *block,
                                 const clipc_transformer *transformer, size_t m, const clipc_block_tape *tape)
{
    const size_t n = m * transformer->mlp_width;
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    float *dhidden, *dnormed;
    CLIPC_TRY(clipc_workspace_floats(workspace, &dhidden, n));
    CLIPC_TRY(clipc_workspace_floats(workspace, &dnormed, m * transformer->c));
    clipc_linear_backward(dhidden, dx, &block->c_proj, m, false);
    clipc_activation_backward(dhidden, dhidden, tape->hidden, transformer->activation, n);
    clipc_linear_backward(dnormed, dhidden, &block->c_fc, m, false);
    clipc_layernorm_backward(dx, dnormed, tape->x_2, tape->mean_2, tape->rstd_2, &block->ln_2, m);
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

clipc_status clipc_transformer_backward(clipc_workspace *workspace, const clipc_transformer_target *target,
                                        const float *dpooled, const clipc_transformer *transformer,
                                        const clipc_transformer_tape *tape)
{
    const size_t m = tape->offsets[tape->b], c = transformer->c, b = tape->b, last = transformer->layers - 1;
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    float *dx, *dpooled_x, *dattended, *dqkv, *dnormed;
    CLIPC_TRY(clipc_workspace_floats(workspace, &dx, m * c));
    CLIPC_TRY(keep(workspace, &dpooled_x, dpooled, b * c));
    CLIPC_TRY(clipc_workspace_floats(workspace, &dattended, m * c));
    CLIPC_TRY(clipc_workspace_floats(workspace, &dqkv, 3 * m * c));
    CLIPC_TRY(clipc_workspace_floats(workspace, &dnormed, m * c));
    if (target->relevance != NULL) {
        memset(target->relevance, 0, m * sizeof *target->relevance);
        for (size_t sequence = 0; sequence < b; sequence++) {
            target->relevance[tape->pooled_rows[sequence]] = 1.0f;
        }
    }
    for (size_t i = last + 1; i-- > target->block;) {
        const clipc_residual_attention_block *block = &transformer->blocks[i];
        const clipc_block_tape *kept = &tape->blocks[i];
        /* In the last block the gradient is that of the pooled rows alone. */
        const size_t rows = i == last ? b : m;
        float *d = i == last ? dpooled_x : dx;
        const bool goes_on = i > target->block || target->dln_1 != NULL;
        CLIPC_TRY(clipc_workspace_poll(workspace));
        CLIPC_TRY(mlp_backward(workspace, d, block, transformer, rows, kept));
        clipc_linear_backward(dattended, d, &block->out_proj, rows, false);
        CLIPC_TRY(clipc_attention_backward(workspace, goes_on ? dqkv : NULL, target->relevance, dattended,
                                           kept->qkv, i == last ? tape->pooled_rows : NULL, tape->offsets, b,
                                           transformer->nh, c / transformer->nh, transformer->causal));
        if (!goes_on) {
            break;
        }
        float *dln_1 = i == target->block ? target->dln_1 : dnormed;
        clipc_linear_backward(dln_1, dqkv, &block->in_proj, m, false);
        if (i == target->block) {
            break;
        }
        if (i == last) {
            memset(dx, 0, m * c * sizeof *dx);
            for (size_t sequence = 0; sequence < b; sequence++) {
                memcpy(dx + tape->pooled_rows[sequence] * c, dpooled_x + sequence * c, c * sizeof *dx);
            }
        }
        clipc_layernorm_backward(dx, dln_1, kept->x, kept->mean_1, kept->rstd_1, &block->ln_1, m);
    }
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

clipc_status clipc_transformer_rollout(clipc_workspace *workspace, float *relevance,
                                       const clipc_transformer *transformer,
                                       const clipc_transformer_tape *tape)
{
    const size_t m = tape->offsets[tape->b], hs = transformer->c / transformer->nh;
    memset(relevance, 0, m * sizeof *relevance);
    for (size_t sequence = 0; sequence < tape->b; sequence++) {
        relevance[tape->pooled_rows[sequence]] = 1.0f;
    }
    for (size_t i = transformer->layers; i-- > tape->first;) {
        CLIPC_TRY(clipc_workspace_poll(workspace));
        CLIPC_TRY(clipc_attention_rollout(workspace, relevance, tape->blocks[i].qkv, tape->offsets, tape->b,
                                          transformer->nh, hs, transformer->causal));
    }
    return CLIPC_OK;
}

clipc_status clipc_pooled_forward(clipc_workspace *workspace, float *features, const float *pooled,
                                  const clipc_layernorm *layernorm, const clipc_linear *projection, size_t b,
                                  clipc_pooled_tape *tape)
{
    tape->pooled = pooled;
    CLIPC_TRY(clipc_workspace_floats(workspace, &tape->mean, b));
    CLIPC_TRY(clipc_workspace_floats(workspace, &tape->rstd, b));
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    float *normed;
    CLIPC_TRY(clipc_workspace_floats(workspace, &normed, b * layernorm->c));
    clipc_layernorm_forward(normed, tape->mean, tape->rstd, pooled, layernorm, b);
    clipc_linear_forward(features, normed, NULL, projection, CLIPC_ACTIVATION_NONE, b);
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

clipc_status clipc_pooled_backward(clipc_workspace *workspace, float *dpooled, const float *dfeatures,
                                   const clipc_layernorm *layernorm, const clipc_linear *projection, size_t b,
                                   const clipc_pooled_tape *tape)
{
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    float *dnormed;
    CLIPC_TRY(clipc_workspace_floats(workspace, &dnormed, b * layernorm->c));
    clipc_linear_backward(dnormed, dfeatures, projection, b, false);
    memset(dpooled, 0, b * layernorm->c * sizeof *dpooled);
    clipc_layernorm_backward(dpooled, dnormed, tape->pooled, tape->mean, tape->rstd, layernorm, b);
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

/* ---- dense features -------------------------------------------------------------------------------- */

#define SURGERY_BLOCKS 6

size_t clipc_transformer_dense_first(const clipc_transformer *transformer, clipc_dense_kind kind)
{
    const size_t blocks = kind == CLIPC_DENSE_SURGERY ? SURGERY_BLOCKS : 1;
    return transformer->layers > blocks ? transformer->layers - blocks : 0;
}

/* out = what takes the place of the attention of one block   qkv: [M, 3C], out: [M, C] */
static clipc_status dense_attention(clipc_workspace *workspace, float *out, const float *qkv,
                                    const clipc_transformer *transformer, clipc_dense_kind kind,
                                    const clipc_transformer_tape *tape)
{
    const size_t c = transformer->c, hs = c / transformer->nh;
    const float *q = qkv, *k = q + c, *v = k + c, scale = 1.0f / sqrtf((float)hs);
    if (kind == CLIPC_DENSE_IDENTITY) {
        for (size_t row = 0; row < tape->offsets[tape->b]; row++) {
            memcpy(out + row * c, v + row * 3 * c, c * sizeof *out);
        }
        return CLIPC_OK;
    }
    CLIPC_TRY(clipc_self_similarity_forward(workspace, out, kind == CLIPC_DENSE_SURGERY ? v : q, v, 3 * c,
                                            scale, false, tape->offsets, tape->b, transformer->nh, hs));
    if (kind == CLIPC_DENSE_SURGERY) {
        return CLIPC_OK;
    }
    return clipc_self_similarity_forward(workspace, out, k, v, 3 * c, scale, true, tape->offsets, tape->b,
                                         transformer->nh, hs);
}

clipc_status clipc_transformer_dense_forward(clipc_workspace *workspace, float *out,
                                             const clipc_transformer *transformer, clipc_dense_kind kind,
                                             const clipc_transformer_tape *tape)
{
    const size_t m = tape->offsets[tape->b], c = transformer->c;
    const size_t first = clipc_transformer_dense_first(transformer, kind);
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    float *attended;
    CLIPC_TRY(clipc_workspace_floats(workspace, &attended, m * c));
    memcpy(out, tape->blocks[first].x, m * c * sizeof *out);
    for (size_t i = first; i < transformer->layers; i++) {
        const clipc_residual_attention_block *block = &transformer->blocks[i];
        CLIPC_TRY(clipc_workspace_poll(workspace));
        CLIPC_TRY(dense_attention(workspace, attended, tape->blocks[i].qkv, transformer, kind, tape));
        clipc_linear_forward(out, attended, out, &block->out_proj, CLIPC_ACTIVATION_NONE, m);
        if (kind != CLIPC_DENSE_SURGERY) {
            CLIPC_TRY(mlp_forward(workspace, out, block, transformer, m, NULL));
        }
    }
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

size_t clipc_transformer_floats_per_row(const clipc_transformer *transformer)
{
    const size_t attention = 3 * transformer->c, mlp = transformer->c + transformer->mlp_width;
    return 2 * transformer->c + (attention > mlp ? attention : mlp);
}

void clipc_transformer_free(clipc_transformer *transformer)
{
    for (size_t i = 0; transformer->blocks != NULL && i < transformer->layers; i++) {
        clipc_residual_attention_block *block = &transformer->blocks[i];
        clipc_layernorm_free(&block->ln_1);
        clipc_linear_free(&block->in_proj);
        clipc_linear_free(&block->out_proj);
        clipc_layernorm_free(&block->ln_2);
        clipc_linear_free(&block->c_fc);
        clipc_linear_free(&block->c_proj);
    }
    free(transformer->blocks);
    transformer->blocks = NULL;
}
