#include "model/vision_transformer.h"

#include <string.h>

#include "core/memory.h"
#include "core/threads.h"
#include "nn/positions.h"

clipc_status clipc_vision_transformer_load(clipc_vision_transformer *vit, const clipc_config *config,
                                           clipc_loader *loader)
{
    const size_t c = config->vision_width, p = config->vision_patch_size, g = config->image_size / p;
    const size_t conv_shape[4] = {c, 3, p, p}, position_shape[2] = {1 + g * g, c};
    float *conv;

    vit->r = config->image_size;
    vit->p = p;
    vit->transformer = (clipc_transformer){
        .layers = config->vision_layers[0],
        .c = c,
        .nh = config->vision_heads,
        .mlp_width = config->vision_mlp_width,
        .activation = config->activation,
        .causal = false,
    };
    /* A convolution whose stride is its kernel is a linear layer on patches. */
    CLIPC_TRY(clipc_load_floats(loader, &conv, "visual.", "conv1.weight", 4, conv_shape));
    const clipc_status status = clipc_pack_matrix(&vit->conv1.weight, conv, c, 3 * p * p, loader->message);
    clipc_aligned_free(conv);
    CLIPC_TRY(status);
    CLIPC_TRY(clipc_load_floats(loader, &vit->class_embedding, "visual.", "class_embedding", 1, &c));
    CLIPC_TRY(clipc_load_floats(loader, &vit->positional_embedding, "visual.", "positional_embedding", 2,
                                position_shape));
    CLIPC_TRY(clipc_load_layernorm(loader, &vit->ln_pre, "visual.ln_pre.", c));
    CLIPC_TRY(clipc_transformer_load(&vit->transformer, loader, "visual.transformer."));
    CLIPC_TRY(clipc_load_layernorm(loader, &vit->ln_post, "visual.ln_post.", c));
    return clipc_load_projection(loader, &vit->proj, "visual.proj", c, config->embed_dim);
}

typedef struct {
    const clipc_vision_transformer *vit;
    const float *images; /* [B, 3, H, W] */
    size_t h, w;
    float *patches;         /* [B * GH * GW, 3 * P * P] */
    const float *embedded;  /* [B * GH * GW, C] */
    const float *positions; /* [1 + GH * GW, C] */
    float *x;               /* [B * (1 + GH * GW), C] */
} tokens_job;

/* Writes the patches of one row of the grid of one image. */
static void patches_task(void *context, size_t index)
{
    const tokens_job *job = context;
    const size_t h = job->h, w = job->w, p = job->vit->p, gh = h / p, gw = w / p;
    const float *image = job->images + index / gh * 3 * h * w;
    const size_t gy = index % gh;
    float *out = job->patches + index * gw * 3 * p * p;
    for (size_t gx = 0; gx < gw; gx++) {
        for (size_t channel = 0; channel < 3; channel++) {
            for (size_t y = 0; y < p; y++, out += p) {
                memcpy(out, image + (channel * h + gy * p + y) * w + gx * p, p * sizeof(float));
            }
        }
    }
}

/* x = [class_embedding; patches] + positions, for one image. */
static void tokens_task(void *context, size_t image)
{
    const tokens_job *job = context;
    const size_t c = job->vit->transformer.c, cells = job->h / job->vit->p * (job->w / job->vit->p);
    const float *embedded = job->embedded + image * cells * c;
    float *x = job->x + image * (1 + cells) * c;
    for (size_t j = 0; j < c; j++) {
        x[j] = job->vit->class_embedding[j] + job->positions[j];
    }
    for (size_t i = 0; i < cells * c; i++) {
        x[c + i] = embedded[i] + job->positions[c + i];
    }
}

