#include "options.h"

#include <string.h>

#include "runtime.h"
#include "stream.h"

const char *w2s_version(void) {
    return W2S_VERSION;
}

const char *w2s_status_text(w2s_status status) {
    switch (status) {
    case W2S_OK: return "ok";
    case W2S_ERROR_ARGUMENT: return "wrong argument";
    case W2S_ERROR_MEMORY: return "out of memory";
    case W2S_ERROR_LIBRARY: return "ONNX Runtime not usable";
    case W2S_ERROR_MODEL: return "model not usable";
    case W2S_ERROR_RATE: return "wrong sampling rate";
    case W2S_ERROR_SIGNAL: return "samples that are no signal";
    case W2S_ERROR_SHORT: return "signal too short";
    case W2S_ERROR_CAPACITY: return "array too small";
    case W2S_ERROR_RUN: return "ONNX Runtime failed";
    }
    return "unknown status";
}

w2s_options w2s_default_options(void) {
    w2s_options options;
    memset(&options, 0, sizeof options);
    options.threads = 1;
    options.memory_s = 4.0;
    options.hop_s = 0.5;
    options.gate = 1;
    options.gate_open_db = -55.0;
    options.gate_close_db = -61.0;
    options.gate_range_db = 30.0;
    options.gate_hold_s = 0.2;
    return options;
}

w2s_status w2s_check_options(const w2s_options *options, char *message) {
    if (options->threads < 1 || options->threads > 256) {
        w2s_msg(message, "threads %d: 1 to 256", options->threads);
    } else if (!(options->memory_s >= W2S_STREAM_FIRST_S && options->memory_s <= 600.0)) {
        w2s_msg(message, "memory_s %g: %g to 600", options->memory_s, W2S_STREAM_FIRST_S);
    } else if (!(options->hop_s >= 0.05 && options->hop_s <= 60.0)) {
        w2s_msg(message, "hop_s %g: .05 to 60", options->hop_s);
    } else if (!(options->gate_close_db <= options->gate_open_db &&
                 options->gate_open_db <= 0.0 && options->gate_close_db >= -200.0)) {
        w2s_msg(message, "gate from %g to %g dBFS: needs -200 <= close <= open <= 0",
                options->gate_close_db, options->gate_open_db);
    } else if (!(options->gate_range_db >= 0.0 && options->gate_range_db <= 200.0)) {
        w2s_msg(message, "gate_range_db %g: 0 to 200", options->gate_range_db);
    } else if (options->gate < 0 || options->gate > 2) {
        w2s_msg(message, "gate %d: 0 to 2", options->gate);
    } else if (!(options->gate_hold_s >= 0.0 && options->gate_hold_s <= 60.0)) {
        w2s_msg(message, "gate_hold_s %g: 0 to 60", options->gate_hold_s);
    } else {
        return W2S_OK;
    }
    return W2S_ERROR_ARGUMENT;
}
