#include "model/explanation.h"

#include <string.h>

static bool is_vit(const clipc_model *model)
{
    return model->config.vision == CLIPC_VISION_TRANSFORMER;
}

clipc_status clipc_target_layer_check(const clipc_model *model, clipc_target_layer layer,
                                      clipc_message *message)
{
    const size_t stages = is_vit(model) ? 1 : 4;
    if (layer.stage >= stages || layer.block >= model->config.vision_layers[layer.stage]) {
        return clipc_fail(message, CLIPC_ERROR_VALUE, "layer: the model has no block %zu in stage %zu",
                          layer.block, layer.stage);
    }
    return CLIPC_OK;
}

void clipc_target_layer_shape(const clipc_model *model, clipc_target_layer layer, size_t h, size_t w,
                              size_t *gh, size_t *gw, size_t *c)
{
    *gh = h;
    *gw = w;
    if (is_vit(model)) {
        *gh /= model->vit.p;
        *gw /= model->vit.p;
        *c = model->vit.transformer.c;
    } else {
        clipc_modified_resnet_layer_shape(&model->resnet, layer, gh, gw, c);
    }
}

/* ---- one forward pass, and a backward pass for each text ------------------------------------------- */

typedef struct {
    const clipc_model *model;
    float *features;  /* [D] */
    float *dfeatures; /* [D] */
    clipc_modified_resnet_tape resnet;
    clipc_vision_transformer_tape vit;
} explained_image;

static clipc_status explain_forward(clipc_workspace *workspace, explained_image *explained,
                                    const clipc_model *model, const float *image, size_t h, size_t w,
                                    clipc_target_layer layer, bool gradients)
{
    explained->model = model;
    CLIPC_TRY(clipc_workspace_floats(workspace, &explained->features, model->config.embed_dim));
    CLIPC_TRY(clipc_workspace_floats(workspace, &explained->dfeatures, model->config.embed_dim));
    if (is_vit(model)) {
        explained->vit.transformer.first = layer.block;
        explained->vit.transformer.gradients = gradients;
        return clipc_vision_transformer_forward(workspace, explained->features, image, &model->vit, 1, h, w,
                                                &explained->vit);
    }
    explained->resnet.target = layer;
    return clipc_modified_resnet_forward(workspace, explained->features, image, &model->resnet, 1, h, w,
                                         &explained->resnet);
}

/* The activations of the target layer   activations: [GH * GW, C] */
static void copy_activations(float *activations, const explained_image *explained, clipc_target_layer layer)
{
    const clipc_modified_resnet_tape *resnet = &explained->resnet;
    if (!is_vit(explained->model)) {
        memcpy(activations, resnet->a, resnet->h * resnet->w * resnet->c * sizeof *activations);
        return;
    }
    const clipc_layernorm *ln_1 = &explained->model->vit.transformer.blocks[layer.block].ln_1;
    clipc_layernorm_forward(activations, NULL, NULL,
                            explained->vit.transformer.blocks[layer.block].x + ln_1->c, ln_1,
                            explained->vit.tokens - 1);
}

