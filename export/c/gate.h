/* Which frames of a stream count: an energy gate, times the caller's voice probability. */
#ifndef W2S_GATE_H
#define W2S_GATE_H

#include <stddef.h>

typedef struct w2s_gate {
    int enabled;
    double open_power, close_power; /* mean square */
    double range;                   /* of the loudest power lately; less does not count. 0 = any */
    double keep;                    /* what is left of the loudest power after a frame */
    size_t hold_frames;
    size_t frame;                   /* samples per frame */
    /* since the last reset */
    int open;
    double loudest;
    size_t below;       /* frames since the power was last above close_power */
    size_t filled;      /* samples in the frame that is being filled */
    double energy;      /* sum of squares in it */
    double probability; /* sum over its samples */
} w2s_gate;

void w2s_gate_reset(w2s_gate *gate);

/* Hear at most one frame's missing samples; returns how many were taken. When this completed the
 * frame, `*weight` becomes its weight, 0..1, else it is -1. */
size_t w2s_gate_push(w2s_gate *gate, const float *samples, size_t n, double probability,
                     double *weight);

#endif
