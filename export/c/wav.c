#include "wav.h"

#include <string.h>

static uint32_t le(const uint8_t *bytes, int count) {
    uint32_t value = 0;
    for (int i = count - 1; i >= 0; i--) {
        value = value << 8 | bytes[i];
    }
    return value;
}

static const char *parse_format(const uint8_t *chunk, size_t size, w2s_wav *wav) {
    if (size < 16) {
        return "a WAV file whose fmt chunk is too short";
    }
    uint32_t tag = le(chunk, 2);
    uint32_t rate = le(chunk + 4, 4);
    if (tag == 0xFFFEu && size >= 26) {
        tag = le(chunk + 24, 2); /* WAVE_FORMAT_EXTENSIBLE names the format again */
    }
    wav->channels = (int)le(chunk + 2, 2);
    wav->bits = (int)le(chunk + 14, 2);
    wav->is_float = tag == 3;
    if (tag != 1 && tag != 3) {
        return "a compressed WAV file; only PCM and float are read";
    }
    if (wav->is_float ? wav->bits != 32
                      : (wav->bits != 8 && wav->bits != 16 && wav->bits != 24 && wav->bits != 32)) {
        return "a WAV file whose samples are not of 8, 16, 24 or 32 bits";
    }
    if (wav->channels < 1) {
        return "a WAV file without channels";
    }
    if (rate < 1 || rate > 10000000u) {
        return "a WAV file with an impossible sampling rate";
    }
    wav->sampling_rate = (int)rate;
    return NULL;
}

/* The place after all complete chunks from `at` on; the size if none is cut. */
static size_t skip_chunks(const uint8_t *bytes, size_t size, size_t at) {
    while (at < size && size - at >= 8) {
        size_t length = le(bytes + at + 4, 4);
        for (int i = 0; i < 4; i++) {
            if (bytes[at + (size_t)i] < ' ' || bytes[at + (size_t)i] > '~') {
                return at;
            }
        }
        if (memcmp(bytes + at, "TAG", 3) == 0 || memcmp(bytes + at, "ID3", 3) == 0) {
            return size;
        }
        if (length > size - at - 8) {
            return at;
        }
        at += 8 + length + (length & 1);
    }
    return size;
}

/* Bytes of samples that are there; 0, or a sentence on why they are not what the header
 * promises. Programs that write into a pipe leave 0 or a huge number. */
static const char *find_samples(const uint8_t *bytes, size_t size, size_t start, size_t length,
                                const w2s_wav *wav, size_t *held) {
    size_t left = size - start;
    size_t width = (size_t)wav->channels * (size_t)(wav->bits / 8);
    double slack = 0.1 * (double)wav->sampling_rate * (double)width;
    int marker = (length >= 0x7FFFF000u && length <= 0x80000024u) || length >= 0xFFFFF000u;
    size_t rest = 0;
    *held = length < left ? length : left;
    if (length > left) {
        return marker || (double)(length - left) <= slack
                   ? NULL
                   : "a WAV file that was cut: its header promises more than it holds";
    }
    rest = size - skip_chunks(bytes, size, start + length + (length & 1));
    if ((double)rest <= slack) {
        return NULL;
    }
    if (length == 0) {
        *held = left;
        return NULL;
    }
    return "a WAV file that holds more than its header promises";
}

const char *w2s_wav_parse(const uint8_t *bytes, size_t size, w2s_wav *wav) {
    size_t at = 12;
    int has_format = 0;
    memset(wav, 0, sizeof *wav);
    if (!bytes || size < 12 || memcmp(bytes, "RIFF", 4) != 0 || memcmp(bytes + 8, "WAVE", 4) != 0) {
        return "not a WAV file";
    }
    while (size - at >= 8) {
        const uint8_t *chunk = bytes + at + 8;
        size_t left = size - at - 8;
        size_t length = le(bytes + at + 4, 4);
        size_t held = length < left ? length : left;
        if (memcmp(bytes + at, "fmt ", 4) == 0) {
            const char *problem = parse_format(chunk, held, wav);
            if (problem) {
                return problem;
            }
            has_format = 1;
        } else if (memcmp(bytes + at, "data", 4) == 0) {
            if (!has_format) {
                return "a WAV file whose data comes before its fmt chunk";
            }
            const char *problem = find_samples(bytes, size, at + 8, length, wav, &held);
            wav->data = chunk;
            wav->frames = held / ((size_t)wav->channels * (size_t)(wav->bits / 8));
            return problem;
        }
        if (length >= left) {
            break;
        }
        at += 8 + length + (length & 1); /* chunks are padded to even sizes */
        if (at > size) {
            break;
        }
    }
    return "a WAV file without a data chunk";
}

float w2s_wav_sample(const w2s_wav *wav, size_t index) {
    size_t width = (size_t)(wav->bits / 8);
    const uint8_t *at = wav->data + index * width * (size_t)wav->channels;
    uint32_t raw = le(at, (int)width);
    if (wav->is_float) {
        float value;
        memcpy(&value, &raw, sizeof value);
        return value;
    }
    if (wav->bits == 8) {
        return ((float)raw - 128.0f) / 128.0f;
    }
    raw <<= 32 - wav->bits; /* the sign to the top */
    return (float)((double)(raw < 0x80000000u ? (int64_t)raw : (int64_t)raw - 0x100000000) /
                   2147483648.0);
}
