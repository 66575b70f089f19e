/* check_library BUNDLE OTHER_LIBRARY DAMAGED_MODEL: every kind of bad input; prints what failed. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wav2small.h"

static int failures;

static void expect(int condition, const char *what) {
    if (!condition) {
        printf("FAILED %s\n", what);
        failures++;
    }
}
#define EXPECT(condition) expect((condition), #condition)

static void opening(const char *bundle, const char *other, const char *damaged) {
    char message[W2S_MESSAGE_SIZE];
    w2s_model *model = (w2s_model *)message; /* must be set to NULL */
    w2s_options options = w2s_default_options();
    EXPECT(w2s_open(NULL, NULL, &model, message) == W2S_ERROR_ARGUMENT && !model);
    EXPECT(w2s_open(bundle, NULL, NULL, message) == W2S_ERROR_ARGUMENT);
    EXPECT(w2s_open("/nowhere", NULL, &model, message) == W2S_ERROR_MODEL && strstr(message, "/nowhere"));
    EXPECT(w2s_open(damaged, NULL, &model, message) == W2S_ERROR_MODEL && !model && message[0]);
    EXPECT(w2s_open(damaged, NULL, &model, NULL) == W2S_ERROR_MODEL);
    EXPECT(w2s_open_bytes("x", 0, NULL, 0, NULL, &model, message) == W2S_ERROR_ARGUMENT);
    options.library = other;
    EXPECT(w2s_open(bundle, &options, &model, message) == W2S_ERROR_LIBRARY &&
           strstr(message, "OrtGetApiBase"));
    options.library = "/nowhere.so";
    EXPECT(w2s_open(bundle, &options, &model, message) == W2S_ERROR_LIBRARY);
    options = w2s_default_options();
    options.threads = 0;
    EXPECT(w2s_open(bundle, &options, &model, message) == W2S_ERROR_ARGUMENT);
    options = w2s_default_options();
    options.memory_s = (double)NAN;
    EXPECT(w2s_open(bundle, &options, &model, message) == W2S_ERROR_ARGUMENT);
    options = w2s_default_options();
    options.gate_open_db = -70.0;
    EXPECT(w2s_open(bundle, &options, &model, message) == W2S_ERROR_ARGUMENT);
    options = w2s_default_options();
    options.gate_range_db = -1.0;
    EXPECT(w2s_open(bundle, &options, &model, message) == W2S_ERROR_ARGUMENT);
    w2s_close(NULL);
    EXPECT(strcmp(w2s_message(NULL), "") == 0);
    for (int status = W2S_OK; status <= W2S_ERROR_RUN + 1; status++) {
        EXPECT(w2s_status_text((w2s_status)status)[0] != '\0');
    }
}

static void predicting(w2s_model *model, float *signal) {
    w2s_estimate estimate;
    EXPECT(w2s_predict(NULL, signal, 16000, 16000, &estimate) == W2S_ERROR_ARGUMENT);
    EXPECT(w2s_predict(model, NULL, 16000, 16000, &estimate) == W2S_ERROR_ARGUMENT);
    EXPECT(w2s_predict(model, signal, 16000, 16000, NULL) == W2S_ERROR_ARGUMENT);
    EXPECT(w2s_predict(model, signal, 16000, 44100, &estimate) == W2S_ERROR_RATE &&
           strstr(w2s_message(model), "44100"));
    EXPECT(w2s_predict(model, signal, 1599, 16000, &estimate) == W2S_ERROR_SHORT);
    EXPECT(w2s_predict(model, signal, 0, 16000, &estimate) == W2S_ERROR_SHORT);
    EXPECT(w2s_predict(model, signal, 1600, 16000, &estimate) == W2S_OK);
    signal[100] = NAN;
    EXPECT(w2s_predict(model, signal, 16000, 16000, &estimate) == W2S_ERROR_SIGNAL);
    signal[100] = 1e18f;
    EXPECT(w2s_predict(model, signal, 16000, 16000, &estimate) == W2S_ERROR_SIGNAL &&
           strstr(w2s_message(model), "range"));
    {
        float *constant = (float *)malloc(16000 * sizeof *constant);
        for (int i = 0; i < 16000; i++) {
            constant[i] = 0.25f;
        }
        EXPECT(w2s_predict(model, constant, 16000, 16000, &estimate) == W2S_ERROR_SIGNAL &&
               strstr(w2s_message(model), "throughout"));
        free(constant);
    }
    signal[100] = INFINITY;
    EXPECT(w2s_predict(model, signal, 16000, 16000, &estimate) == W2S_ERROR_SIGNAL);
    signal[100] = 0.0f;
}

