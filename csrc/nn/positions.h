/* Positional embeddings for a grid of another size than the one they were trained for. */
#ifndef CLIPC_NN_POSITIONS_H
#define CLIPC_NN_POSITIONS_H

#include "core/workspace.h"

/* *positions: [1 + GH * GW, C], `embedding`: [1 + G * G, C] brought to a grid of GH x GW. Row 0, the class or
 * mean token's, is kept; the others are interpolated by cubic convolution (Keys 1981) with a = -0.75,
 * half-pixel centres, borders repeated and no antialiasing: torch.nn.functional.interpolate(mode="bicubic"),
 * as transformers' interpolate_pos_encoding calls it. Where GH = GW = G it is `embedding` itself, else
 * scratch. */
clipc_status clipc_positions_for_grid(clipc_workspace *workspace, const float **positions,
                                      const float *embedding, size_t g, size_t gh, size_t gw, size_t c);

#endif
