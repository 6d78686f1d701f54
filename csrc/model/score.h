/* What is explained: one number S that says how well the features of a picture and of a text agree. */
#ifndef CLIPC_MODEL_SCORE_H
#define CLIPC_MODEL_SCORE_H

#include <stddef.h>

#include "core/workspace.h"

typedef enum {
    CLIPC_SCORE_COSINE = 0, /* S_n = scale * v . t_n / |v|, t_n of length 1 */
    CLIPC_SCORE_DOT,        /* S_n = scale * v . t_n */
    CLIPC_SCORE_PROBABILITY /* S_n = softmax over l of the cosine's S_l, at n */
} clipc_score_kind;

typedef struct {
    clipc_score_kind kind;
    float scale;        /* exp(logit_scale) for the logit */
    const float *texts; /* [L, D]; or one picture, where v is the features of a text */
    size_t l;
    size_t d;
} clipc_score;

/* *value = S_n, dv = dS_n / dv for the features v, not normalised
 *
 *   cosine: dv = scale * (t_n - (t_n . u) u) / |v|,  u = v / |v|       (normalisation and logit)
 *   dot: dv = scale * t_n
 *   probability: dv = sum over l of p_n ([l = n] - p_l) * the cosine's dv_l
 *
 * v, dv: [D], not overlapping. */
clipc_status clipc_score_backward(clipc_workspace *workspace, float *value, float *dv, const float *v,
                                  const clipc_score *score, size_t n);

#endif
