/* Any bytes as a WAV file: parsing and reading every sample must stay inside them. */
#include <stdint.h>

#include "wav.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    w2s_wav wav;
    volatile float sink = 0.0f;
    if (w2s_wav_parse(bytes, size, &wav) == 0) {
        for (size_t i = 0; i < wav.frames; i++) {
            sink = w2s_wav_sample(&wav, i);
        }
    }
    (void)sink;
    return 0;
}
