/* The stack of residual attention blocks that both transformers of CLIP are made of. */
#ifndef CLIPC_MODEL_TRANSFORMER_H
#define CLIPC_MODEL_TRANSFORMER_H

#include "core/workspace.h"
#include "model/loader.h"
#include "nn/layernorm.h"
#include "nn/linear.h"

/* x = x + out_proj(attention(in_proj(ln_1(x)))); x = x + c_proj(activation(c_fc(ln_2(x)))) */
typedef struct {
    clipc_layernorm ln_1;
    clipc_linear in_proj;  /* [3C, C] */
    clipc_linear out_proj; /* [C, C] */
    clipc_layernorm ln_2;
    clipc_linear c_fc;   /* [MLP width, C] */
    clipc_linear c_proj; /* [C, MLP width] */
} clipc_residual_attention_block;

typedef struct {
    clipc_residual_attention_block *blocks; /* [layers], owned */
    size_t layers;
    size_t c;
    size_t nh;
    size_t mlp_width;
    clipc_activation activation;
    bool causal;
} clipc_transformer;

/* Sizes, activation and `causal` are set by the caller. Tensors: {prefix}resblocks.{i}.… */
clipc_status clipc_transformer_load(clipc_transformer *transformer, clipc_loader *loader, const char *prefix);

/* Runs all blocks over the B sequences in x and gives the last block's output at one row of each.
 * x: [M, C], overwritten; offsets: [B + 1], sequence b has the rows offsets[b] to offsets[b + 1];
 * pooled_rows: [B], rows of x; pooled: [B, C].
 * Behind the last attention the other rows are not needed, so only the pooled ones go through its MLP. */
clipc_status clipc_transformer_forward(clipc_workspace *workspace, float *pooled, float *x,
                                       const clipc_transformer *transformer, const size_t *offsets,
                                       const size_t *pooled_rows, size_t b);

/* Floats of scratch that one row needs; batches are cut so that this stays within bounds. */
size_t clipc_transformer_floats_per_row(const clipc_transformer *transformer);

void clipc_transformer_free(clipc_transformer *transformer);

#endif
