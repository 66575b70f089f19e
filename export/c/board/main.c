/* Speech from flash through the engine, hop by hop; prints what it cost and what came out.
 * Built for a board (see benchmarks/microcontroller.py) and, with -DW2S_HOST, for this machine. */
#include <stdint.h>
#include <string.h>

#define NANO_SHORT_NAMES
#include W2S_HEADER

#ifdef W2S_HOST
#include <stdio.h>
static void board_text(const char *text) { fputs(text, stdout); }
static void board_number(const char *name, uint64_t number) {
    printf("%s %llx\n", name, (unsigned long long)number);
}
static uint32_t board_ticks(void) { return 0; }
static void board_paint_stack(void) {}
static uint32_t board_stack_used(void) { return 0; }
#else
#include "board.h"
#endif

extern const int16_t clip[];
extern const uint32_t clip_samples;

static NANO_MEMORY(memory);
static uint32_t ticks[6], last_ticks;
static int stage;

void w2s_stage(int next);

void w2s_stage(int next) {
    uint32_t now = board_ticks();
    ticks[stage] += (now - last_ticks) & 0x00FFFFFFu;
    last_ticks = now;
    stage = next;
}

static uint32_t bits(float value) {
    uint32_t result;
    memcpy(&result, &value, sizeof result);
    return result;
}

static void print(const char *name, const nano_estimate *e) {
    board_text(name);
    board_text("\n");
    board_number("arousal", bits(e->arousal));
    board_number("dominance", bits(e->dominance));
    board_number("valence", bits(e->valence));
}

int main(void) {
    nano_estimate estimate;
    uint32_t hops = 0, read = 0, checksum = 2166136261u;
    nano_state *state;
    if (nano_push((nano_state *)(void *)memory, clip, 1) != NANO_ERROR_STATE ||
        nano_init((char *)memory + 4, sizeof memory - 4, &state) != NANO_ERROR_ALIGNMENT ||
        state != NULL) {
        return 1; /* before nano_init, misaligned */
    }
    board_paint_stack();
    if (nano_init(memory, sizeof memory, &state) != NANO_OK) {
        return 1;
    }
#ifdef W2S_ESTIMATE_EVERY
    nano_estimate_every(state, W2S_ESTIMATE_EVERY);
#endif
    last_ticks = board_ticks();
    for (uint32_t at = 0; at + 160u <= clip_samples; at += 160u) { /* 10 ms, as a codec gives it */
        if (nano_push(state, clip + at, 160) != NANO_OK) {
            return 1;
        }
        if ((at + 160u) / NANO_HOP == at / NANO_HOP) {
            continue;
        }
        hops++;
        uint32_t before = board_ticks();
        nano_status status = nano_read(state, &estimate);
        read += (board_ticks() - before) & 0x00FFFFFFu;
        if (status == NANO_OK) {
            uint32_t words[3] = {bits(estimate.arousal), bits(estimate.dominance),
                                 bits(estimate.valence)};
            for (int i = 0; i < 3; i++) {
                checksum = (checksum ^ words[i]) * 16777619u;
            }
        }
        /* what reading took is not counted again as streaming */
        last_ticks += (board_ticks() - before) & 0x00FFFFFFu;
    }
    w2s_stage(0);
    uint32_t stack = board_stack_used();
#ifdef W2S_ESTIMATE_EVERY
    nano_estimate_every(state, 0);
#endif
    if (nano_read(state, &estimate) != NANO_OK) {
        return 1;
    }
    print("memory", &estimate);
    nano_read_overall(state, &estimate);
    print("overall", &estimate);
    board_number("checksum", checksum);
    board_number("hop", NANO_HOP);
    board_number("hops", hops);
    board_number("counted", estimate.counted);
    board_number("ticks_stream", ticks[0]);
    board_number("ticks_spectrum", ticks[1]);
    board_number("ticks_features", ticks[2]);
    board_number("ticks_stem", ticks[3]);
    board_number("ticks_blocks", ticks[4]);
    board_number("ticks_pooling", ticks[5]);
    board_number("ticks_estimate", read);
    board_number("stack", stack);
    board_number("state", nano_state_size());
    return 0;
}
