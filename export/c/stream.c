#include "stream.h"

#include <stdlib.h>
#include <string.h>

w2s_status w2s_stream_init(w2s_stream *stream) {
    size_t length = stream->window ? 2 * stream->window : stream->max_hops * stream->hop;
    stream->buffer = (float *)calloc(length, sizeof(float));
    stream->weights = (float *)calloc(stream->max_hops, sizeof(float));
    stream->results = (float *)calloc(6 * stream->max_hops, sizeof(float));
    if (!stream->buffer || !stream->weights || !stream->results) {
        w2s_stream_free(stream);
        return W2S_ERROR_MEMORY;
    }
    w2s_stream_forget(stream);
    return W2S_OK;
}

void w2s_stream_free(w2s_stream *stream) {
    free(stream->buffer);
    free(stream->weights);
    free(stream->results);
    stream->buffer = stream->weights = stream->results = NULL;
}

void w2s_stream_forget(w2s_stream *stream) {
    w2s_gate_reset(&stream->gate);
    stream->filled = stream->hop_filled = 0;
    stream->samples = 0;
    stream->counted = stream->hop_counted = 0.0;
    stream->has_estimate = 0;
    stream->overall_weight = 0.0;
    for (int i = 0; i < 3; i++) {
        stream->last[i] = 0.0f;
        stream->overall[i] = 0.0;
    }
}

size_t w2s_stream_room(const w2s_stream *stream, size_t n) {
    return n / stream->hop + (stream->hop_filled + n % stream->hop) / stream->hop;
}

static double seconds(const w2s_stream *stream, double frames) {
    return frames * (double)stream->gate.frame / W2S_SAMPLING_RATE;
}

/* Write an estimate if enough counted. */
static void emit(const w2s_stream *stream, const float *memory, const float *overall,
                 w2s_estimate *estimates, size_t *count) {
    double heard_s = seconds(stream, stream->counted);
    if (heard_s < W2S_STREAM_FIRST_S || !stream->has_estimate) {
        return;
    }
    if (estimates) {
        w2s_estimate *estimate = &estimates[*count];
        estimate->arousal = memory[0];
        estimate->dominance = memory[1];
        estimate->valence = memory[2];
        memcpy(estimate->overall, overall, sizeof estimate->overall);
        estimate->time_s = (double)stream->samples / W2S_SAMPLING_RATE;
        estimate->heard_s = heard_s;
    }
    *count += 1;
}

/* Feed the gate; it may complete several frames, which are summed. */
static double weigh(w2s_stream *stream, const float *samples, size_t n, double probability) {
    double sum = 0.0;
    while (n > 0) {
        double weight = -1.0;
        size_t taken = w2s_gate_push(&stream->gate, samples, n, probability, &weight);
        samples += taken;
        n -= taken;
        if (weight > 0.0) {
            sum += weight;
        }
    }
    return sum;
}

static w2s_status run_causal(w2s_stream *stream, size_t hops, w2s_estimate *estimates,
                             size_t *count) {
    size_t done = hops * stream->hop;
    w2s_status status =
        stream->run(stream->context, stream->buffer, hops, stream->weights, stream->results);
    if (status != W2S_OK) {
        return status;
    }
    for (size_t h = 0; h < hops; h++) {
        const float *result = stream->results + 6 * h;
        stream->samples += stream->hop;
        stream->counted += (double)stream->weights[h];
        stream->has_estimate = 1;
        emit(stream, result, result + 3, estimates, count);
    }
    stream->filled -= done;
    memmove(stream->buffer, stream->buffer + done, stream->filled * sizeof(float));
    return W2S_OK;
}

static w2s_status process_causal(w2s_stream *stream, const float *block, size_t n,
                                 double probability, w2s_estimate *estimates, size_t *count) {
    const size_t hop = stream->hop;
    while (n > 0) {
        size_t taken = hop - stream->hop_filled;
        if (taken > n) {
            taken = n;
        }
        memcpy(stream->buffer + stream->filled, block, taken * sizeof(float));
        stream->hop_counted += weigh(stream, block, taken, probability);
        block += taken;
        n -= taken;
        stream->filled += taken;
        stream->hop_filled += taken;
        size_t hops = stream->filled / hop;
        if (stream->hop_filled == hop) {
            stream->weights[hops - 1] = (float)stream->hop_counted;
            stream->hop_counted = 0.0;
            stream->hop_filled = 0;
        }
        if (hops > 0 && (hops == stream->max_hops || n < hop)) {
            w2s_status status = run_causal(stream, hops, estimates, count);
            if (status != W2S_OK) {
                return status;
            }
        }
    }
    return W2S_OK;
}

static void append(w2s_stream *stream, const float *samples, size_t n) {
    if (stream->filled + n > 2 * stream->window) {
        size_t kept = stream->window;
        memmove(stream->buffer, stream->buffer + stream->filled - kept, kept * sizeof(float));
        stream->filled = kept;
    }
    memcpy(stream->buffer + stream->filled, samples, n * sizeof(float));
    stream->filled += n;
}

static w2s_status run_window(w2s_stream *stream) {
    size_t length = stream->filled < stream->window ? stream->filled : stream->window;
    w2s_status status = stream->run(stream->context, stream->buffer + stream->filled - length,
                                    length, NULL, stream->last);
    if (status != W2S_OK) {
        return status;
    }
    for (int i = 0; i < 3; i++) {
        stream->overall[i] += stream->hop_counted * (double)stream->last[i];
    }
    stream->overall_weight += stream->hop_counted;
    stream->has_estimate = 1;
    return W2S_OK;
}

static w2s_status process_window(w2s_stream *stream, const float *block, size_t n,
                                 double probability, w2s_estimate *estimates, size_t *count) {
    while (n > 0) {
        size_t taken = stream->hop - stream->hop_filled;
        if (taken > n) {
            taken = n;
        }
        append(stream, block, taken);
        stream->hop_counted += weigh(stream, block, taken, probability);
        block += taken;
        n -= taken;
        stream->hop_filled += taken;
        if (stream->hop_filled < stream->hop) {
            continue;
        }
        stream->hop_filled = 0;
        stream->samples += stream->hop;
        stream->counted += stream->hop_counted;
        if (stream->hop_counted > 0.0 && seconds(stream, stream->counted) >= W2S_STREAM_FIRST_S) {
            w2s_status status = run_window(stream);
            if (status != W2S_OK) {
                return status;
            }
        }
        stream->hop_counted = 0.0;
        float overall[3] = {0.0f, 0.0f, 0.0f};
        for (int i = 0; i < 3 && stream->has_estimate; i++) {
            overall[i] = (float)(stream->overall[i] / stream->overall_weight);
        }
        emit(stream, stream->last, overall, estimates, count);
    }
    return W2S_OK;
}

w2s_status w2s_stream_process(w2s_stream *stream, const float *block, size_t n,
                              double probability, w2s_estimate *estimates, size_t *count) {
    *count = 0;
    return (stream->window ? process_window : process_causal)(stream, block, n, probability,
                                                              estimates, count);
}
