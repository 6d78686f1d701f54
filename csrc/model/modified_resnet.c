#include "model/modified_resnet.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/threads.h"
#include "nn/pooling.h"

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
    pool->hw = g * g;
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
    float *out;      /* [B, R, R, 3] */
    const float *in; /* [B, 3, R, R] */
    size_t r;
} interleave_job;

/* One row of pixels of one image: the three channel planes become one. */
static void interleave_task(void *context, size_t index)
{
    const interleave_job *job = context;
    const size_t r = job->r, image = index / r, y = index % r;
    const float *in = job->in + (image * 3 * r + y) * r;
    float *out = job->out + index * r * 3;
    for (size_t x = 0; x < r; x++) {
        out[3 * x] = in[x];
        out[3 * x + 1] = in[r * r + x];
        out[3 * x + 2] = in[2 * r * r + x];
    }
}

/* out = pool(relu(conv3(relu(conv2(relu(conv1(image)))))))   out: [B, R / 4, R / 4, width] */
static clipc_status stem_forward(clipc_workspace *workspace, float *out, const float *images,
                                 const clipc_modified_resnet *resnet, size_t b)
{
    const size_t r = resnet->r, h = r / 2, width = resnet->width;
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    float *pixels, *first, *second, *third;
    CLIPC_TRY(clipc_workspace_floats(workspace, &pixels, b * r * r * 3));
    CLIPC_TRY(clipc_workspace_floats(workspace, &first, b * h * h * width / 2));
    CLIPC_TRY(clipc_workspace_floats(workspace, &second, b * h * h * width / 2));
    CLIPC_TRY(clipc_workspace_floats(workspace, &third, b * h * h * width));

    interleave_job job = {pixels, images, r};
    clipc_parallel_for(b * r, interleave_task, &job);
    CLIPC_TRY(clipc_conv2d_forward(workspace, first, pixels, NULL, &resnet->stem[0], CLIPC_ACTIVATION_RELU, b,
                                   r, r));
    CLIPC_TRY(clipc_conv2d_forward(workspace, second, first, NULL, &resnet->stem[1], CLIPC_ACTIVATION_RELU, b,
                                   h, h));
    CLIPC_TRY(clipc_conv2d_forward(workspace, third, second, NULL, &resnet->stem[2], CLIPC_ACTIVATION_RELU, b,
                                   h, h));
    clipc_avg_pool2d_forward(out, third, 2, b, h, h, width);
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

/* x: [B, S, S, IC], y: [B, S / stride, S / stride, 4 * planes] */
static clipc_status bottleneck_forward(clipc_workspace *workspace, float *y, const float *x,
                                       const clipc_bottleneck *block, size_t b, size_t s)
{
    const size_t planes = block->conv1.oc, ic = block->conv1.ic, stride = block->stride, s_out = s / stride;
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    const float *identity = x;
    float *first, *second;
    CLIPC_TRY(clipc_workspace_floats(workspace, &first, b * s * s * planes));
    CLIPC_TRY(clipc_workspace_floats(workspace, &second, b * s * s * planes));
    CLIPC_TRY(clipc_conv2d_forward(workspace, first, x, NULL, &block->conv1, CLIPC_ACTIVATION_RELU, b, s, s));
    CLIPC_TRY(
        clipc_conv2d_forward(workspace, second, first, NULL, &block->conv2, CLIPC_ACTIVATION_RELU, b, s, s));
    const float *inner = second;
    if (stride > 1) {
        clipc_avg_pool2d_forward(first, second, stride, b, s, s, planes);
        inner = first;
    }
    if (block->downsample.oc != 0) {
        const float *shortcut = x;
        if (stride > 1) {
            float *pooled;
            CLIPC_TRY(clipc_workspace_floats(workspace, &pooled, b * s_out * s_out * ic));
            clipc_avg_pool2d_forward(pooled, x, stride, b, s, s, ic);
            shortcut = pooled;
        }
        /* Straight into y, to which conv3 then adds. */
        CLIPC_TRY(clipc_conv2d_forward(workspace, y, shortcut, NULL, &block->downsample,
                                       CLIPC_ACTIVATION_NONE, b, s_out, s_out));
        identity = y;
    }
    CLIPC_TRY(clipc_conv2d_forward(workspace, y, inner, identity, &block->conv3, CLIPC_ACTIVATION_RELU, b,
                                   s_out, s_out));
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

/* Floats of the largest map between two blocks: layer1's output, 4 * width channels at R / 4. */
static size_t largest_map(const clipc_modified_resnet *resnet)
{
    const size_t s = resnet->r / 4;
    return s * s * 4 * resnet->width;
}

clipc_status clipc_modified_resnet_forward(clipc_workspace *workspace, float *features, const float *images,
                                           const clipc_modified_resnet *resnet, size_t b)
{
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    float *x, *y;
    CLIPC_TRY(clipc_workspace_floats(workspace, &x, b * largest_map(resnet)));
    CLIPC_TRY(clipc_workspace_floats(workspace, &y, b * largest_map(resnet)));
    CLIPC_TRY(stem_forward(workspace, x, images, resnet, b));
    size_t s = resnet->r / 4;
    for (size_t stage = 0; stage < 4; stage++) {
        for (size_t i = 0; i < resnet->n_blocks[stage]; i++) {
            const clipc_bottleneck *block = &resnet->stages[stage][i];
            CLIPC_TRY(clipc_workspace_poll(workspace));
            CLIPC_TRY(bottleneck_forward(workspace, y, x, block, b, s));
            s /= block->stride;
            float *swap = x;
            x = y;
            y = swap;
        }
    }
    CLIPC_TRY(clipc_attention_pool_forward(workspace, features, x, &resnet->attnpool, b));
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

size_t clipc_modified_resnet_floats_per_image(const clipc_modified_resnet *resnet)
{
    const size_t r = resnet->r;
    return 2 * largest_map(resnet) + r * r * 3 + r / 2 * (r / 2) * 2 * resnet->width;
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
