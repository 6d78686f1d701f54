/* The stack of residual attention blocks that both transformers of CLIP are made of. */
#ifndef CLIPC_MODEL_TRANSFORMER_H
#define CLIPC_MODEL_TRANSFORMER_H

#include <stdbool.h>

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

/* What the passes behind a forward pass read of one block. All rows are kept, except in the last block, where
 * only the pooled ones go through the MLP: M' below is M, there B. */
typedef struct {
    float *x;               /* [M, C], the block's input */
    float *mean_1, *rstd_1; /* [M], of ln_1 */
    float *qkv;             /* [M, 3C] */
    float *x_2;             /* [M', C], the input of ln_2 */
    float *mean_2, *rstd_2; /* [M'] */
    float *hidden;          /* [M', MLP width], before the activation */
} clipc_block_tape;

/* The tape of a forward pass over B sequences. Its arrays lie in the workspace of that pass, until the caller
 * releases them. `first` and `gradients` are set by the caller. */
typedef struct {
    size_t first;             /* blocks before this one are not kept */
    bool gradients;           /* false: only x and qkv are kept */
    clipc_block_tape *blocks; /* [layers] */
    const size_t *offsets;    /* [B + 1] */
    const size_t *pooled_rows;
    size_t b;
} clipc_transformer_tape;

/* Runs all blocks over the B sequences in x and gives the last block's output at one row of each.
 * x: [M, C], overwritten; offsets: [B + 1], sequence b has the rows offsets[b] to offsets[b + 1];
 * pooled_rows: [B], rows of x; pooled: [B, C]; tape: NULL, or filled in.
 * Behind the last attention the other rows are not needed, so only the pooled ones go through its MLP.
 * Where pooled_rows is NULL, all rows go through it and stay in x; then pooled and tape are NULL too. */
clipc_status clipc_transformer_forward(clipc_workspace *workspace, float *pooled, float *x,
                                       const clipc_transformer *transformer, const size_t *offsets,
                                       const size_t *pooled_rows, size_t b, clipc_transformer_tape *tape);

/* What a backward pass is for; outputs that are NULL are not computed. */
typedef struct {
    size_t block;     /* where it stops, tape->first or later */
    float *dln_1;     /* [M, C]: the gradient with respect to the output of ln_1 of that block */
    float *relevance; /* [M]: row pooled_rows[b] of R for each sequence b, over the blocks from `block` on */
} clipc_transformer_target;

/* From dpooled: [B, C] back to the target. The tape holds `gradients`. See clipc_attention_backward for R. */
clipc_status clipc_transformer_backward(clipc_workspace *workspace, const clipc_transformer_target *target,
                                        const float *dpooled, const clipc_transformer *transformer,
                                        const clipc_transformer_tape *tape);

/* Row pooled_rows[b] of the attention rollout of each sequence b   relevance: [M] */
clipc_status clipc_transformer_rollout(clipc_workspace *workspace, float *relevance,
                                       const clipc_transformer *transformer,
                                       const clipc_transformer_tape *tape);

/* features = projection(layernorm(pooled)): how both towers end. `tape` is filled in; its mean and rstd lie
 * in the workspace.   pooled: [B, C], features: [B, D] */
typedef struct {
    const float *pooled;
    float *mean, *rstd; /* [B] */
} clipc_pooled_tape;

clipc_status clipc_pooled_forward(clipc_workspace *workspace, float *features, const float *pooled,
                                  const clipc_layernorm *layernorm, const clipc_linear *projection, size_t b,
                                  clipc_pooled_tape *tape);

/* dpooled: [B, C] from dfeatures: [B, D] */
clipc_status clipc_pooled_backward(clipc_workspace *workspace, float *dpooled, const float *dfeatures,
                                   const clipc_layernorm *layernorm, const clipc_linear *projection, size_t b,
                                   const clipc_pooled_tape *tape);

/* What takes the place of the attention, for features of every token. */
typedef enum {
    CLIPC_DENSE_IDENTITY = 0, /* MaskCLIP: out_proj(v) */
    CLIPC_DENSE_SCLIP,  /* SCLIP: the sum of q-q and k-k attention (Wang, Mei & Yuille 2023, 2312.01597) */
    CLIPC_DENSE_SURGERY /* CLIP Surgery: v-v attention on a path of its own */
} clipc_dense_kind;

/* The first block whose tape clipc_transformer_dense_forward reads: the last but five for CLIP Surgery, else
 * the last. */
size_t clipc_transformer_dense_first(const clipc_transformer *transformer, clipc_dense_kind kind);

/* Tokens of every position behind the last block, as MaskCLIP and SCLIP (the last block with another
 * attention, its residual and its MLP kept) or CLIP Surgery (from the last six blocks x = x +
 * out_proj(softmax(v v^T / sqrt(HS)) v), v of the original path, no MLP) define them.   out: [M, C] */
clipc_status clipc_transformer_dense_forward(clipc_workspace *workspace, float *out,
                                             const clipc_transformer *transformer, clipc_dense_kind kind,
                                             const clipc_transformer_tape *tape);

/* Floats of scratch that one row needs; batches are cut so that this stays within bounds. */
size_t clipc_transformer_floats_per_row(const clipc_transformer *transformer);

void clipc_transformer_free(clipc_transformer *transformer);

#endif
