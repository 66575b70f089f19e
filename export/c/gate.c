#include "gate.h"

void w2s_gate_reset(w2s_gate *gate) {
    gate->open = 0;
    gate->loudest = 0.0;
    gate->below = 0;
    gate->filled = 0;
    gate->energy = 0.0;
    gate->probability = 0.0;
}

static int is_open(w2s_gate *gate, double power) {
    double faded = gate->loudest * gate->keep;
    gate->loudest = power > faded ? power : faded;
    double level = gate->loudest * gate->range;
    level = level > gate->open_power ? level : gate->open_power;
    if (power >= level) {
        gate->open = 1;
    }
    gate->below =
        power >= level * (gate->close_power / gate->open_power) ? 0 : gate->below + 1;
    if (gate->below > gate->hold_frames) {
        gate->open = 0;
        gate->below = gate->hold_frames + 1; /* must not overflow in years of silence */
    }
    return gate->open;
}

size_t w2s_gate_push(w2s_gate *gate, const float *samples, size_t n, double probability,
                     double *weight) {
    size_t taken = gate->frame - gate->filled;
    if (taken > n) {
        taken = n;
    }
    for (size_t i = 0; i < taken; i++) {
        gate->energy += (double)samples[i] * (double)samples[i];
    }
    gate->probability += probability * (double)taken;
    gate->filled += taken;
    *weight = -1.0;
    if (gate->filled == gate->frame) {
        double size = (double)gate->frame;
        int open = is_open(gate, gate->energy / size);
        *weight = (open || !gate->enabled) ? gate->probability / size : 0.0;
        gate->filled = 0;
        gate->energy = 0.0;
        gate->probability = 0.0;
    }
    return taken;
}
