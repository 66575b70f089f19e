#include "wav2small.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "files.h"
#include "options.h"
#include "runtime.h"
#include "stream.h"

#define MIN_SAMPLES 1600
#define MAX_SAMPLE 1e6f /* larger ones overflow; integers that were not scaled are below */
#define GATE_FRAME 160 /* samples, of a model that is not causal */
#define FADE_DB 1.0    /* per second, of the loudest frame */
#define MAX_HOPS 32    /* per run of a causal model: bounds memory */
#define SPOKEN 0.8f    /* probability of speech from which a hop counts */

struct w2s_model {
    w2s_runtime runtime;
    OrtSession *clip;
    OrtSession *causal; /* streaming.onnx */
    w2s_stream stream;
    double log_keep; /* of a hop: -hop / memory */
    float *state[2]; /* now and next; streaming.onnx's `state` */
    double *pool[2];
    size_t state_size, pool_size;
    int voice;       /* it tells which hops hold speech */
    float threshold; /* probability from which they count; 0: all */
    char initial[W2S_MESSAGE_SIZE * 4]; /* "offset:count:value ..." of the state after a reset */
    char message[W2S_MESSAGE_SIZE];
};

const char *w2s_message(const w2s_model *model) {
    return model ? model->message : "";
}

static w2s_status run_window(void *context, const float *samples, size_t n, float *weights,
                             float *estimates) {
    w2s_model *model = (w2s_model *)context;
    (void)weights;
    /* ONNX Runtime only reads inputs, but its interface takes void *. */
    w2s_tensor input = {"signal", 0, (void *)(uintptr_t)samples, n, 2};
    w2s_tensor output = {"logits", 0, estimates, 3, 2};
    return w2s_session_run(&model->runtime, model->clip, &input, 1, &output, 1, model->message);
}

static w2s_status run_causal(void *context, const float *samples, size_t hops, float *weights,
                             float *estimates) {
    w2s_model *model = (w2s_model *)context;
    float speech[MAX_HOPS];
    w2s_tensor inputs[] = {
        {"block", 0, (void *)(uintptr_t)samples, hops * model->stream.hop, 2},
        {"weight", 0, weights, hops, 2},
        {"log_keep", 1, &model->log_keep, 1, 1},
        {"state", 0, model->state[0], model->state_size, 2},
        {"pool", 1, model->pool[0], model->pool_size, 2},
        {"threshold", 0, &model->threshold, 1, 1},
    };
    w2s_tensor outputs[] = {
        {"estimates", 0, estimates, 6 * hops, 2},
        {"next_state", 0, model->state[1], model->state_size, 2},
        {"next_pool", 1, model->pool[1], model->pool_size, 2},
        {"speech", 0, speech, hops, 2},
    };
    const size_t more = model->voice ? 1 : 0;
    w2s_status status = w2s_session_run(&model->runtime, model->causal, inputs, 5 + more, outputs,
                                        3 + more, model->message);
    if (status == W2S_OK) {
        for (size_t h = 0; more && h < hops; h++) {
            weights[h] = speech[h] >= model->threshold ? weights[h] : 0.0f;
        }
        float *state = model->state[0];
        double *pool = model->pool[0];
        model->state[0] = model->state[1];
        model->state[1] = state;
        model->pool[0] = model->pool[1];
        model->pool[1] = pool;
    }
    return status;
}

static w2s_status reset_state(w2s_model *model) {
    char *at = model->initial;
    if (!model->causal) {
        return W2S_OK;
    }
    memset(model->state[0], 0, model->state_size * sizeof(float));
    memset(model->pool[0], 0, model->pool_size * sizeof(double));
    while (*at) {
        char *end = at;
        unsigned long offset = strtoul(at, &end, 10);
        if (end == at || *end != ':' || offset >= model->state_size) {
            return W2S_ERROR_MODEL;
        }
        at = end + 1;
        unsigned long count = strtoul(at, &end, 10);
        if (end == at || *end != ':' || count > model->state_size - offset) {
            return W2S_ERROR_MODEL;
        }
        at = end + 1;
        float value = strtof(at, &end);
        if (end == at) {
            return W2S_ERROR_MODEL;
        }
        for (unsigned long i = 0; i < count; i++) {
            model->state[0][offset + i] = value;
        }
        at = end + strspn(end, " ");
    }
    return W2S_OK;
}

