/* CLIP's ModifiedResNet: ResNet-D (He et al. 2018, arXiv 1812.01187) with anti-aliased strides (Zhang 2019,
 * arXiv 1904.11486) and attention pooling. Radford et al. 2021, section 2.4. */
#ifndef CLIPC_MODEL_MODIFIED_RESNET_H
#define CLIPC_MODEL_MODIFIED_RESNET_H

#include "model/config.h"
#include "model/loader.h"
#include "model/transformer.h"

/* y = relu(conv3(pool(relu(conv2(relu(conv1(x)))))) + identity), where `pool` averages stride x stride, and
 * identity is x, or downsample(pool(x)) where the shapes differ. Each convolution holds its BatchNorm. */
typedef struct {
    clipc_conv2d conv1;      /* 1 x 1, IC -> planes */
    clipc_conv2d conv2;      /* 3 x 3, planes -> planes */
    clipc_conv2d conv3;      /* 1 x 1, planes -> 4 * planes */
    clipc_conv2d downsample; /* 1 x 1, IC -> 4 * planes; oc = 0: none */
    size_t stride;
} clipc_bottleneck;

typedef struct {
    clipc_conv2d stem[3];
    clipc_bottleneck *stages[4]; /* layer1 to layer4; [n_blocks] each, owned */
    size_t n_blocks[4];
    clipc_attention_pool attnpool;
    size_t r;
    size_t width;
} clipc_modified_resnet;

clipc_status clipc_modified_resnet_load(clipc_modified_resnet *resnet, const clipc_config *config,
                                        clipc_loader *loader);

/* The output of a block, "layer{stage + 1}.{block}". */
typedef struct {
    size_t stage;
    size_t block;
} clipc_resnet_layer;

/* What the gradient needs of one block: its activations behind each ReLU, which tell where that was open. */
typedef struct {
    const clipc_bottleneck *block;
    float *first;  /* [B, S, S', planes], relu(conv1(x)) */
    float *second; /* [B, S, S', planes], relu(conv2(first)) */
    float *y;      /* [B, S / stride, S' / stride, 4 * planes], the block's output */
    size_t h, w;   /* S, S' */
} clipc_bottleneck_tape;

/* The tape of a forward pass; its arrays lie in the workspace of that pass. The caller sets `target`. */
typedef struct {
    clipc_resnet_layer target;     /* the activations A are kept, and what the gradient behind them needs */
    const float *a;                /* [B, h, w, c] */
    size_t h, w, c;                /* of A */
    clipc_bottleneck_tape *blocks; /* [number of blocks behind the target], in their order */
    size_t n_blocks;
    clipc_attention_pool_tape attnpool;
    float *last; /* [B, H / 32, W / 32, 32 * width], the output of layer4 */
    size_t b;
    size_t gh, gw; /* the grid of `last`: H / 32, W / 32 */
} clipc_modified_resnet_tape;

/* images: [B, 3, H, W], H and W multiples of 32; features: [B, D], not normalised; tape: NULL, or filled in.
 */
clipc_status clipc_modified_resnet_forward(clipc_workspace *workspace, float *features, const float *images,
                                           const clipc_modified_resnet *resnet, size_t b, size_t h, size_t w,
                                           clipc_modified_resnet_tape *tape);

/* From dfeatures: [B, D] to da: [B, h, w, c], the gradient with respect to the target's activations. */
clipc_status clipc_modified_resnet_backward(clipc_workspace *workspace, float *da, const float *dfeatures,
                                            const clipc_modified_resnet *resnet,
                                            const clipc_modified_resnet_tape *tape);

/* Features of every position of layer4, the pooled ones first, as MaskCLIP (`identity`) or CLIP Surgery have
 * them; SCLIP is not defined here. pooled: [B, D], from the forward pass; features: [B, 1 + GH * GW, D] */
clipc_status clipc_modified_resnet_dense_forward(clipc_workspace *workspace, float *features,
                                                 const float *pooled, const clipc_modified_resnet *resnet,
                                                 clipc_dense_kind kind,
                                                 const clipc_modified_resnet_tape *tape);

/* Height, width and channels of a layer. *h, *w: on entry those of the images, a multiple of 32. */
void clipc_modified_resnet_layer_shape(const clipc_modified_resnet *resnet, clipc_resnet_layer layer,
                                       size_t *h, size_t *w, size_t *c);

/* Floats of scratch that one image of H x W needs. */
size_t clipc_modified_resnet_floats_per_image(const clipc_modified_resnet *resnet, size_t h, size_t w);

void clipc_modified_resnet_free(clipc_modified_resnet *resnet);

#endif
