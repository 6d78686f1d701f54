/* Connected components of a mask. */
#ifndef CLIPC_DETECTION_COMPONENTS_H
#define CLIPC_DETECTION_COMPONENTS_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"
#include "core/workspace.h"

/* labels[y, x] = number of the component that the pixel belongs to, 0 for the background
 * mask: [height, width], 0 or not; labels: [height, width]; *n: components
 *
 * Pixels that touch, diagonally too (8 neighbours), are of one component. Components are numbered 1 to *n in
 * reading order of their first pixels: by row, then by column. Two passes with a union-find structure of
 * provisional numbers (Rosenfeld & Pfaltz 1966; Wu, Otoo & Suzuki 2009, who also make the smaller number the
 * root). Scratch: at most 4 bytes for four pixels. Polls. */
clipc_status clipc_connected_components(clipc_workspace *workspace, int32_t *labels, size_t *n,
                                        const uint8_t *mask, size_t height, size_t width);

#endif
