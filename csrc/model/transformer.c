#include "model/transformer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* x = x + c_proj(activation(c_fc(ln_2(x))))   x: [M, C] */
static clipc_status mlp_forward(clipc_workspace *workspace, float *x,
                                const clipc_residual_attention_block *block,
                                const clipc_transformer *transformer, size_t m)
{
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    float *normed, *hidden;
    CLIPC_TRY(clipc_workspace_floats(workspace, &normed, m * transformer->c));
    CLIPC_TRY(clipc_workspace_floats(workspace, &hidden, m * transformer->mlp_width));
    clipc_layernorm_forward(normed, NULL, NULL, x, &block->ln_2, m);
    clipc_linear_forward(hidden, normed, NULL, &block->c_fc, transformer->activation, m);
    clipc_linear_forward(x, hidden, x, &block->c_proj, CLIPC_ACTIVATION_NONE, m);
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

/* out = attention(in_proj(ln_1(x)))   x, out: [M, C] */
static clipc_status attention_forward(clipc_workspace *workspace, float *out, const float *x,
                                      const clipc_residual_attention_block *block,
                                      const clipc_transformer *transformer, const size_t *offsets, size_t b)
{
    const size_t m = offsets[b], c = transformer->c;
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    float *qkv;
    CLIPC_TRY(clipc_workspace_floats(workspace, &qkv, 3 * m * c));
    /* `out` is free until the attention is computed, so ln_1 goes there. */
    clipc_layernorm_forward(out, NULL, NULL, x, &block->ln_1, m);
    clipc_linear_forward(qkv, out, NULL, &block->in_proj, CLIPC_ACTIVATION_NONE, m);
    CLIPC_TRY(clipc_attention_forward(workspace, out, qkv, offsets, b, transformer->nh, c / transformer->nh,
                                      transformer->causal));
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

clipc_status clipc_transformer_forward(clipc_workspace *workspace, float *pooled, float *x,
                                       const clipc_transformer *transformer, const size_t *offsets,
                                       const size_t *pooled_rows, size_t b)
{
    const size_t m = offsets[b], c = transformer->c;
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    float *attended;
    CLIPC_TRY(clipc_workspace_floats(workspace, &attended, m * c));

    for (size_t i = 0; i < transformer->layers; i++) {
        const clipc_residual_attention_block *block = &transformer->blocks[i];
        CLIPC_TRY(clipc_workspace_poll(workspace));
        CLIPC_TRY(attention_forward(workspace, attended, x, block, transformer, offsets, b));
        if (i + 1 < transformer->layers) {
            clipc_linear_forward(x, attended, x, &block->out_proj, CLIPC_ACTIVATION_NONE, m);
            CLIPC_TRY(mlp_forward(workspace, x, block, transformer, m));
            continue;
        }
        float *chosen;
        CLIPC_TRY(clipc_workspace_floats(workspace, &chosen, b * c));
        for (size_t sequence = 0; sequence < b; sequence++) {
            memcpy(chosen + sequence * c, attended + pooled_rows[sequence] * c, c * sizeof(float));
            memcpy(pooled + sequence * c, x + pooled_rows[sequence] * c, c * sizeof(float));
        }
        clipc_linear_forward(pooled, chosen, pooled, &block->out_proj, CLIPC_ACTIVATION_NONE, b);
        CLIPC_TRY(mlp_forward(workspace, pooled, block, transformer, b));
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
