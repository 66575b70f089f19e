/* WAV files in memory: mono PCM of 8, 16, 24 or 32 bits, or 32-bit float. Allocates nothing. */
#ifndef W2S_WAV_H
#define W2S_WAV_H

#include <stddef.h>
#include <stdint.h>

typedef struct w2s_wav {
    int sampling_rate; /* Hz */
    int channels;
    int bits;
    int is_float;
    const uint8_t *data; /* into the caller's bytes */
    size_t frames;       /* samples per channel */
} w2s_wav;

/* Find the samples; 0, or a sentence that describes the problem with the bytes. A recording that
 * was cut by more than .1 s is one; a data chunk of size 0 or of the sizes that programs write into
 * a pipe counts as far as it goes. */
const char *w2s_wav_parse(const uint8_t *bytes, size_t size, w2s_wav *wav);

/* Sample `index` of the first channel, -1..1; `index` is below `frames`. */
float w2s_wav_sample(const w2s_wav *wav, size_t index);

#endif
