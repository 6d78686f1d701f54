#include "nn/positions.h"

#include <math.h>
#include <string.h>

#include "core/threads.h"

#define CUBIC_A (-0.75)

/* The four taps of one output coordinate: rows (or columns) of the grid, and their weights. */
typedef struct {
    size_t index[4];
    float weight[4];
} cubic_taps;

static double cubic(double distance)
{
    const double x = fabs(distance);
    if (x <= 1.0) {
        return ((CUBIC_A + 2.0) * x - (CUBIC_A + 3.0)) * x * x + 1.0;
    }
    return x < 2.0 ? ((CUBIC_A * x - 5.0 * CUBIC_A) * x + 8.0 * CUBIC_A) * x - 4.0 * CUBIC_A : 0.0;
}

/* For coordinate `out` of `n_out`, on a grid of g. */
static cubic_taps taps_at(size_t out, size_t n_out, size_t g)
{
    cubic_taps taps;
    const double at = ((double)out + 0.5) * (double)g / (double)n_out - 0.5, first = floor(at);
    for (int i = 0; i < 4; i++) {
        const double position = first + i - 1;
        taps.weight[i] = (float)cubic(at - position);
        taps.index[i] = position<0.0 ? 0 : position>(double)(g - 1) ? g - 1 : (size_t)position;
    }
    return taps;
}

typedef struct {
    float *out;      /* [GH * GW, C] */
    const float *in; /* [G * G, C] */
    size_t g, gh, gw, c;
} positions_job;

static void positions_task(void *context, size_t cell)
{
    const positions_job *job = context;
    const size_t c = job->c;
    const cubic_taps rows = taps_at(cell / job->gw, job->gh, job->g),
                     columns = taps_at(cell % job->gw, job->gw, job->g);
    float *out = job->out + cell * c;
    memset(out, 0, c * sizeof *out);
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 4; j++) {
            const float *in = job->in + (rows.index[i] * job->g + columns.index[j]) * c;
            const float weight = rows.weight[i] * columns.weight[j];
            for (size_t k = 0; k < c; k++) {
                out[k] += weight * in[k];
            }
        }
    }
}

clipc_status clipc_positions_for_grid(clipc_workspace *workspace, const float **positions,
                                      const float *embedding, size_t g, size_t gh, size_t gw, size_t c)
{
    if (gh == g && gw == g) {
        *positions = embedding;
        return CLIPC_OK;
    }
    float *table;
    CLIPC_TRY(clipc_workspace_floats(workspace, &table, (1 + gh * gw) * c));
    memcpy(table, embedding, c * sizeof *table);
    positions_job job = {table + c, embedding + c, g, gh, gw, c};
    clipc_parallel_for(gh * gw, positions_task, &job);
    *positions = table;
    return CLIPC_OK;
}
