/* classify BUNDLE FILE.wav ...: one line per file: name, arousal, dominance, valence. */
#include <stdio.h>
#include <stdlib.h>

#include "wav.h"
#include "wav2small.h"

static uint8_t *read_bytes(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    size_t room = 0;
    uint8_t *bytes = NULL;
    *size = 0;
    if (!file) {
        return NULL;
    }
    for (;;) {
        if (*size == room) {
            uint8_t *more = (uint8_t *)realloc(bytes, room = room ? 2 * room : 1 << 16);
            if (!more) {
                free(bytes);
                bytes = NULL;
                break;
            }
            bytes = more;
        }
        size_t got = fread(bytes + *size, 1, room - *size, file);
        if (got == 0) {
            break;
        }
        *size += got;
    }
    fclose(file);
    return bytes;
}

static int classify(w2s_model *model, const char *path) {
    size_t size = 0;
    w2s_wav wav;
    w2s_estimate estimate;
    const char *problem = "cannot be read";
    uint8_t *bytes = read_bytes(path, &size);
    float *samples = NULL;
    if (bytes) {
        problem = w2s_wav_parse(bytes, size, &wav);
    }
    if (!problem && wav.channels != 1) {
        problem = "more than one channel; mix it down first";
    }
    if (!problem) {
        samples = (float *)malloc((wav.frames + 1) * sizeof(float));
        problem = samples ? NULL : "out of memory";
    }
    if (!problem) {
        for (size_t i = 0; i < wav.frames; i++) {
            samples[i] = w2s_wav_sample(&wav, i);
        }
        if (w2s_predict(model, samples, wav.frames, wav.sampling_rate, &estimate) != W2S_OK) {
            problem = w2s_message(model);
        }
    }
    if (problem) {
        fprintf(stderr, "%s: %s\n", path, problem);
    } else {
        printf("%s %.9g %.9g %.9g\n", path, (double)estimate.arousal,
               (double)estimate.dominance, (double)estimate.valence);
    }
    free(samples);
    free(bytes);
    return problem != NULL;
}

int main(int argc, char **argv) {
    char message[W2S_MESSAGE_SIZE];
    w2s_model *model = NULL;
    int failed = 0;
    if (argc < 3) {
        fprintf(stderr, "usage: classify BUNDLE FILE.wav ...\n");
        return 2;
    }
    if (w2s_open(argv[1], NULL, &model, message) != W2S_OK) {
        fprintf(stderr, "%s\n", message);
        return 2;
    }
    for (int i = 2; i < argc; i++) {
        failed |= classify(model, argv[i]);
    }
    w2s_close(model);
    return failed;
}
