/* CLIP's ModifiedResNet: ResNet-D (He et al. 2018, arXiv 1812.01187) with anti-aliased strides (Zhang 2019,
 * arXiv 1904.11486) and attention pooling. Radford et al. 2021, section 2.4. */
#ifndef CLIPC_MODEL_MODIFIED_RESNET_H
#define CLIPC_MODEL_MODIFIED_RESNET_H

#include "model/config.h"
#include "model/loader.h"

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

/* images: [B, 3, R, R], features: [B, D], not normalised. */
clipc_status clipc_modified_resnet_forward(clipc_workspace *workspace, float *features, const float *images,
                                           const clipc_modified_resnet *resnet, size_t b);

/* Floats of scratch that one image needs. */
size_t clipc_modified_resnet_floats_per_image(const clipc_modified_resnet *resnet);

void clipc_modified_resnet_free(clipc_modified_resnet *resnet);

#endif
