/* Boxes: how much they overlap, and which of many stay.
 *
 * A box is x0, y0, x1, y1 with x0 <= x1 and y0 <= y1, finite; other boxes are refused. Arithmetic is in
 * double precision.
 *
 *   area(a)    = (x1 - x0) (y1 - y0)
 *   inter      = max(0, min(a.x1, b.x1) - max(a.x0, b.x0)) * max(0, min(a.y1, b.y1) - max(a.y0, b.y0))
 *   iou(a, b)  = inter / (area(a) + area(b) - inter), and 0 when inter is 0
 *
 * so a box without area has IoU 0 with every box, with itself as well.
 */
#ifndef CLIPC_DETECTION_BOXES_H
#define CLIPC_DETECTION_BOXES_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"
#include "core/workspace.h"

/* out[i, j] = iou(a[i], b[j])    a: [n, 4], b: [m, 4], out: [n, m] */
clipc_status clipc_box_iou(clipc_workspace *workspace, float *out, const float *a, size_t n, const float *b,
                           size_t m);

/* Non-maximum suppression. From the highest score down, of equal scores the lower index first: a box stays
 * unless its IoU with one that stays, of its class, is > threshold (as torchvision.ops.nms; its batched_nms
 * separates classes likewise).
 * boxes: [n, 4], scores: [n] finite, classes: [n], any numbers, or NULL for one class
 * kept: [n], the first *n_kept are set: indices of what stays, in that order
 *
 * Time O(n^2) within a class, memory O(n). Polls. */
clipc_status clipc_nms(clipc_workspace *workspace, int64_t *kept, size_t *n_kept, const float *boxes,
                       const float *scores, const int64_t *classes, size_t n, double threshold);

typedef enum {
    CLIPC_SOFT_NMS_GAUSSIAN, /* decay(v) = exp(-v^2 / sigma) */
    CLIPC_SOFT_NMS_LINEAR    /* decay(v) = 1 - v when v > iou, else 1 */
} clipc_soft_nms_kind;

/* Soft-NMS (Bodla et al. 2017, "Soft-NMS - Improving Object Detection With One Line of Code",
 * arXiv 1704.04503). The box of the highest score is taken, of equal scores the one with the lower index; the
 * score of each box of its class that is left becomes score * decay(IoU with it); and so on, until no score
 * is
 * >= threshold. As in the authors' code, the linear decay begins above `iou`; the paper's formula includes
 * it. boxes: [n, 4], scores: [n] finite, classes: [n] or NULL; sigma > 0, threshold >= 0 taken: [n],
 * new_scores: [n], the first *n_taken are set, in the order in which they were taken
 *
 * Time O(n^2), memory O(n). Polls. */
clipc_status clipc_soft_nms(clipc_workspace *workspace, int64_t *taken, float *new_scores, size_t *n_taken,
                            const float *boxes, const float *scores, const int64_t *classes, size_t n,
                            clipc_soft_nms_kind kind, double sigma, double iou, double threshold);

#endif
