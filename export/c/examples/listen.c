/* listen BUNDLE: 16-bit mono PCM of 16 kHz on standard input, a line of JSON per estimate.
 *
 *   ffmpeg -i speech.mp3 -f s16le -ac 1 -ar 16000 - | listen bundle/
 *   arecord -f S16_LE -c 1 -r 16000 -t raw | listen bundle/ */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "wav2small.h"

#define BLOCK 160 /* samples; 10 ms */

static void print(const w2s_estimate *e) {
    printf("{\"time\": %.3f, \"heard\": %.3f, \"arousal\": %.7f, \"dominance\": %.7f, "
           "\"valence\": %.7f, \"overall\": [%.7f, %.7f, %.7f]}\n",
           e->time_s, e->heard_s, (double)e->arousal, (double)e->dominance, (double)e->valence,
           (double)e->overall[0], (double)e->overall[1], (double)e->overall[2]);
}

/* A WAV header would be taken for samples, and its channels and rate might be others. */
static int is_wav(const unsigned char *bytes, size_t size) {
    return size >= 4 && memcmp(bytes, "RIFF", 4) == 0;
}

static int listen(w2s_model *model, w2s_estimate *estimates, size_t capacity) {
    unsigned char bytes[2 * BLOCK];
    float block[BLOCK];
    size_t held = 0;
    int begun = 0;
    ssize_t got;
    while ((got = read(STDIN_FILENO, bytes + held, sizeof bytes - held)) > 0) {
        size_t size = held + (size_t)got, count = 0;
        size_t n = size / 2;
        if (!begun && is_wav(bytes, size)) {
            fprintf(stderr, "standard input is a WAV file; give raw 16-bit samples (s16le)\n");
            return 2;
        }
        begun = 1;
        for (size_t i = 0; i < n; i++) {
            int sample = bytes[2 * i] | bytes[2 * i + 1] << 8;
            block[i] = (float)(sample < 32768 ? sample : sample - 65536) / 32768.0f;
        }
        held = size & 1; /* half a sample waits for its other half */
        if (held) {
            bytes[0] = bytes[size - 1];
        }
        if (w2s_stream_push(model, block, n, W2S_SAMPLING_RATE, W2S_NO_VOICE_PROBABILITY,
                            estimates, capacity, &count) != W2S_OK) {
            fprintf(stderr, "%s\n", w2s_message(model));
            return 2;
        }
        for (size_t i = 0; i < count; i++) {
            print(&estimates[i]);
        }
        if (count && fflush(stdout) != 0) {
            return 0; /* the reader has gone */
        }
    }
    return 0;
}

int main(int argc, char **argv) {
    char message[W2S_MESSAGE_SIZE];
    w2s_options options = w2s_default_options();
    w2s_model *model = NULL;
    if (argc < 2 || argc > 3 || (argc == 3 && strcmp(argv[2], "--no-gate") != 0)) {
        fprintf(stderr, "usage: listen BUNDLE [--no-gate]\n");
        return 2;
    }
    options.gate = argc == 2;
    if (w2s_open(argv[1], &options, &model, message) != W2S_OK) {
        fprintf(stderr, "%s\n", message);
        return 2;
    }
    size_t capacity = w2s_stream_capacity(model, BLOCK) + 1;
    w2s_estimate *estimates = (w2s_estimate *)malloc(capacity * sizeof *estimates);
    int code = estimates ? listen(model, estimates, capacity) : 2;
    free(estimates);
    w2s_close(model);
    return code;
}
