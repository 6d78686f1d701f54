#include "model/score.h"

#include <math.h>
#include <string.h>

#include "kernels/elementwise.h"

/* In double precision: a few thousand products, on which everything behind them depends. */
static double dot(const float *a, const float *b, size_t n)
{
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) {
        sum += (double)a[i] * (double)b[i];
    }
    return sum;
}

clipc_status clipc_score_backward(clipc_workspace *workspace, float *value, float *dv, const float *v,
                                  const clipc_score *score, size_t n)
{
    const size_t d = score->d, l = score->l;
    const float *text = score->texts + n * d;
    if (score->kind == CLIPC_SCORE_DOT) {
        *value = (float)((double)score->scale * dot(v, text, d));
        for (size_t i = 0; i < d; i++) {
            dv[i] = score->scale * text[i];
        }
        return CLIPC_OK;
    }
    const double norm = sqrt(dot(v, v, d));
    if (!(norm > 0.0)) {
        return clipc_fail(&workspace->message, CLIPC_ERROR_VALUE,
                          "the features have length %g: their direction, and so the score, is not defined",
                          norm);
    }
    const clipc_arena_mark mark = clipc_arena_get_mark(&workspace->arena);
    float *logits, *weights;
    CLIPC_TRY(clipc_workspace_floats(workspace, &logits, l));
    CLIPC_TRY(clipc_workspace_floats(workspace, &weights, l));
    for (size_t i = 0; i < l; i++) {
        logits[i] = (float)((double)score->scale * dot(v, score->texts + i * d, d) / norm);
    }
    /* weights: dS_n / dlogit_l */
    memset(weights, 0, l * sizeof *weights);
    weights[n] = 1.0f;
    *value = logits[n];
    if (score->kind == CLIPC_SCORE_PROBABILITY) {
        clipc_elementwise()->softmax(logits, l);
        *value = logits[n];
        /* p_n ([l = n] - p_l), with 1 - p_n as the sum of the others: for a confident p_n the difference
         * would be all rounding. */
        weights[n] = 0.0f;
        for (size_t i = 0; i < l; i++) {
            if (i != n) {
                weights[i] = -logits[n] * logits[i];
                weights[n] -= weights[i];
            }
        }
    }
    /* The combination first, then what normalisation leaves of it: all logits share the direction v / |v|. */
    memset(dv, 0, d * sizeof *dv);
    for (size_t i = 0; i < l; i++) {
        for (size_t j = 0; weights[i] != 0.0f && j < d; j++) {
            dv[j] += weights[i] * score->texts[i * d + j];
        }
    }
    const double along = dot(dv, v, d) / (norm * norm), factor = (double)score->scale / norm;
    for (size_t j = 0; j < d; j++) {
        dv[j] = (float)(factor * ((double)dv[j] - along * (double)v[j]));
    }
    clipc_arena_release(&workspace->arena, mark);
    return CLIPC_OK;
}
