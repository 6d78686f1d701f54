#include "model/modified_resnet.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/threads.h"
#include "nn/activation.h"
#include "nn/pooling.h"
#include "nn/positions.h"

static clipc_conv2d new_conv(size_t ic, size_t oc, size_t kernel, size_t stride)
{
    return (clipc_conv2d){.ic = ic, .oc = oc, .kernel = kernel, .stride = stride, .padding = kernel / 2};
}

static clipc_status load_bottleneck(clipc_bottleneck *block, clipc_loader *loader, const char *prefix,
                                    size_t ic, size_t planes, size_t stride)
{
    char conv[100], batchnorm[100];
#define NAMES(conv_name, batchnorm_name)                      \
    (snprintf(conv, sizeof conv, "%s%s.", prefix, conv_name), \
     snprintf(batchnorm, sizeof batchnorm, "%s%s.", prefix, batchnorm_name))
    block->stride = stride;
    block->conv1 = new_conv(ic, planes, 1, 1);
    block->conv2 = new_conv(planes, planes, 3, 1);
    block->conv3 = new_conv(planes, 4 * planes, 1, 1);
    NAMES("conv1", "bn1");
    CLIPC_TRY(clipc_load_conv_batchnorm(loader, &block->conv1, conv, batchnorm));
    NAMES("conv2", "bn2");
    CLIPC_TRY(clipc_load_conv_batchnorm(loader, &block->conv2, conv, batchnorm));
    NAMES("conv3", "bn3");
    CLIPC_TRY(clipc_load_conv_batchnorm(loader, &block->conv3, conv, batchnorm));
    if (stride > 1 || ic != 4 * planes) {
        block->downsample = new_conv(ic, 4 * planes, 1, 1);
        NAMES("downsample.0", "downsample.1");
        CLIPC_TRY(clipc_load_conv_batchnorm(loader, &block->downsample, conv, batchnorm));
    }
#undef NAMES
    return CLIPC_OK;
}

static clipc_status load_attention_pool(clipc_attention_pool *pool, const clipc_config *config,
                                        clipc_loader *loader)
{
    const size_t c = clipc_resnet_features(config), g = config->image_size / 32;
    const size_t position_shape[2] = {1 + g * g, c};
    pool->c = c;
    pool->g = g;
    pool->nh = config->vision_heads;
    CLIPC_TRY(clipc_load_floats(loader, &pool->positional_embedding, "visual.attnpool.",
                                "positional_embedding", 2, position_shape));
    CLIPC_TRY(clipc_load_linear(loader, &pool->q_proj, "visual.attnpool.q_proj.", c, c));
    CLIPC_TRY(clipc_load_linear(loader, &pool->k_proj, "visual.attnpool.k_proj.", c, c));
    CLIPC_TRY(clipc_load_linear(loader, &pool->v_proj, "visual.attnpool.v_proj.", c, c));
    return clipc_load_linear(loader, &pool->c_proj, "visual.attnpool.c_proj.", config->embed_dim, c);
}

clipc_status clipc_modified_resnet_load(clipc_modified_resnet *resnet, const clipc_config *config,
                                        clipc_loader *loader)
{
    const size_t width = config->vision_width;
    resnet->r = config->image_size;
    resnet->width = width;
    resnet->stem[0] = new_conv(3, width / 2, 3, 2);
    resnet->stem[1] = new_conv(width / 2, width / 2, 3, 1);
    resnet->stem[2] = new_conv(width / 2, width, 3, 1);
    CLIPC_TRY(clipc_load_conv_batchnorm(loader, &resnet->stem[0], "visual.conv1.", "visual.bn1."));
    CLIPC_TRY(clipc_load_conv_batchnorm(loader, &resnet->stem[1], "visual.conv2.", "visual.bn2."));
    CLIPC_TRY(clipc_load_conv_batchnorm(loader, &resnet->stem[2], "visual.conv3.", "visual.bn3."));

    size_t ic = width;
    for (size_t stage = 0; stage < 4; stage++) {
        const size_t planes = width << stage;
        resnet->stages[stage] = calloc(config->vision_layers[stage], sizeof **resnet->stages);
        if (resnet->stages[stage] == NULL) {
            return clipc_fail_memory(loader->message, config->vision_layers[stage] * sizeof **resnet->stages);
        }
        resnet->n_blocks[stage] = config->vision_layers[stage];
        for (size_t i = 0; i < resnet->n_blocks[stage]; i++) {
            char prefix[60];
            snprintf(prefix, sizeof prefix, "visual.layer%zu.%zu.", stage + 1, i);
            CLIPC_TRY(load_bottleneck(&resnet->stages[stage][i], loader, prefix, ic, planes,
                                      i == 0 && stage > 0 ? 2 : 1));
            ic = 4 * planes;
        }
    }
    return load_attention_pool(&resnet->attnpool, config, loader);
}