static w2s_status open_causal(w2s_model *model, char *message) {
    w2s_runtime *runtime = &model->runtime;
    char hop[32];
    int64_t state = w2s_session_width(runtime, model->causal, 0, "state", 0);
    int64_t pool = w2s_session_width(runtime, model->causal, 0, "pool", 1);
    if (w2s_session_width(runtime, model->causal, 0, "block", 0) == 0 || state < 1 || pool < 1 ||
        w2s_session_width(runtime, model->causal, 1, "estimates", 0) == 0 ||
        !w2s_session_metadata(runtime, model->causal, "stream_hop", hop, sizeof hop) ||
        !w2s_session_metadata(runtime, model->causal, "stream_initial", model->initial,
                              sizeof model->initial)) {
        w2s_msg(message, "not a streaming model of wav2small; export it with --streaming");
        return W2S_ERROR_MODEL;
    }
    long samples = strtol(hop, NULL, 10);
    if (samples < 1 || samples > W2S_SAMPLING_RATE) {
        w2s_msg(message, "a streaming model with a hop of '%.20s' samples", hop);
        return W2S_ERROR_MODEL;
    }
    model->stream.hop = (size_t)samples;
    model->state_size = (size_t)state;
    model->pool_size = (size_t)pool;
    model->voice = w2s_session_width(runtime, model->causal, 1, "speech", 0) != 0;
    for (int i = 0; i < 2; i++) {
        model->state[i] = (float *)calloc(model->state_size, sizeof(float));
        model->pool[i] = (double *)calloc(model->pool_size, sizeof(double));
        if (!model->state[i] || !model->pool[i]) {
            w2s_msg(message, "out of memory");
            return W2S_ERROR_MEMORY;
        }
    }
    if (reset_state(model) != W2S_OK) {
        w2s_msg(message, "a streaming model with a damaged initial state");
        return W2S_ERROR_MODEL;
    }
    return W2S_OK;
}

static w2s_status open_stream(w2s_model *model, const w2s_options *options, char *message) {
    w2s_stream *stream = &model->stream;
    w2s_gate *gate = &stream->gate;
    stream->context = model;
    stream->max_hops = MAX_HOPS;
    if (model->causal) {
        stream->run = run_causal;
        gate->frame = stream->hop;
        model->log_keep = -(double)stream->hop / (options->memory_s * W2S_SAMPLING_RATE);
    } else {
        stream->run = run_window;
        stream->hop = GATE_FRAME * (size_t)lround(options->hop_s * W2S_SAMPLING_RATE / GATE_FRAME);
        stream->window = (size_t)lround(options->memory_s * W2S_SAMPLING_RATE);
        if (stream->window < stream->hop) {
            w2s_msg(message, "memory_s %g is shorter than hop_s %g", options->memory_s,
                    options->hop_s);
            return W2S_ERROR_ARGUMENT;
        }
        gate->frame = GATE_FRAME;
    }
    int by_voice = options->gate == 1 && model->voice;
    model->threshold = by_voice ? SPOKEN : 0.0f;
    gate->enabled = options->gate != 0 && !by_voice;
    gate->open_power = pow(10.0, options->gate_open_db / 10.0);
    gate->close_power = pow(10.0, options->gate_close_db / 10.0);
    gate->range = pow(10.0, -options->gate_range_db / 10.0);
    gate->keep = pow(10.0, -FADE_DB / 10.0 * (double)gate->frame / W2S_SAMPLING_RATE);
    gate->hold_frames =
        (size_t)lround(options->gate_hold_s * W2S_SAMPLING_RATE / (double)gate->frame);
    if (w2s_stream_init(stream) != W2S_OK) {
        w2s_msg(message, "out of memory");
        return W2S_ERROR_MEMORY;
    }
    return W2S_OK;
}

