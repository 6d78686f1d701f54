#include "model/text_transformer.h"

#include <string.h>

#include "core/memory.h"

clipc_status clipc_text_transformer_load(clipc_text_transformer *text, const clipc_config *config,
                                         clipc_loader *loader)
{
    const size_t c = config->text_width;
    const size_t embedding_shape[2] = {config->vocab_size, c},
                 position_shape[2] = {config->context_length, c};
    text->vocab_size = config->vocab_size;
    text->context_length = config->context_length;
    text->transformer = (clipc_transformer){
        .layers = config->text_layers,
        .c = c,
        .nh = config->text_heads,
        .mlp_width = config->text_mlp_width,
        .activation = config->activation,
        .causal = true,
    };
    CLIPC_TRY(
        clipc_load_floats(loader, &text->token_embedding, "token_embedding.", "weight", 2, embedding_shape));
    CLIPC_TRY(clipc_load_floats(loader, &text->positional_embedding, "", "positional_embedding", 2,
                                position_shape));
    CLIPC_TRY(clipc_transformer_load(&text->transformer, loader, "transformer."));
    CLIPC_TRY(clipc_load_layernorm(loader, &text->ln_final, "ln_final.", c));
    return clipc_load_projection(loader, &text->text_projection, "text_projection", c, config->embed_dim);
}

clipc_status clipc_text_end_position(size_t *position, const clipc_text_transformer *text,
                                     const int32_t *tokens, size_t l, size_t row, clipc_message *message)
{
    size_t largest = 0;
    for (size_t i = 0; i < l; i++) {
        if (tokens[i] < 0 || (size_t)tokens[i] >= text->vocab_size) {
            return clipc_fail(message, CLIPC_ERROR_VALUE, "tokens[%zu, %zu]: expected 0 to %zu, got %ld", row,
                              i, text->vocab_size - 1, (long)tokens[i]);
        }
        largest = tokens[i] > tokens[largest] ? i : largest;
    }
    if ((size_t)tokens[largest] != text->vocab_size - 1) {
        return clipc_fail(message, CLIPC_ERROR_VALUE, "tokens[%zu]: the end token, %zu, is missing", row,
                          text->vocab_size - 1);
    }
    *position = largest;
    return CLIPC_OK;
}

clipc_status clipc_text_transformer_forward(clipc_workspace *workspace, float *features,
                                            const int32_t *tokens, const size_t *ends,
                                            const clipc_text_transformer *text, size_t b, size_t l,
                                            clipc_text_transformer_tape *tape)
{
    const size_t c = text->transformer.c;
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    void *memory;
    CLIPC_TRY(clipc_workspace_alloc(workspace, &memory, b + 1, sizeof(size_t)));
    size_t *offsets = memory;
    CLIPC_TRY(clipc_workspace_alloc(workspace, &memory, b, sizeof(size_t)));
    size_t *last_rows = memory;
    offsets[0] = 0;
    for (size_t i = 0; i < b; i++) {
        offsets[i + 1] = offsets[i] + ends[i] + 1;
        last_rows[i] = offsets[i + 1] - 1;
    }
    float *x, *pooled;
    clipc_pooled_tape pooled_tape;
    CLIPC_TRY(clipc_workspace_floats(workspace, &x, offsets[b] * c));
    CLIPC_TRY(clipc_workspace_floats(workspace, &pooled, b * c));
    for (size_t i = 0; i < b; i++) {
        for (size_t t = 0; t <= ends[i]; t++) {
            const float *embedding = text->token_embedding + (size_t)tokens[i * l + t] * c;
            const float *position = text->positional_embedding + t * c;
            float *row = x + (offsets[i] + t) * c;
            for (size_t j = 0; j < c; j++) {
                row[j] = embedding[j] + position[j];
            }
        }
    }
    CLIPC_TRY(clipc_transformer_forward(workspace, pooled, x, &text->transformer, offsets, last_rows, b,
                                        tape ? &tape->transformer : NULL));
    CLIPC_TRY(clipc_pooled_forward(workspace, features, pooled, &text->ln_final, &text->text_projection, b,
                                   &pooled_tape));
    if (tape == NULL) {
        clipc_arena_release(&workspace->arena, mark);
        return CLIPC_OK;
    }
    tape->pooled = pooled_tape;
    return CLIPC_OK;
}

clipc_status clipc_text_transformer_backward(clipc_workspace *workspace,
                                             const clipc_transformer_target *target, const float *dfeatures,
                                             const clipc_text_transformer *text,
                                             const clipc_text_transformer_tape *tape)
{
    const size_t b = tape->transformer.b, c = text->transformer.c;
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    float *dpooled;
    CLIPC_TRY(clipc_workspace_floats(workspace, &dpooled, b * c));
    CLIPC_TRY(clipc_pooled_backward(workspace, dpooled, dfeatures, &text->ln_final, &text->text_projection, b,
                                    &tape->pooled));
    CLIPC_TRY(clipc_transformer_backward(workspace, target, dpooled, &text->transformer, &tape->transformer));
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}

void clipc_text_known_tokens(unsigned char *known, const clipc_text_transformer *text)
{
    const size_t c = text->transformer.c;
    for (size_t i = 0; i < text->vocab_size; i++) {
        const float *row = text->token_embedding + i * c;
        known[i] = 0;
        for (size_t j = 0; j < c && !known[i]; j++) {
            known[i] = row[j] != 0.0f;
        }
    }
}

void clipc_text_transformer_free(clipc_text_transformer *text)
{
    clipc_aligned_free(text->token_embedding);
    clipc_aligned_free(text->positional_embedding);
    clipc_transformer_free(&text->transformer);
    clipc_layernorm_free(&text->ln_final);
    clipc_linear_free(&text->text_projection);
    memset(text, 0, sizeof *text);
}
