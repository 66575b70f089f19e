/* A day of audio through the stream's own logic: set as far as the sums would be by then, with a
 * model that only counts. Prints what failed. */
#include <stdio.h>
#include <string.h>

#include "stream.h"

#define HOP 256
#define DAY_HOPS (24u * 3600u * W2S_SAMPLING_RATE / HOP)

static w2s_status count(void *context, const float *samples, size_t hops, float *weights,
                        float *estimates) {
    (void)context;
    (void)samples;
    (void)weights;
    for (size_t i = 0; i < (weights ? 6 * hops : 3); i++) {
        estimates[i] = 0.5f;
    }
    return W2S_OK;
}

static int day(size_t window, int silence) {
    static float block[3 * HOP];
    static w2s_estimate estimates[4];
    w2s_stream stream;
    size_t written = 0;
    memset(&stream, 0, sizeof stream);
    stream.hop = stream.gate.frame = HOP;
    stream.max_hops = 2;
    stream.window = window;
    stream.gate.enabled = 1;
    stream.gate.open_power = 1e-6;
    stream.gate.close_power = 1e-7;
    stream.gate.hold_frames = 12;
    stream.run = count;
    if (w2s_stream_init(&stream) != W2S_OK) {
        return 1;
    }
    for (size_t i = 0; i < 3 * HOP; i++) {
        block[i] = silence ? 0.0f : 0.1f;
    }
    stream.samples = (uint64_t)DAY_HOPS * HOP;
    stream.counted = (double)DAY_HOPS;
    stream.has_estimate = 1;
    stream.overall_weight = (double)DAY_HOPS;
    stream.overall[0] = 0.25 * (double)DAY_HOPS;
    stream.gate.below = (size_t)-2; /* silent for longer than a counter can hold */
    w2s_status status = w2s_stream_process(&stream, block, 3 * HOP, 1.0, estimates, &written);
    int fine = status == W2S_OK && written == 3;
    for (size_t i = 0; fine && i < written; i++) {
        double counted = (double)DAY_HOPS + (silence ? 0.0 : (double)(i + 1));
        double time = (double)DAY_HOPS + (double)(i + 1);
        fine = estimates[i].time_s == time * HOP / W2S_SAMPLING_RATE &&
               estimates[i].heard_s == counted * HOP / W2S_SAMPLING_RATE;
    }
    if (fine && window && !silence) {
        double target = 0.25 + 0.25 * 3 / (DAY_HOPS + 3.0); /* each hop still counts */
        double found = stream.overall[0] / stream.overall_weight;
        fine = found - target < 1e-12 && target - found < 1e-12;
    }
    if (!fine) {
        printf("FAILED window %zu silence %d\n", window, silence);
    }
    w2s_stream_free(&stream);
    return !fine;
}

int main(void) {
    int failures = day(0, 0) + day(0, 1) + day(4 * HOP, 0) + day(4 * HOP, 1);
    printf("%d failures\n", failures);
    return failures;
}