static w2s_status open_model(w2s_model *model, const void *clip, size_t clip_size,
                             const void *causal, size_t causal_size, const w2s_options *options,
                             char *message) {
    w2s_status status = w2s_runtime_open(&model->runtime, options->library, message);
    if (status == W2S_OK) {
        status = w2s_session_open(&model->runtime, clip, clip_size, options, &model->clip, message);
    }
    if (status == W2S_OK && (w2s_session_width(&model->runtime, model->clip, 0, "signal", 0) != -1 ||
                             w2s_session_width(&model->runtime, model->clip, 1, "logits", 0) != 3)) {
        w2s_msg(message, "not a model of wav2small: needed are input signal [1, samples] and "
                         "output logits [1, 3]");
        status = W2S_ERROR_MODEL;
    }
    if (status == W2S_OK && causal) {
        status = w2s_session_open(&model->runtime, causal, causal_size, options, &model->causal,
                                  message);
        if (status == W2S_OK) {
            status = open_causal(model, message);
        }
    }
    return status == W2S_OK ? open_stream(model, options, message) : status;
}

w2s_status w2s_open_bytes(const void *clip, size_t clip_size, const void *stream,
                          size_t stream_size, const w2s_options *options, w2s_model **model,
                          char *message) {
    w2s_options defaults = w2s_default_options();
    w2s_msg(message, "%s", "");
    if (!model) {
        w2s_msg(message, "model is NULL");
        return W2S_ERROR_ARGUMENT;
    }
    *model = NULL;
    if (!clip || clip_size == 0 || (stream && stream_size == 0)) {
        w2s_msg(message, "a model of 0 bytes");
        return W2S_ERROR_ARGUMENT;
    }
    options = options ? options : &defaults;
    w2s_status status = w2s_check_options(options, message);
    if (status != W2S_OK) {
        return status;
    }
    w2s_model *opened = (w2s_model *)calloc(1, sizeof *opened);
    if (!opened) {
        w2s_msg(message, "out of memory");
        return W2S_ERROR_MEMORY;
    }
    status = open_model(opened, clip, clip_size, stream, stream_size, options, message);
    if (status != W2S_OK) {
        w2s_close(opened);
        return status;
    }
    *model = opened;
    return W2S_OK;
}

w2s_status w2s_open(const char *path, const w2s_options *options, w2s_model **model,
                    char *message) {
    char name[4096];
    size_t clip_size = 0, stream_size = 0;
    void *clip = NULL, *stream = NULL;
    if (model) {
        *model = NULL;
    }
    if (!path || !model) {
        w2s_msg(message, "%s is NULL", path ? "model" : "path");
        return W2S_ERROR_ARGUMENT;
    }
    int folder = w2s_is_folder(path);
    int length = snprintf(name, sizeof name, folder ? "%s/model.onnx" : "%s", path);
    if (length < 0 || (size_t)length >= sizeof name - sizeof "streaming.onnx") {
        w2s_msg(message, "a path of more than 4000 characters");
        return W2S_ERROR_ARGUMENT;
    }
    clip = w2s_read_file(name, &clip_size);
    if (!clip) {
        w2s_msg(message, "%.180s: cannot be read; give a bundle or an .onnx file", name);
        return W2S_ERROR_MODEL;
    }
    if (folder) {
        snprintf(name, sizeof name, "%.4000s/streaming.onnx", path);
        stream = w2s_read_file(name, &stream_size);
    }
    w2s_status status =
        w2s_open_bytes(clip, clip_size, stream, stream_size, options, model, message);
    free(clip);
    free(stream);
    if (status == W2S_ERROR_MODEL && message) {
        char reason[W2S_MESSAGE_SIZE];
        memcpy(reason, message, sizeof reason);
        w2s_msg(message, "%.100s: %.150s", path, reason);
    }
    return status;
}

static w2s_status check_signal(w2s_model *model, const float *samples, size_t n,
                               int sampling_rate) {
    if (!samples && n > 0) {
        w2s_msg(model->message, "samples is NULL");
        return W2S_ERROR_ARGUMENT;
    }
    if (sampling_rate != W2S_SAMPLING_RATE) {
        w2s_msg(model->message, "%d Hz: this model takes %d Hz; resample first", sampling_rate,
                W2S_SAMPLING_RATE);
        return W2S_ERROR_RATE;
    }
    for (size_t i = 0; i < n; i++) {
        if (!(fabsf(samples[i]) <= MAX_SAMPLE)) {
            w2s_msg(model->message, "sample %zu is %s; samples are -1..1", i,
                    isfinite(samples[i]) ? "far out of range" : "NaN or infinite");
            return W2S_ERROR_SIGNAL;
        }
    }
    return W2S_OK;
}

