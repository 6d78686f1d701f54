#include "model/clip_model.h"

#include <stdlib.h>

#include "core/memory.h"

/* Scratch that one batch inside an encode may use. Larger batches gain nothing once the weights are read
 * from cache for many rows. */
#define SCRATCH_FLOATS ((size_t)16 << 20)
#define MAX_IMAGES_AT_ONCE 32

static clipc_status load_towers(clipc_model *model, clipc_loader *loader)
{
    float *logit_scale;
    if (model->config.vision == CLIPC_VISION_TRANSFORMER) {
        CLIPC_TRY(clipc_vision_transformer_load(&model->vit, &model->config, loader));
    } else {
        CLIPC_TRY(clipc_modified_resnet_load(&model->resnet, &model->config, loader));
    }
    CLIPC_TRY(clipc_text_transformer_load(&model->text, &model->config, loader));
    CLIPC_TRY(clipc_load_floats(loader, &logit_scale, "", "logit_scale", 0, NULL));
    model->logit_scale = *logit_scale;
    clipc_aligned_free(logit_scale);
    if (model->config.detector == CLIPC_DETECTOR_NONE) {
        return CLIPC_OK;
    }
    return clipc_detection_head_load(&model->detection, &model->config, loader);
}

clipc_status clipc_model_load(clipc_model **model, const clipc_config *config, clipc_loader *loader)
{
    CLIPC_TRY(clipc_config_check(config, loader->message));
    clipc_model *loaded = calloc(1, sizeof *loaded);
    if (loaded == NULL) {
        return clipc_fail_memory(loader->message, sizeof *loaded);
    }
    loaded->config = *config;
    const clipc_status status = load_towers(loaded, loader);
    if (status != CLIPC_OK) {
        clipc_model_free(loaded);
        return status;
    }
    *model = loaded;
    return CLIPC_OK;
}

void clipc_model_free(clipc_model *model)
{
    if (model == NULL) {
        return;
    }
    clipc_vision_transformer_free(&model->vit);
    clipc_modified_resnet_free(&model->resnet);
    clipc_text_transformer_free(&model->text);
    clipc_detection_head_free(&model->detection);
    free(model);
}

size_t clipc_model_image_step(const clipc_model *model)
{
    return model->config.vision == CLIPC_VISION_TRANSFORMER ? model->config.vision_patch_size : 32;
}

static size_t images_at_once(const clipc_model *model, size_t h, size_t w)
{
    const size_t floats = model->config.vision == CLIPC_VISION_TRANSFORMER
                              ? clipc_vision_transformer_floats_per_image(&model->vit, h, w)
                              : clipc_modified_resnet_floats_per_image(&model->resnet, h, w);
    const size_t images = SCRATCH_FLOATS / floats;
    return images < 1 ? 1 : images > MAX_IMAGES_AT_ONCE ? MAX_IMAGES_AT_ONCE : images;
}

clipc_status clipc_model_encode_images(const clipc_model *model, clipc_workspace *workspace, float *features,
                                       const float *images, size_t n, size_t h, size_t w)
{
    const size_t at_once = images_at_once(model, h, w);
    for (size_t i = 0; i < n; i += at_once) {
        const size_t b = n - i < at_once ? n - i : at_once;
        float *out = features + i * model->config.embed_dim;
        const float *in = images + i * 3 * h * w;
        if (model->config.vision == CLIPC_VISION_TRANSFORMER) {
            CLIPC_TRY(clipc_vision_transformer_forward(workspace, out, in, &model->vit, b, h, w, NULL));
        } else {
            CLIPC_TRY(clipc_modified_resnet_forward(workspace, out, in, &model->resnet, b, h, w, NULL));
        }
    }
    return CLIPC_OK;
}

clipc_status clipc_model_detection_outputs(const clipc_model *model, clipc_workspace *workspace,
                                           const clipc_detection_outputs *outputs, const float *image,
                                           size_t h, size_t w)
{
    if (model->config.detector == CLIPC_DETECTOR_NONE) {
        return clipc_fail(&workspace->message, CLIPC_ERROR_VALUE, "the model has no detection head");
    }
    const size_t gh = h / model->vit.p, gw = w / model->vit.p;
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    float *tokens;
    CLIPC_TRY(clipc_workspace_floats(workspace, &tokens, (1 + gh * gw) * model->vit.transformer.c));
    CLIPC_TRY(clipc_vision_transformer_tokens_forward(workspace, tokens, image, &model->vit, 1, h, w));
    CLIPC_TRY(clipc_detection_head_forward(workspace, outputs, tokens, &model->detection, gh, gw));
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

clipc_status clipc_model_encode_texts(const clipc_model *model, clipc_workspace *workspace, float *features,
                                      const int32_t *tokens, size_t n, size_t l)
{
    const clipc_text_transformer *text = &model->text;
    const size_t max_rows = SCRATCH_FLOATS / clipc_transformer_floats_per_row(&text->transformer);
    void *memory;
    CLIPC_TRY(clipc_workspace_alloc(workspace, &memory, n, sizeof(size_t)));
    size_t *ends = memory;
    for (size_t i = 0; i < n; i++) {
        CLIPC_TRY(clipc_text_end_position(&ends[i], text, tokens + i * l, l, i, &workspace->message));
    }
    for (size_t begin = 0, end; begin < n; begin = end) {
        size_t rows = ends[begin] + 1;
        for (end = begin + 1; end < n && rows + ends[end] + 1 <= max_rows; end++) {
            rows += ends[end] + 1;
        }
        CLIPC_TRY(clipc_text_transformer_forward(workspace, features + begin * model->config.embed_dim,
                                                 tokens + begin * l, ends + begin, text, end - begin, l,
                                                 NULL));
    }
    return CLIPC_OK;
}
