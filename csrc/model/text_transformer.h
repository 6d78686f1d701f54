/* CLIP's text encoder: a causal transformer that is read at the end token. */
#ifndef CLIPC_MODEL_TEXT_TRANSFORMER_H
#define CLIPC_MODEL_TEXT_TRANSFORMER_H

#include <stdint.h>

#include "model/config.h"
#include "model/transformer.h"

typedef struct {
    float *token_embedding;      /* [vocab_size, C], owned */
    float *positional_embedding; /* [context_length, C], owned */
    clipc_transformer transformer;
    clipc_layernorm ln_final;
    clipc_linear text_projection; /* [D, C], no bias */
    size_t vocab_size;
    size_t context_length;
} clipc_text_transformer;

clipc_status clipc_text_transformer_load(clipc_text_transformer *text, const clipc_config *config,
                                         clipc_loader *loader);

/* The position of the end token: the first one with the largest id, which must be vocab_size - 1.
 * tokens: [L] with ids from 0 to vocab_size - 1; `row` names the text in messages. */
clipc_status clipc_text_end_position(size_t *position, const clipc_text_transformer *text,
                                     const int32_t *tokens, size_t l, size_t row, clipc_message *message);

/* What the backward pass reads; its arrays lie in the workspace of the forward pass. */
typedef struct {
    clipc_transformer_tape transformer;
    clipc_pooled_tape pooled;
} clipc_text_transformer_tape;

/* features = text_projection(ln_final(transformer(token_embedding[tokens] + positions))[end token])
 * tokens: [B, L]; ends: [B], positions of the end tokens; features: [B, D], not normalised; tape: NULL, or
 * filled in. Behind the end token nothing can reach it (the mask is causal), so each text runs to its own
 * end. */
clipc_status clipc_text_transformer_forward(clipc_workspace *workspace, float *features,
                                            const int32_t *tokens, const size_t *ends,
                                            const clipc_text_transformer *text, size_t b, size_t l,
                                            clipc_text_transformer_tape *tape);

/* The row of each text's end token in Chefer's R   dfeatures: [B, D], relevance: [M], M the tokens of all
 * texts */
clipc_status clipc_text_transformer_backward(clipc_workspace *workspace,
                                             const clipc_transformer_target *target, const float *dfeatures,
                                             const clipc_text_transformer *text,
                                             const clipc_text_transformer_tape *tape);

/* known[i] = 1 unless the embedding of token i is all zeros   known: [vocab_size] */
void clipc_text_known_tokens(unsigned char *known, const clipc_text_transformer *text);

void clipc_text_transformer_free(clipc_text_transformer *text);

#endif