/* The last estimate of the signal in blocks, after `upset` was pushed at half time. */
static w2s_estimate process(w2s_model *model, float *signal, size_t n, size_t block, int upset) {
    w2s_estimate last, *estimates;
    size_t count = 0;
    memset(&last, 0, sizeof last);
    EXPECT(w2s_stream_reset(model) == W2S_OK);
    estimates = (w2s_estimate *)malloc((w2s_stream_capacity(model, block) + 1) * sizeof *estimates);
    for (size_t at = 0; at < n; at += block) {
        size_t size = n - at < block ? n - at : block;
        size_t room = w2s_stream_capacity(model, size);
        if (upset && at <= n / 2 && at + size > n / 2) {
            float bad[64] = {0};
            bad[33] = NAN;
            EXPECT(w2s_stream_push(model, bad, 64, 16000, -1.0f, NULL, 0, &count) == W2S_ERROR_SIGNAL);
            bad[33] = -1e18f;
            EXPECT(w2s_stream_push(model, bad, 64, 16000, -1.0f, NULL, 0, &count) == W2S_ERROR_SIGNAL);
            EXPECT(w2s_stream_push(model, signal, 64, 8000, -1.0f, NULL, 0, &count) == W2S_ERROR_RATE);
            EXPECT(w2s_stream_push(model, signal, 64, 16000, 2.0f, NULL, 0, &count) == W2S_ERROR_ARGUMENT);
            EXPECT(w2s_stream_push(model, signal, 64, 16000, NAN, NULL, 0, &count) == W2S_ERROR_ARGUMENT);
            EXPECT(w2s_stream_push(model, NULL, 64, 16000, -1.0f, NULL, 0, &count) == W2S_ERROR_ARGUMENT);
            EXPECT(w2s_stream_push(model, signal, n, 16000, -1.0f, &last, 1, &count) == W2S_ERROR_CAPACITY);
            EXPECT(w2s_stream_push(NULL, signal, 64, 16000, -1.0f, NULL, 0, &count) == W2S_ERROR_ARGUMENT);
            EXPECT(w2s_stream_push(model, NULL, 0, 16000, -1.0f, NULL, 0, NULL) == W2S_OK);
        }
        EXPECT(w2s_stream_push(model, signal + at, size, 16000, W2S_NO_VOICE_PROBABILITY, estimates,
                               room ? room : 1, &count) == W2S_OK);
        if (count) {
            last = estimates[count - 1];
        }
    }
    free(estimates);
    return last;
}

static int same(w2s_estimate a, w2s_estimate b) {
    return fabsf(a.arousal - b.arousal) < 1e-5f && fabsf(a.dominance - b.dominance) < 1e-5f &&
           fabsf(a.valence - b.valence) < 1e-5f && fabsf(a.overall[0] - b.overall[0]) < 1e-5f &&
           a.time_s == b.time_s && a.heard_s == b.heard_s;
}

static void streaming(w2s_model *model, float *signal, size_t n) {
    static const size_t blocks[] = {7, 160, 1000, 16000, 96000};
    w2s_estimate at_once = process(model, signal, n, n, 0);
    EXPECT(at_once.time_s > 2.0 && at_once.heard_s > 1.0 && at_once.arousal != 0.0f);
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) {
        EXPECT(same(process(model, signal, n, blocks[i], 0), at_once));
    }
    EXPECT(same(process(model, signal, n, 160, 1), at_once));
    w2s_stream_reset(model);
    EXPECT(w2s_stream_capacity(model, 0) == 0 && w2s_stream_capacity(NULL, 99) == 0);
    EXPECT(w2s_stream_reset(NULL) == W2S_ERROR_ARGUMENT);
}

int main(int argc, char **argv) {
    enum { N = 40000 };
    static float signal[N];
    char message[W2S_MESSAGE_SIZE];
    w2s_model *model = NULL;
    uint32_t random = 1;
    if (argc != 4) {
        return 2;
    }
    for (int i = 0; i < N; i++) {
        random = random * 1664525u + 1013904223u;
        signal[i] = ((float)(random >> 8) / 16777216.0f - 0.5f) * (float)(i % 8000) / 8000.0f;
    }
    opening(argv[1], argv[2], argv[3]);
    w2s_options options = w2s_default_options();
    for (int cycle = 0; cycle < 3; cycle++) {
        if (w2s_open(argv[1], &options, &model, message) != W2S_OK) {
            printf("FAILED open: %s\n", message);
            return 1;
        }
        predicting(model, signal);
        if (cycle < 2) {
            streaming(model, signal, N);
        }
        w2s_close(model);
        options.memory_s = 0.5; /* shorter than most blocks */
    }
    printf("%d failures\n", failures);
    return failures != 0;
}