/* gradients: [GH * GW, C] from explained->dfeatures */
static clipc_status layer_backward(clipc_workspace *workspace, float *gradients,
                                   const explained_image *explained, clipc_target_layer layer)
{
    if (!is_vit(explained->model)) {
        return clipc_modified_resnet_backward(workspace, gradients, explained->dfeatures,
                                              &explained->model->resnet, &explained->resnet);
    }
    const size_t c = explained->model->vit.transformer.c, t = explained->vit.tokens;
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    clipc_transformer_target target = {.block = layer.block};
    CLIPC_TRY(clipc_workspace_floats(workspace, &target.dln_1, t * c));
    CLIPC_TRY(clipc_vision_transformer_backward(workspace, &target, explained->dfeatures,
                                                &explained->model->vit, &explained->vit));
    memcpy(gradients, target.dln_1 + c, (t - 1) * c * sizeof *gradients);
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

clipc_status clipc_model_layer_gradients(const clipc_model *model, clipc_workspace *workspace, float *values,
                                         float *activations, float *gradients, const float *image, size_t h,
                                         size_t w, clipc_target_layer layer, const clipc_score *score,
                                         const size_t *targets, size_t n)
{
    size_t gh, gw, c;
    explained_image explained = {.model = NULL};
    CLIPC_TRY(clipc_target_layer_check(model, layer, &workspace->message));
    clipc_target_layer_shape(model, layer, h, w, &gh, &gw, &c);
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    CLIPC_TRY(explain_forward(workspace, &explained, model, image, h, w, layer, n > 0));
    copy_activations(activations, &explained, layer);
    for (size_t i = 0; i < n; i++) {
        CLIPC_TRY(clipc_score_backward(workspace, &values[i], explained.dfeatures, explained.features, score,
                                       targets[i]));
        CLIPC_TRY(layer_backward(workspace, gradients + i * gh * gw * c, &explained, layer));
    }
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

/* ---- maps from activations and gradients ----------------------------------------------------------- */

/* weights[c] = the sum over the positions of what a method makes of G (and the sum of A)   weights: [C] */
static void channel_weights(float *weights, const float *sums_of_a, const float *g, clipc_cam_kind kind,
                            size_t hw, size_t c)
{
    memset(weights, 0, c * sizeof *weights);
    for (size_t i = 0; i < hw; i++) {
        const float *row = g + i * c;
        if (kind == CLIPC_GRAD_CAM) {
            for (size_t j = 0; j < c; j++) {
                weights[j] += row[j] / (float)hw;
            }
            continue;
        }
        for (size_t j = 0; j < c; j++) {
            const float denominator = 2.0f + row[j] * sums_of_a[j];
            weights[j] += row[j] > 0.0f && denominator != 0.0f ? row[j] / denominator : 0.0f;
        }
    }
}

clipc_status clipc_cam_forward(clipc_workspace *workspace, float *map, const float *a, const float *g,
                               clipc_cam_kind kind, size_t hw, size_t c)
{
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    float *weights, *sums_of_a;
    CLIPC_TRY(clipc_workspace_floats(workspace, &weights, c));
    CLIPC_TRY(clipc_workspace_floats(workspace, &sums_of_a, c));
    memset(sums_of_a, 0, c * sizeof *sums_of_a);
    for (size_t i = 0; i < hw && kind == CLIPC_GRAD_CAM_PP; i++) {
        for (size_t j = 0; j < c; j++) {
            sums_of_a[j] += a[i * c + j];
        }
    }
    const bool by_channel = kind == CLIPC_GRAD_CAM || kind == CLIPC_GRAD_CAM_PP;
    if (by_channel) {
        channel_weights(weights, sums_of_a, g, kind, hw, c);
    }
    for (size_t i = 0; i < hw; i++) {
        const float *row = by_channel ? weights : g + i * c;
        double sum = 0.0; /* thousands of terms that mostly cancel */
        for (size_t j = 0; j < c; j++) {
            const float weight = kind == CLIPC_LAYER_CAM && row[j] < 0.0f ? 0.0f : row[j];
            sum += (double)weight * (double)a[i * c + j];
        }
        map[i] = (float)sum;
    }
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

clipc_status clipc_model_grad_cam(const clipc_model *model, clipc_workspace *workspace, float *values,
                                  float *maps, const float *image, size_t h, size_t w,
                                  clipc_target_layer layer, clipc_cam_kind kind, const clipc_score *score,
                                  const size_t *targets, size_t n)
{
    size_t gh, gw, c;
    explained_image explained = {.model = NULL};
    float *activations, *gradients;
    CLIPC_TRY(clipc_target_layer_check(model, layer, &workspace->message));
    clipc_target_layer_shape(model, layer, h, w, &gh, &gw, &c);
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    CLIPC_TRY(clipc_workspace_floats(workspace, &activations, gh * gw * c));
    CLIPC_TRY(clipc_workspace_floats(workspace, &gradients, gh * gw * c));
    CLIPC_TRY(explain_forward(workspace, &explained, model, image, h, w, layer, true));
    copy_activations(activations, &explained, layer);
    for (size_t i = 0; i < n; i++) {
        CLIPC_TRY(clipc_score_backward(workspace, &values[i], explained.dfeatures, explained.features, score,
                                       targets[i]));
        CLIPC_TRY(layer_backward(workspace, gradients, &explained, layer));
        CLIPC_TRY(clipc_cam_forward(workspace, maps + i * gh * gw, activations, gradients, kind, gh * gw, c));
    }
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

/* ---- attention ------------------------------------------------------------------------------------- */

static clipc_status require_vit(const clipc_model *model, const char *method, clipc_message *message)
{
    if (!is_vit(model)) {
        return clipc_fail(message, CLIPC_ERROR_VALUE,
                          "%s: expected a vision transformer, got a ModifiedResNet", method);
    }
    return CLIPC_OK;
}

clipc_status clipc_model_relevance(const clipc_model *model, clipc_workspace *workspace, float *values,
                                   float *maps, const float *image, size_t h, size_t w, size_t first,
                                   const clipc_score *score, const size_t *targets, size_t n)
{
    explained_image explained = {.model = NULL};
    const clipc_target_layer layer = {0, first};
    clipc_transformer_target target = {.block = first};
    CLIPC_TRY(require_vit(model, "relevance", &workspace->message));
    CLIPC_TRY(clipc_target_layer_check(model, layer, &workspace->message));
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    CLIPC_TRY(explain_forward(workspace, &explained, model, image, h, w, layer, true));
    const size_t t = explained.vit.tokens;
    CLIPC_TRY(clipc_workspace_floats(workspace, &target.relevance, t));
    for (size_t i = 0; i < n; i++) {
        CLIPC_TRY(clipc_score_backward(workspace, &values[i], explained.dfeatures, explained.features, score,
                                       targets[i]));
        CLIPC_TRY(clipc_vision_transformer_backward(workspace, &target, explained.dfeatures, &model->vit,
                                                    &explained.vit));
        memcpy(maps + i * (t - 1), target.relevance + 1, (t - 1) * sizeof *maps);
    }
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

clipc_status clipc_model_rollout(const clipc_model *model, clipc_workspace *workspace, float *map,
                                 const float *image, size_t h, size_t w)
{
    explained_image explained = {.model = NULL};
    float *relevance;
    CLIPC_TRY(require_vit(model, "rollout", &workspace->message));
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    CLIPC_TRY(explain_forward(workspace, &explained, model, image, h, w, (clipc_target_layer){0, 0}, false));
    CLIPC_TRY(clipc_workspace_floats(workspace, &relevance, explained.vit.tokens));
    CLIPC_TRY(
        clipc_transformer_rollout(workspace, relevance, &model->vit.transformer, &explained.vit.transformer));
    memcpy(map, relevance + 1, (explained.vit.tokens - 1) * sizeof *map);
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

clipc_status clipc_model_text_relevance(const clipc_model *model, clipc_workspace *workspace, float *value,
                                        float *relevance, const int32_t *tokens, size_t l, size_t first,
                                        const clipc_score *score)
{
    const clipc_text_transformer *text = &model->text;
    size_t end;
    if (first >= text->transformer.layers) {
        return clipc_fail(&workspace->message, CLIPC_ERROR_VALUE,
                          "first: expected a block before %zu, got %zu", text->transformer.layers, first);
    }
    CLIPC_TRY(clipc_text_end_position(&end, text, tokens, l, 0, &workspace->message));
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    clipc_text_transformer_tape tape = {.transformer = {.first = first, .gradients = true}};
    clipc_transformer_target target = {.block = first, .relevance = relevance};
    float *features, *dfeatures;
    CLIPC_TRY(clipc_workspace_floats(workspace, &features, model->config.embed_dim));
    CLIPC_TRY(clipc_workspace_floats(workspace, &dfeatures, model->config.embed_dim));
    CLIPC_TRY(clipc_text_transformer_forward(workspace, features, tokens, &end, text, 1, l, &tape));
    CLIPC_TRY(clipc_score_backward(workspace, value, dfeatures, features, score, 0));
    memset(relevance, 0, l * sizeof *relevance);
    CLIPC_TRY(clipc_text_transformer_backward(workspace, &target, dfeatures, text, &tape));
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

/* ---- dense features -------------------------------------------------------------------------------- */

clipc_status clipc_model_dense_features(const clipc_model *model, clipc_workspace *workspace, float *features,
                                        const float *image, size_t h, size_t w, clipc_dense_kind kind)
{
    explained_image explained = {.model = NULL};
    clipc_target_layer layer = {0, 0};
    if (is_vit(model)) {
        layer.block = clipc_transformer_dense_first(&model->vit.transformer, kind);
    } else if (kind == CLIPC_DENSE_SCLIP) {
        return require_vit(model, "sclip", &workspace->message);
    } else {
        layer = (clipc_target_layer){3, model->config.vision_layers[3] - 1};
    }
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    CLIPC_TRY(explain_forward(workspace, &explained, model, image, h, w, layer, false));
    if (is_vit(model)) {
        CLIPC_TRY(
            clipc_vision_transformer_dense_forward(workspace, features, &model->vit, kind, &explained.vit));
    } else {
        CLIPC_TRY(clipc_modified_resnet_dense_forward(workspace, features, explained.features, &model->resnet,
                                                      kind, &explained.resnet));
    }
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}
