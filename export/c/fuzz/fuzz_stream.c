/* Any sequence of block sizes, levels and voice probabilities through the stream's own logic, with
 * a model that only counts: no sample may be lost, no memory overrun, and block sizes must not
 * change what the model gets. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "stream.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

#define HOP 8
#define WINDOW 32
#define BLOCK 63 /* small numbers: many executions per second */
#define RAMP 128 /* samples are 0, 1, .. RAMP - 1, 0, ..: each ramp opens and closes the gate */

typedef struct counter {
    w2s_stream *stream;
    uint64_t hops;
    float expected; /* the next sample */
} counter;

static float after(float sample) {
    return sample == RAMP - 1 ? 0.0f : sample + 1.0f;
}

static w2s_status count_causal(void *context, const float *samples, size_t hops,
                               float *weights, float *estimates) {
    counter *c = (counter *)context;
    if (hops == 0 || hops > c->stream->max_hops) {
        abort();
    }
    for (size_t i = 0; i < hops * HOP; i++) {
        if (samples[i] != c->expected) {
            abort();
        }
        c->expected = after(c->expected);
    }
    for (size_t h = 0; h < hops; h++) {
        if (!(weights[h] >= 0.0f && weights[h] <= 1.0f)) {
            abort();
        }
        for (size_t i = 0; i < 6; i++) {
            estimates[6 * h + i] = (float)(c->hops + h);
        }
    }
    c->hops += hops;
    return W2S_OK;
}

static w2s_status count_window(void *context, const float *samples, size_t n,
                               float *weights, float *estimates) {
    (void)context;
    if (weights || n == 0 || n > WINDOW) {
        abort();
    }
    for (size_t i = 1; i < n; i++) {
        if (samples[i] != after(samples[i - 1])) {
            abort();
        }
    }
    for (size_t i = 0; i < 3; i++) {
        estimates[i] = samples[n - 1];
    }
    return W2S_OK;
}

static void process(const uint8_t *bytes, size_t size, int causal) {
    static w2s_estimate estimates[BLOCK / HOP + 2];
    w2s_stream stream;
    counter context = {&stream, 0, 0.0f};
    float block[BLOCK], next = 0.0f;
    uint64_t pushed = 0;
    memset(&stream, 0, sizeof stream);
    stream.hop = HOP;
    stream.max_hops = 3;
    stream.window = causal ? 0 : WINDOW;
    stream.gate.frame = causal ? HOP : HOP / 2;
    stream.gate.enabled = 1;
    stream.gate.open_power = 4096.0;
    stream.gate.close_power = 256.0;
    stream.gate.range = 0.01;
    stream.gate.keep = 0.9;
    stream.gate.hold_frames = 1;
    stream.run = causal ? count_causal : count_window;
    stream.context = &context;
    if (w2s_stream_init(&stream) != W2S_OK) {
        return;
    }
    for (size_t at = 0; at + 1 < size; at += 2) {
        size_t n = bytes[at] % (BLOCK + 1), count = 0;
        if (n == BLOCK && bytes[at + 1] == 0) {
            w2s_stream_forget(&stream);
            context.expected = next;
            pushed = 0;
            continue;
        }
        size_t room = w2s_stream_room(&stream, n);
        for (size_t i = 0; i < n; i++) {
            block[i] = next;
            next = after(next);
        }
        if (w2s_stream_process(&stream, block, n, bytes[at + 1] / 255.0, estimates, &count) !=
                W2S_OK ||
            count > room) {
            abort();
        }
        pushed += n;
        if (stream.samples != pushed / HOP * HOP || stream.hop_filled != pushed % HOP) {
            abort();
        }
    }
    w2s_stream_free(&stream);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    process(bytes, size, 1);
    process(bytes, size, 0);
    return 0;
}
