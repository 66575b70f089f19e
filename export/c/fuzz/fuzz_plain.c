/* Any calls, blocks and samples through an emitted nano_<name>.c (-DW2S_NANO= of CMake): no
 * undefined behaviour, no number that is not finite, and a rejected block leaves every byte of the
 * state as it was. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define NANO_SHORT_NAMES
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

static void read_back(nano_state *state, uint64_t pushed) {
    nano_estimate e[2];
    nano_status status = nano_read(state, &e[0]);
    require(status == NANO_OK || status == NANO_NOT_YET);
    require(status == nano_read_overall(state, &e[1]) || status == NANO_NOT_YET);
    for (int i = 0; status == NANO_OK && i < 2; i++) {
        require(e[i].arousal > -1.0e3f && e[i].arousal < 1.0e3f);
        require(e[i].dominance > -1.0e3f && e[i].dominance < 1.0e3f);
        require(e[i].valence > -1.0e3f && e[i].valence < 1.0e3f);
        require(e[i].samples == pushed / NANO_HOP * NANO_HOP && e[i].counted <= e[i].samples);
    }
}

static void push_floats(nano_state *state, uint16_t word, size_t n, uint64_t *pushed) {
    static NANO_MEMORY(before);
    float block[BLOCK];
    uint32_t bits = (uint32_t)word << 16;
    memcpy(before, (const void *)state, nano_state_size());
    memset(block, 0, sizeof block);
    memcpy(&block[n ? n - 1 : 0], &bits, sizeof bits); /* any float, NaN and infinity too */
    nano_status status = nano_push_float(state, block, n);
    if (status == NANO_OK) {
        *pushed += n;
    } else {
        require(status == NANO_ERROR_SIGNAL);
        require(memcmp(before, (const void *)state, nano_state_size()) == 0);
    }
}

/* A state that can be read, made once and then copied. */
static nano_state *begin(void *memory) {
    static NANO_MEMORY(begun);
    static nano_state *first;
    if (!first) {
        static const int16_t silence[BEGUN];
        require(nano_init(begun, sizeof begun, &first) == NANO_OK &&
                nano_set_gate(first, 0) == NANO_OK && nano_push(first, silence, BEGUN) == NANO_OK &&
                nano_set_gate(first, 1) == NANO_OK);
    }
    memcpy(memory, begun, sizeof begun);
    return (nano_state *)memory;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    static NANO_MEMORY(memory);
    int16_t block[BLOCK];
    uint64_t pushed = BEGUN;
    nano_state *state = begin(memory);
    for (size_t at = 0; at + CALL <= size; at += CALL) {
        size_t n = bytes[at + 1];
        uint16_t word = (uint16_t)(bytes[at + 2] | bytes[at + 3] << 8);
        uint32_t noise = word;
        switch (bytes[at] % 8) {
        case 0:
            require(nano_push_float(state, NULL, n) == (n ? NANO_ERROR_NULL : NANO_OK));
            require(nano_set_voice(state, word) == (word > 32768 ? NANO_ERROR_ARGUMENT : NANO_OK));
            break;
        case 1:
            require(nano_set_gate(state, word & 1) == NANO_OK);
            require(nano_estimate_every(state, word >> 1) == NANO_OK);
            break;
        case 2:
            push_floats(state, word, n, &pushed);
            break;
        case 3:
            require(nano_init(memory, word % sizeof memory, &state) == NANO_ERROR_SIZE ||
                    word % sizeof memory >= nano_state_size());
            require(nano_init(memory, sizeof memory, &state) == NANO_OK);
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
            require(nano_push(state, block, n) == NANO_OK);
            pushed += n;
        }
    }
    read_back(state, pushed);
    return 0;
}
