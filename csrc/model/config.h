/* Sizes of a CLIP model, and the letters that shapes are written in.
 *
 *   B images or texts in a batch      T tokens           C width
 *   NH heads                          HS head size       D size of the shared embedding
 *   R image resolution                P patch size       G patches along one side, R / P
 *   H, W height and width             IC, OC channels    M rows, all tokens of a batch together
 */
#ifndef CLIPC_MODEL_CONFIG_H
#define CLIPC_MODEL_CONFIG_H

#include <stddef.h>

#include "core/status.h"
#include "kernels/elementwise.h"

typedef enum { CLIPC_VISION_TRANSFORMER = 0, CLIPC_MODIFIED_RESNET } clipc_vision_kind;

/* Heads on the tokens of the image tower. OWLv2 is OWL-ViT with an objectness head. */
typedef enum { CLIPC_DETECTOR_NONE = 0, CLIPC_DETECTOR_OWLVIT, CLIPC_DETECTOR_OWLV2 } clipc_detector_kind;

typedef struct {
    size_t embed_dim;  /* D */
    size_t image_size; /* R */
    clipc_vision_kind vision;
    size_t vision_layers[4];  /* transformer: [0] only; ModifiedResNet: bottlenecks per stage */
    size_t vision_width;      /* C of the transformer; of the ModifiedResNet the stem's output channels */
    size_t vision_patch_size; /* P, transformer only */
    size_t vision_heads;      /* of the transformer or of the attention pool */
    size_t vision_mlp_width;  /* transformer only */
    size_t context_length;
    size_t vocab_size;
    size_t text_width;
    size_t text_heads;
    size_t text_layers;
    size_t text_mlp_width;
    clipc_activation activation;  /* of the transformers' MLPs */
    clipc_detector_kind detector; /* of vision transformers only */
} clipc_config;

/* Every size is at least 1, small enough that no product of sizes overflows, and divisible where it must be.
 */
clipc_status clipc_config_check(const clipc_config *config, clipc_message *message);

/* Channels of the ModifiedResNet's last stage, 32 * width. */
size_t clipc_resnet_features(const clipc_config *config);

#endif
