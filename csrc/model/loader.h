/* Takes tensors by their OpenAI names from whoever has them, checks them, and packs them into layers. */
#ifndef CLIPC_MODEL_LOADER_H
#define CLIPC_MODEL_LOADER_H

#include <stddef.h>

#include "core/status.h"
#include "nn/attention_pool.h"
#include "nn/conv2d.h"
#include "nn/layernorm.h"
#include "nn/linear.h"

typedef enum { CLIPC_FLOAT32 = 0, CLIPC_FLOAT16, CLIPC_BFLOAT16 } clipc_dtype;

#define CLIPC_MAX_RANK 4

/* C-contiguous. `data` belongs to the source and is valid until the next fetch. */
typedef struct {
    clipc_dtype dtype;
    int rank;
    size_t shape[CLIPC_MAX_RANK];
    const void *data;
} clipc_tensor_view;

/* Finds the tensor of this name. A failure stops the loading with its status and message. */
typedef clipc_status (*clipc_fetch)(void *source, const char *name, clipc_tensor_view *tensor,
                                    clipc_message *message);

typedef struct {
    clipc_fetch fetch;
    void *source;
    clipc_message *message;
} clipc_loader;

/* The loaders below put `prefix`, which ends with a dot, before the names of the layer's tensors, and fail
 * with "visual.conv1.weight: expected [768, 3, 32, 32], got [768, 3, 16, 16]" when a shape differs. Layers
 * start zeroed; what a failed loader has filled in is freed by the layer's own *_free. */

/* *out: a new aligned array of float32 with the tensor {prefix}{name}, owned by the caller. */
clipc_status clipc_load_floats(clipc_loader *loader, float **out, const char *prefix, const char *name,
                               int rank, const size_t *shape);

/* {prefix}weight: [OC, C], {prefix}bias: [OC] */
clipc_status clipc_load_linear(clipc_loader *loader, clipc_linear *linear, const char *prefix, size_t oc,
                               size_t c);

/* {prefix}in_proj_weight: [3C, C], {prefix}in_proj_bias: [3C] */
clipc_status clipc_load_in_proj(clipc_loader *loader, clipc_linear *linear, const char *prefix, size_t c);

/* The tensor `name`: [C, D], which CLIP applies as x @ projection; packed as its transpose. No bias. */
clipc_status clipc_load_projection(clipc_loader *loader, clipc_linear *linear, const char *name, size_t c,
                                   size_t d);

clipc_status clipc_load_layernorm(clipc_loader *loader, clipc_layernorm *layernorm, const char *prefix,
                                  size_t c);

/* {conv}weight: [OC, IC, K, K] without bias, and the BatchNorm behind it, {batchnorm}weight (gamma), bias
 * (beta), running_mean and running_var, folded into one layer:
 *   W' = W s,  b' = beta - mean s,  s = gamma / sqrt(variance + 1e-5)
 * The sizes in `layer` are set by the caller. */
clipc_status clipc_load_conv_batchnorm(clipc_loader *loader, clipc_conv2d *layer, const char *conv,
                                       const char *batchnorm);

#endif
