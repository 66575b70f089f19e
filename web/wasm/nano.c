/* A nano for WebAssembly: one stream in static memory. Built by web/build.py with -DW2S_SOURCE=,
 * `nano_<name>.c` of a bundle, which is included here so that all of it is one module. */
#define NANO_SHORT_NAMES
#include W2S_HEADER
#include W2S_SOURCE

#define BLOCK 1024
#define EXPORT(name) __attribute__((export_name(name)))

static NANO_MEMORY(memory);
static nano_state *stream;
static float samples[BLOCK];
/* arousal, dominance, valence, seconds, seconds that counted, probability of speech or -1 */
static double result[6];

EXPORT("block") float *block_of(void) {
    return samples;
}

EXPORT("result") double *result_of(void) {
    return result;
}

EXPORT("capacity") int capacity(void) {
    return BLOCK;
}

EXPORT("hop") int hop_of(void) {
    return NANO_HOP;
}

EXPORT("reset") int reset(int gate) {
    nano_status status = nano_init(memory, sizeof memory, &stream);
    return status == NANO_OK ? nano_set_gate(stream, gate) : status;
}

EXPORT("push") int push(int n) {
    return n < 0 || n > BLOCK ? NANO_ERROR_ARGUMENT : nano_push_float(stream, samples, (size_t)n);
}

EXPORT("voice") int voice(float probability) {
    return nano_set_voice(stream, (int32_t)(probability * 32768.0f + 0.5f));
}

EXPORT("read") int read(int overall) {
    nano_estimate now;
    nano_status status = overall ? nano_read_overall(stream, &now) : nano_read(stream, &now);
    if (status == NANO_OK) {
        result[0] = (double)now.arousal;
        result[1] = (double)now.dominance;
        result[2] = (double)now.valence;
        result[3] = (double)now.samples / NANO_SAMPLING_RATE;
        result[4] = (double)now.counted / NANO_SAMPLING_RATE;
        int32_t speech;
        result[5] = nano_speech(stream, &speech) == NANO_OK ? (double)speech / 32768.0 : -1.0;
    }
    return status;
}
