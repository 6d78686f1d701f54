#include "model/config.h"

/* Widths and counts up to this keep every product of three of them, in bytes, within 64 bits. */
#define LARGEST_SIZE 1000000

size_t clipc_resnet_features(const clipc_config *config)
{
    return 32 * config->vision_width;
}

static clipc_status check_size(const char *name, size_t value, clipc_message *message)
{
    if (value < 1 || value > LARGEST_SIZE) {
        return clipc_fail(message, CLIPC_ERROR_WEIGHTS, "%s: expected 1 to %d, got %zu", name, LARGEST_SIZE,
                          value);
    }
    return CLIPC_OK;
}

static clipc_status check_divides(const char *name, size_t value, const char *divisor_name, size_t divisor,
                                  clipc_message *message)
{
    if (value % divisor != 0) {
        return clipc_fail(message, CLIPC_ERROR_WEIGHTS, "%s: %zu is not a multiple of %s, %zu", name, value,
                          divisor_name, divisor);
    }
    return CLIPC_OK;
}

clipc_status clipc_config_check(const clipc_config *config, clipc_message *message)
{
    const struct {
        const char *name;
        size_t value;
    } common[] = {
        {"embed_dim", config->embed_dim},
        {"image_size", config->image_size},
        {"vision_width", config->vision_width},
        {"vision_heads", config->vision_heads},
        {"context_length", config->context_length},
        {"vocab_size", config->vocab_size},
        {"text_width", config->text_width},
        {"text_heads", config->text_heads},
        {"text_layers", config->text_layers},
        {"text_mlp_width", config->text_mlp_width},
        {"vision_layers", config->vision_layers[0]},
    };
    clipc_status status;
    for (size_t i = 0; i < sizeof common / sizeof common[0]; i++) {
        if ((status = check_size(common[i].name, common[i].value, message)) != CLIPC_OK) {
            return status;
        }
    }
    if ((status = check_divides("text_width", config->text_width, "text_heads", config->text_heads,
                                message)) != CLIPC_OK) {
        return status;
    }
    if (config->vision == CLIPC_VISION_TRANSFORMER) {
        if ((status = check_size("vision_patch_size", config->vision_patch_size, message)) != CLIPC_OK ||
            (status = check_size("vision_mlp_width", config->vision_mlp_width, message)) != CLIPC_OK ||
            (status = check_divides("image_size", config->image_size, "vision_patch_size",
                                    config->vision_patch_size, message)) != CLIPC_OK) {
            return status;
        }
        return check_divides("vision_width", config->vision_width, "vision_heads", config->vision_heads,
                             message);
    }
    if (config->detector != CLIPC_DETECTOR_NONE) {
        return clipc_fail(message, CLIPC_ERROR_WEIGHTS,
                          "a detection head needs a vision transformer, got a ModifiedResNet");
    }
    for (size_t i = 1; i < 4; i++) {
        if ((status = check_size("vision_layers", config->vision_layers[i], message)) != CLIPC_OK) {
            return status;
        }
    }
    if ((status = check_divides("image_size", config->image_size, "the total stride", 32, message)) !=
            CLIPC_OK ||
        (status = check_divides("vision_width", config->vision_width, "the stem's halving", 2, message)) !=
            CLIPC_OK) {
        return status;
    }
    return check_divides("channels of the last stage", clipc_resnet_features(config), "vision_heads",
                         config->vision_heads, message);
}