/* x: [B * (1 + GH * GW), C], the input of ln_pre */
static clipc_status embed_patches(clipc_workspace *workspace, float *x, const float *images,
                                  const clipc_vision_transformer *vit, size_t b, size_t h, size_t w)
{
    const size_t gh = h / vit->p, gw = w / vit->p, n_patches = b * gh * gw;
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    tokens_job job = {.vit = vit, .images = images, .h = h, .w = w, .x = x};
    float *embedded;
    CLIPC_TRY(clipc_positions_for_grid(workspace, &job.positions, vit->positional_embedding, vit->r / vit->p,
                                       gh, gw, vit->transformer.c));
    CLIPC_TRY(clipc_workspace_floats(workspace, &job.patches, n_patches * vit->conv1.weight.k));
    CLIPC_TRY(clipc_workspace_floats(workspace, &embedded, n_patches * vit->transformer.c));
    clipc_parallel_for(b * gh, patches_task, &job);
    clipc_linear_forward(embedded, job.patches, NULL, &vit->conv1, CLIPC_ACTIVATION_NONE, n_patches);
    job.embedded = embedded;
    clipc_parallel_for(b, tokens_task, &job);
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

/* *offsets: [B + 1], of B sequences of T rows each, in the workspace */
static clipc_status equal_offsets(clipc_workspace *workspace, size_t **offsets, size_t b, size_t t)
{
    void *memory;
    CLIPC_TRY(clipc_workspace_alloc(workspace, &memory, b + 1, sizeof(size_t)));
    *offsets = memory;
    for (size_t i = 0; i <= b; i++) {
        (*offsets)[i] = i * t;
    }
    return CLIPC_OK;
}

clipc_status clipc_vision_transformer_forward(clipc_workspace *workspace, float *features,
                                              const float *images, const clipc_vision_transformer *vit,
                                              size_t b, size_t h, size_t w,
                                              clipc_vision_transformer_tape *tape)
{
    const size_t c = vit->transformer.c, t = 1 + h / vit->p * (w / vit->p);
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    float *x, *pooled;
    clipc_pooled_tape pooled_tape;
    size_t *offsets;
    CLIPC_TRY(clipc_workspace_floats(workspace, &x, b * t * c));
    CLIPC_TRY(clipc_workspace_floats(workspace, &pooled, b * c));
    CLIPC_TRY(equal_offsets(workspace, &offsets, b, t));
    CLIPC_TRY(embed_patches(workspace, x, images, vit, b, h, w));
    clipc_layernorm_forward(x, NULL, NULL, x, &vit->ln_pre, b * t);
    /* The class token is the first row of each image. */
    CLIPC_TRY(clipc_transformer_forward(workspace, pooled, x, &vit->transformer, offsets, offsets, b,
                                        tape ? &tape->transformer : NULL));
    CLIPC_TRY(clipc_pooled_forward(workspace, features, pooled, &vit->ln_post, &vit->proj, b, &pooled_tape));
    if (tape == NULL) {
        clipc_arena_release(&workspace->arena, mark);
        return CLIPC_OK;
    }
    tape->pooled = pooled_tape;
    tape->tokens = t;
    return CLIPC_OK;
}

clipc_status clipc_vision_transformer_tokens_forward(clipc_workspace *workspace, float *tokens,
                                                     const float *images, const clipc_vision_transformer *vit,
                                                     size_t b, size_t h, size_t w)
{
    const size_t t = 1 + h / vit->p * (w / vit->p);
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    size_t *offsets;
    CLIPC_TRY(equal_offsets(workspace, &offsets, b, t));
    CLIPC_TRY(embed_patches(workspace, tokens, images, vit, b, h, w));
    clipc_layernorm_forward(tokens, NULL, NULL, tokens, &vit->ln_pre, b * t);
    CLIPC_TRY(clipc_transformer_forward(workspace, NULL, tokens, &vit->transformer, offsets, NULL, b, NULL));
    clipc_layernorm_forward(tokens, NULL, NULL, tokens, &vit->ln_post, b * t);
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

clipc_status clipc_vision_transformer_backward(clipc_workspace *workspace,
                                               const clipc_transformer_target *target, const float *dfeatures,
                                               const clipc_vision_transformer *vit,
                                               const clipc_vision_transformer_tape *tape)
{
    const size_t b = tape->transformer.b, c = vit->transformer.c;
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    float *dpooled;
    CLIPC_TRY(clipc_workspace_floats(workspace, &dpooled, b * c));
    CLIPC_TRY(
        clipc_pooled_backward(workspace, dpooled, dfeatures, &vit->ln_post, &vit->proj, b, &tape->pooled));
    CLIPC_TRY(clipc_transformer_backward(workspace, target, dpooled, &vit->transformer, &tape->transformer));
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

clipc_status clipc_vision_transformer_dense_forward(clipc_workspace *workspace, float *features,
                                                    const clipc_vision_transformer *vit,
                                                    clipc_dense_kind kind,
                                                    const clipc_vision_transformer_tape *tape)
{
    const size_t b = tape->transformer.b, c = vit->transformer.c, t = tape->tokens;
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    float *x;
    CLIPC_TRY(clipc_workspace_floats(workspace, &x, b * t * c));
    CLIPC_TRY(clipc_transformer_dense_forward(workspace, x, &vit->transformer, kind, &tape->transformer));
    for (size_t i = 0; i < b; i++) {
        memcpy(x + i * t * c, tape->pooled.pooled + i * c, c * sizeof *x);
    }
    clipc_layernorm_forward(x, NULL, NULL, x, &vit->ln_post, b * t);
    clipc_linear_forward(features, x, NULL, &vit->proj, CLIPC_ACTIVATION_NONE, b * t);
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

size_t clipc_vision_transformer_floats_per_image(const clipc_vision_transformer *vit, size_t h, size_t w)
{
    const size_t transformer = clipc_transformer_floats_per_row(&vit->transformer);
    const size_t embedding = vit->conv1.weight.k + 2 * vit->transformer.c;
    return (1 + h / vit->p * (w / vit->p)) * (transformer > embedding ? transformer : embedding);
}

void clipc_vision_transformer_free(clipc_vision_transformer *vit)
{
    clipc_linear_free(&vit->conv1);
    clipc_aligned_free(vit->class_embedding);
    clipc_aligned_free(vit->positional_embedding);
    clipc_layernorm_free(&vit->ln_pre);
    clipc_transformer_free(&vit->transformer);
    clipc_layernorm_free(&vit->ln_post);
    clipc_linear_free(&vit->proj);
    memset(vit, 0, sizeof *vit);
}
