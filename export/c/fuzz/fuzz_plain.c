/* Any calls, blocks and samples through an emitted nano_<name>.c (-DW2S_NANO= of CMake): no
 * undefined behaviour, no number that is not finite, and a rejected block leaves every byte of the
 * state as it was. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include W2S_HEADER

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

#define CALL 4 /* bytes: what, how many samples, and a word that samples are made of */
#define BLOCK 255
#define BEGUN 4096 /* samples of silence before: enough to read estimates */

static void require(int condition) {
    if (!condition) {
        abort();
    }
}

static void read_back(const w2s_state *state, uint64_t pushed) {
    w2s_estimate e[2];
    w2s_status status = w2s_read(state, &e[0]);
    require(status == w2s_read_overall(state, &e[1]));
    require(status == W2S_OK || status == W2S_NOT_YET);
    for (int i = 0; status == W2S_OK && i < 2; i++) {
        require(e[i].arousal > -1.0e3f && e[i].arousal < 1.0e3f);
        require(e[i].dominance > -1.0e3f && e[i].dominance < 1.0e3f);
        require(e[i].valence > -1.0e3f && e[i].valence < 1.0e3f);
        require(e[i].samples == pushed / W2S_HOP * W2S_HOP && e[i].counted <= e[i].samples);
    }
}

static void push_floats(w2s_state *state, uint16_t word, size_t n, uint64_t *pushed) {
    static W2S_MEMORY(before);
    float block[BLOCK];
    uint32_t bits = (uint32_t)word << 16;
    memcpy(before, (const void *)state, w2s_state_size());
    memset(block, 0, sizeof block);
    memcpy(&block[n ? n - 1 : 0], &bits, sizeof bits); /* any float, NaN and infinity too */
    w2s_status status = w2s_push_float(state, block, n);
    if (status == W2S_OK) {
        *pushed += n;
    } else {
        require(status == W2S_ERROR_SIGNAL);
        require(memcmp(before, (const void *)state, w2s_state_size()) == 0);
    }
}

/* A state that can be read, made once and then copied. */
static w2s_state *begin(void *memory) {
    static W2S_MEMORY(begun);
    static w2s_state *first;
    if (!first) {
        static const int16_t silence[BEGUN];
        first = w2s_init(begun);
        require(w2s_set_gate(first, 0) == W2S_OK && w2s_push(first, silence, BEGUN) == W2S_OK &&
                w2s_set_gate(first, 1) == W2S_OK);
    }
    memcpy(memory, begun, sizeof begun);
    return (w2s_state *)memory;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    static W2S_MEMORY(memory);
    int16_t block[BLOCK];
    uint64_t pushed = BEGUN;
    w2s_state *state = begin(memory);
    for (size_t at = 0; at + CALL <= size; at += CALL) {
        size_t n = bytes[at + 1];
        uint16_t word = (uint16_t)(bytes[at + 2] | bytes[at + 3] << 8);
        uint32_t noise = word;
        switch (bytes[at] % 8) {
        case 0:
            require(w2s_push_float(state, NULL, n) == (n ? W2S_ERROR_NULL : W2S_OK));
            require(w2s_set_voice(state, word) == (word > 32768 ? W2S_ERROR_ARGUMENT : W2S_OK));
            break;
        case 1:
            require(w2s_set_gate(state, word & 1) == W2S_OK);
            break;
        case 2:
            push_floats(state, word, n, &pushed);
            break;
        case 3:
            state = w2s_init(memory);
            pushed = 0;
            break;
        default:
            for (size_t i = 0; i < n; i++) { /* a constant, noise, a square wave, an impulse */
                noise = noise * 1664525u + 1013904223u;
                switch (bytes[at] % 8) {
                case 4: block[i] = (int16_t)word; break;
                case 5: block[i] = (int16_t)(noise >> 16); break;
                case 6: block[i] = (int16_t)((i / (1u + word % 64u)) % 2u ? 32767 : -32768); break;
                default: block[i] = (int16_t)(i == 0 ? word : 0); break;
                }
            }
            require(w2s_push(state, block, n) == W2S_OK);
            pushed += n;
        }
    }
    read_back(state, pushed);
    return 0;
}