static int is_constant(const float *samples, size_t n) {
    for (size_t i = 1; i < n; i++) {
        if (samples[i] < samples[0] || samples[i] > samples[0]) {
            return 0;
        }
    }
    return 1;
}

w2s_status w2s_predict(w2s_model *model, const float *samples, size_t n, int sampling_rate,
                       w2s_estimate *estimate) {
    float logits[3];
    if (!model) {
        return W2S_ERROR_ARGUMENT;
    }
    if (!estimate) {
        w2s_msg(model->message, "estimate is NULL");
        return W2S_ERROR_ARGUMENT;
    }
    w2s_status status = check_signal(model, samples, n, sampling_rate);
    if (status == W2S_OK && n < MIN_SAMPLES) {
        w2s_msg(model->message, "%zu samples: at least %d are needed (0.1 s)", n, MIN_SAMPLES);
        status = W2S_ERROR_SHORT;
    }
    if (status == W2S_OK && is_constant(samples, n)) {
        w2s_msg(model->message, "%g throughout (digital silence): nothing to estimate",
                (double)samples[0]);
        status = W2S_ERROR_SIGNAL;
    }
    if (status == W2S_OK) {
        status = run_window(model, samples, n, NULL, logits);
    }
    if (status == W2S_OK) {
        estimate->arousal = logits[0];
        estimate->dominance = logits[1];
        estimate->valence = logits[2];
        memcpy(estimate->overall, logits, sizeof logits);
        estimate->time_s = estimate->heard_s = (double)n / W2S_SAMPLING_RATE;
    }
    return status;
}

size_t w2s_stream_capacity(const w2s_model *model, size_t n) {
    return model ? w2s_stream_room(&model->stream, n) : 0;
}

w2s_status w2s_stream_push(w2s_model *model, const float *block, size_t n, int sampling_rate,
                           float voice_probability, w2s_estimate *estimates, size_t capacity,
                           size_t *count) {
    size_t written = 0;
    if (count) {
        *count = 0;
    }
    if (!model) {
        return W2S_ERROR_ARGUMENT;
    }
    w2s_status status = check_signal(model, block, n, sampling_rate);
    if (status != W2S_OK) {
        return status;
    }
    double probability = voice_probability;
    if (voice_probability == W2S_NO_VOICE_PROBABILITY) {
        probability = 1.0;
    } else if (!(probability >= 0.0 && probability <= 1.0)) {
        w2s_msg(model->message, "voice probability %g: 0 to 1", probability);
        return W2S_ERROR_ARGUMENT;
    }
    if ((estimates || capacity) && w2s_stream_room(&model->stream, n) > (estimates ? capacity : 0)) {
        w2s_msg(model->message, "room for %zu estimates, %zu may come; see w2s_stream_capacity",
                estimates ? capacity : 0, w2s_stream_room(&model->stream, n));
        return W2S_ERROR_CAPACITY;
    }
    status = w2s_stream_process(&model->stream, block, n, probability, estimates, &written);
    if (count && estimates) {
        *count = written;
    }
    return status;
}

w2s_status w2s_stream_reset(w2s_model *model) {
    if (!model) {
        return W2S_ERROR_ARGUMENT;
    }
    w2s_stream_forget(&model->stream);
    return reset_state(model);
}

void w2s_close(w2s_model *model) {
    if (!model) {
        return;
    }
    w2s_stream_free(&model->stream);
    for (int i = 0; i < 2; i++) {
        free(model->state[i]);
        free(model->pool[i]);
    }
    if (model->causal) {
        ORT(model->runtime.api, ReleaseSession)(model->causal);
    }
    if (model->clip) {
        ORT(model->runtime.api, ReleaseSession)(model->clip);
    }
    w2s_runtime_close(&model->runtime);
    free(model);
}