typedef struct {
    float *out;      /* [B, H, W, 3] */
    const float *in; /* [B, 3, H, W] */
    size_t h, w;
} interleave_job;

/* One row of pixels of one image: the three channel planes become one. */
static void interleave_task(void *context, size_t index)
{
    const interleave_job *job = context;
    const size_t h = job->h, w = job->w, image = index / h, y = index % h;
    const float *in = job->in + (image * 3 * h + y) * w;
    float *out = job->out + index * w * 3;
    for (size_t x = 0; x < w; x++) {
        out[3 * x] = in[x];
        out[3 * x + 1] = in[h * w + x];
        out[3 * x + 2] = in[2 * h * w + x];
    }
}

/* out = pool(relu(conv3(relu(conv2(relu(conv1(image)))))))   out: [B, H / 4, W / 4, width] */
static clipc_status stem_forward(clipc_workspace *workspace, float *out, const float *images,
                                 const clipc_modified_resnet *resnet, size_t b, size_t h, size_t w)
{
    const size_t h2 = h / 2, w2 = w / 2, width = resnet->width;
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    float *pixels, *first, *second, *third;
    CLIPC_TRY(clipc_workspace_floats(workspace, &pixels, b * h * w * 3));
    CLIPC_TRY(clipc_workspace_floats(workspace, &first, b * h2 * w2 * width / 2));
    CLIPC_TRY(clipc_workspace_floats(workspace, &second, b * h2 * w2 * width / 2));
    CLIPC_TRY(clipc_workspace_floats(workspace, &third, b * h2 * w2 * width));

    interleave_job job = {pixels, images, h, w};
    clipc_parallel_for(b * h, interleave_task, &job);
    CLIPC_TRY(clipc_conv2d_forward(workspace, first, pixels, NULL, &resnet->stem[0], CLIPC_ACTIVATION_RELU, b,
                                   h, w));
    CLIPC_TRY(clipc_conv2d_forward(workspace, second, first, NULL, &resnet->stem[1], CLIPC_ACTIVATION_RELU, b,
                                   h2, w2));
    CLIPC_TRY(clipc_conv2d_forward(workspace, third, second, NULL, &resnet->stem[2], CLIPC_ACTIVATION_RELU, b,
                                   h2, w2));
    clipc_avg_pool2d_forward(out, third, 2, b, h2, w2, width);
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

/* x: [B, S, S', IC], y: [B, S / stride, S' / stride, 4 * planes]
 * first, second: [B, S, S', planes], filled in as clipc_bottleneck_tape has them. */
static clipc_status bottleneck_forward(clipc_workspace *workspace, float *y, float *first, float *second,
                                       const float *x, const clipc_bottleneck *block, size_t b, size_t h,
                                       size_t w)
{
    const size_t planes = block->conv1.oc, ic = block->conv1.ic, stride = block->stride;
    const size_t h_out = h / stride, w_out = w / stride;
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    const float *identity = x, *inner = second;
    CLIPC_TRY(clipc_conv2d_forward(workspace, first, x, NULL, &block->conv1, CLIPC_ACTIVATION_RELU, b, h, w));
    CLIPC_TRY(
        clipc_conv2d_forward(workspace, second, first, NULL, &block->conv2, CLIPC_ACTIVATION_RELU, b, h, w));
    if (stride > 1) {
        float *pooled;
        CLIPC_TRY(clipc_workspace_floats(workspace, &pooled, b * h_out * w_out * planes));
        clipc_avg_pool2d_forward(pooled, second, stride, b, h, w, planes);
        inner = pooled;
    }
    if (block->downsample.oc != 0) {
        const float *shortcut = x;
        if (stride > 1) {
            float *pooled;
            CLIPC_TRY(clipc_workspace_floats(workspace, &pooled, b * h_out * w_out * ic));
            clipc_avg_pool2d_forward(pooled, x, stride, b, h, w, ic);
            shortcut = pooled;
        }
        /* Straight into y, to which conv3 then adds. */
        CLIPC_TRY(clipc_conv2d_forward(workspace, y, shortcut, NULL, &block->downsample,
                                       CLIPC_ACTIVATION_NONE, b, h_out, w_out));
        identity = y;
    }
    CLIPC_TRY(clipc_conv2d_forward(workspace, y, inner, identity, &block->conv3, CLIPC_ACTIVATION_RELU, b,
                                   h_out, w_out));
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

/* dx: [B, S, S', IC] from dy: [B, S / stride, S' / stride, 4 * planes]; dy is overwritten. */
static clipc_status bottleneck_backward(clipc_workspace *workspace, float *dx, float *dy,
                                        const clipc_bottleneck_tape *tape, size_t b)
{
    const clipc_bottleneck *block = tape->block;
    const size_t planes = block->conv1.oc, ic = block->conv1.ic, oc = block->conv3.oc, stride = block->stride;
    const size_t h = tape->h, w = tape->w, h_out = h / stride, w_out = w / stride;
    const size_t n_inner = b * h * w * planes, n_out = b * h_out * w_out * oc;
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    float *dsecond, *dfirst, *dinner;
    CLIPC_TRY(clipc_workspace_floats(workspace, &dsecond, n_inner));
    CLIPC_TRY(clipc_workspace_floats(workspace, &dfirst, n_inner));

    clipc_activation_backward(dy, dy, tape->y, CLIPC_ACTIVATION_RELU, n_out);
    if (block->downsample.oc == 0) {
        memcpy(dx, dy, n_out * sizeof *dx);
    } else {
        float *dshortcut = dx;
        if (stride > 1) {
            CLIPC_TRY(clipc_workspace_floats(workspace, &dshortcut, b * h_out * w_out * ic));
        }
        CLIPC_TRY(
            clipc_conv2d_backward(workspace, dshortcut, dy, &block->downsample, b, h_out, w_out, false));
        if (stride > 1) {
            clipc_avg_pool2d_backward(dx, dshortcut, stride, b, h, w, ic);
        }
    }
    dinner = stride > 1 ? dfirst : dsecond;
    CLIPC_TRY(clipc_conv2d_backward(workspace, dinner, dy, &block->conv3, b, h_out, w_out, false));
    if (stride > 1) {
        clipc_avg_pool2d_backward(dsecond, dinner, stride, b, h, w, planes);
    }
    clipc_activation_backward(dsecond, dsecond, tape->second, CLIPC_ACTIVATION_RELU, n_inner);
    CLIPC_TRY(clipc_conv2d_backward(workspace, dfirst, dsecond, &block->conv2, b, h, w, false));
    clipc_activation_backward(dfirst, dfirst, tape->first, CLIPC_ACTIVATION_RELU, n_inner);
    CLIPC_TRY(clipc_conv2d_backward(workspace, dx, dfirst, &block->conv1, b, h, w, true));
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

/* Floats of the largest map between two blocks: layer1's output, 4 * width channels at H / 4 x W / 4. */
static size_t largest_map(const clipc_modified_resnet *resnet, size_t h, size_t w)
{
    return h / 4 * (w / 4) * 4 * resnet->width;
}

static bool is_behind(clipc_resnet_layer layer, clipc_resnet_layer target)
{
    return layer.stage > target.stage || (layer.stage == target.stage && layer.block > target.block);
}

static clipc_status new_tape(clipc_workspace *workspace, clipc_modified_resnet_tape *tape,
                             const clipc_modified_resnet *resnet, size_t b, size_t h, size_t w)
{
    void *memory;
    size_t behind = 0;
    for (size_t stage = tape->target.stage; stage < 4; stage++) {
        behind += resnet->n_blocks[stage];
    }
    behind -= tape->target.block + 1;
    CLIPC_TRY(clipc_workspace_alloc(workspace, &memory, behind + 1, sizeof *tape->blocks));
    tape->blocks = memory;
    tape->n_blocks = 0;
    tape->b = b;
    tape->gh = h / 32;
    tape->gw = w / 32;
    return CLIPC_OK;
}

/* One block; `tape` is NULL where nothing is kept of it. Its scratch is released, what is kept is not.
 * *y: the output, `spare` or, with a tape, a new array. */
static clipc_status run_block(clipc_workspace *workspace, float **y, float *spare, const float *x,
                              const clipc_bottleneck *block, size_t b, size_t h, size_t w,
                              clipc_bottleneck_tape *tape)
{
    const size_t n = b * h * w * block->conv1.oc;
    const size_t n_out = b * (h / block->stride) * (w / block->stride) * block->conv3.oc;
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    float *first, *second;
    CLIPC_TRY(clipc_workspace_poll(workspace));
    CLIPC_TRY(clipc_workspace_floats(workspace, &first, n));
    CLIPC_TRY(clipc_workspace_floats(workspace, &second, n));
    *y = spare;
    if (tape != NULL) {
        CLIPC_TRY(clipc_workspace_floats(workspace, y, n_out));
        *tape = (clipc_bottleneck_tape){block, first, second, *y, h, w};
    }
    CLIPC_TRY(bottleneck_forward(workspace, *y, first, second, x, block, b, h, w));
    if (tape == NULL) {
        clipc_arena_release(&workspace->arena, mark);
    }
    return CLIPC_OK;
}

/* All blocks. *last: the output of layer4, one of `x` (the stem's output), `spare` and the tape's arrays. */
static clipc_status stages_forward(clipc_workspace *workspace, float **last, float *x, float *spare,
                                   const clipc_modified_resnet *resnet, size_t b, size_t h, size_t w,
                                   clipc_modified_resnet_tape *tape)
{
    for (size_t stage = 0; stage < 4; stage++) {
        for (size_t i = 0; i < resnet->n_blocks[stage]; i++) {
            const clipc_bottleneck *block = &resnet->stages[stage][i];
            const clipc_resnet_layer layer = {stage, i};
            const bool kept = tape != NULL && is_behind(layer, tape->target);
            float *y;
            CLIPC_TRY(run_block(workspace, &y, spare, x, block, b, h, w,
                                kept ? &tape->blocks[tape->n_blocks++] : NULL));
            h /= block->stride;
            w /= block->stride;
            if (tape != NULL && stage == tape->target.stage && i == tape->target.block) {
                tape->a = y;
                tape->h = h;
                tape->w = w;
                tape->c = block->conv3.oc;
            }
            /* The target's activations must not be written over, and nothing behind them uses `spare`. */
            spare = x;
            x = y;
        }
    }
    *last = x;
    return CLIPC_OK;
}

clipc_status clipc_modified_resnet_forward(clipc_workspace *workspace, float *features, const float *images,
                                           const clipc_modified_resnet *resnet, size_t b, size_t h, size_t w,
                                           clipc_modified_resnet_tape *tape)
{
    const size_t gh = h / 32, gw = w / 32;
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    float *x, *spare, *last;
    const float *positions;
    CLIPC_TRY(clipc_workspace_floats(workspace, &x, b * largest_map(resnet, h, w)));
    CLIPC_TRY(clipc_workspace_floats(workspace, &spare, b * largest_map(resnet, h, w)));
    if (tape != NULL) {
        CLIPC_TRY(new_tape(workspace, tape, resnet, b, h, w));
    }
    CLIPC_TRY(stem_forward(workspace, x, images, resnet, b, h, w));
    CLIPC_TRY(stages_forward(workspace, &last, x, spare, resnet, b, h / 4, w / 4, tape));
    CLIPC_TRY(clipc_positions_for_grid(workspace, &positions, resnet->attnpool.positional_embedding,
                                       resnet->attnpool.g, gh, gw, resnet->attnpool.c));
    CLIPC_TRY(clipc_attention_pool_forward(workspace, features, last, &resnet->attnpool, positions, gh * gw,
                                           b, tape ? &tape->attnpool : NULL));
    if (tape == NULL) {
        clipc_arena_release(&workspace->arena, mark);
    } else {
        tape->last = last;
    }
    return CLIPC_OK;
}

clipc_status clipc_modified_resnet_backward(clipc_workspace *workspace, float *da, const float *dfeatures,
                                            const clipc_modified_resnet *resnet,
                                            const clipc_modified_resnet_tape *tape)
{
    /* Maps shrink from block to block, so A is the largest that the gradient passes. */
    const size_t largest = tape->b * tape->h * tape->w * tape->c;
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    float *dy = da, *dx = da;
    if (tape->n_blocks > 0) {
        CLIPC_TRY(clipc_workspace_floats(workspace, &dy, largest));
    }
    if (tape->n_blocks > 1) {
        CLIPC_TRY(clipc_workspace_floats(workspace, &dx, largest));
    }
    CLIPC_TRY(clipc_attention_pool_backward(workspace, dy, dfeatures, &resnet->attnpool, tape->gh * tape->gw,
                                            tape->b, &tape->attnpool));
    for (size_t i = tape->n_blocks; i-- > 0;) {
        CLIPC_TRY(clipc_workspace_poll(workspace));
        float *out = i == 0 ? da : dx;
        CLIPC_TRY(bottleneck_backward(workspace, out, dy, &tape->blocks[i], tape->b));
        dx = dy;
        dy = out;
    }
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

clipc_status clipc_modified_resnet_dense_forward(clipc_workspace *workspace, float *features,
                                                 const float *pooled, const clipc_modified_resnet *resnet,
                                                 clipc_dense_kind kind,
                                                 const clipc_modified_resnet_tape *tape)
{
    const clipc_attention_pool *pool = &resnet->attnpool;
    const size_t hw = tape->gh * tape->gw, d = pool->c_proj.weight.n;
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    const float *positions;
    CLIPC_TRY(clipc_positions_for_grid(workspace, &positions, pool->positional_embedding, pool->g, tape->gh,
                                       tape->gw, pool->c));
    if (kind == CLIPC_DENSE_SURGERY) {
        CLIPC_TRY(clipc_attention_pool_surgery_forward(workspace, features, tape->last, pool, positions, hw,
                                                       tape->b));
    }
    for (size_t i = 0; i < tape->b; i++) {
        float *image = features + i * (1 + hw) * d;
        memcpy(image, pooled + i * d, d * sizeof *image);
        if (kind == CLIPC_DENSE_IDENTITY) {
            CLIPC_TRY(clipc_attention_pool_identity_forward(workspace, image + d,
                                                            tape->last + i * hw * pool->c, pool, hw));
        }
    }
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

void clipc_modified_resnet_layer_shape(const clipc_modified_resnet *resnet, clipc_resnet_layer layer,
                                       size_t *h, size_t *w, size_t *c)
{
    *h /= (size_t)4 << layer.stage;
    *w /= (size_t)4 << layer.stage;
    *c = resnet->stages[layer.stage][layer.block].conv3.oc;
}

size_t clipc_modified_resnet_floats_per_image(const clipc_modified_resnet *resnet, size_t h, size_t w)
{
    return 2 * largest_map(resnet, h, w) + h * w * 3 + h / 2 * (w / 2) * 2 * resnet->width;
}

void clipc_modified_resnet_free(clipc_modified_resnet *resnet)
{
    for (size_t i = 0; i < 3; i++) {
        clipc_conv2d_free(&resnet->stem[i]);
    }
    for (size_t stage = 0; stage < 4; stage++) {
        for (size_t i = 0; i < resnet->n_blocks[stage]; i++) {
            clipc_bottleneck *block = &resnet->stages[stage][i];
            clipc_conv2d_free(&block->conv1);
            clipc_conv2d_free(&block->conv2);
            clipc_conv2d_free(&block->conv3);
            clipc_conv2d_free(&block->downsample);
        }
        free(resnet->stages[stage]);
    }
    clipc_attention_pool_free(&resnet->attnpool);
    memset(resnet, 0, sizeof *resnet);
}
