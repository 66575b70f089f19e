/* nano_nano: arousal, dominance and valence of speech, in plain C99.
 *
 * Made by `wav2small export --c` (wav2small 0.1.0).
 * teacher probe: MIT AND CC0-1.0; teacher acoustic: MIT; audio build/box/clips.csv: CC0-1.0;
 * code wav2small: MIT
 *
 * Takes 16 kHz mono. All memory is the caller's; no heap, no stdio, no libm, no globals that are
 * written, no function pointers, no recursion, no arrays of variable length. Integer from the
 * features to the pooling; the front end and the last layer are float32, so build for a unit that
 * has it (-mfpu=...), else they run in software, some ten times slower. Every processor gives the
 * same bits; a compiler that is neither gcc nor clang needs its own -ffp-contract=off for that.
 *
 * Flash about 39555 bytes (tables 31455), RAM 11928 bytes, stack about 1.2 KB.
 *
 *     static NANO_NANO_MEMORY(memory);
 *     nano_nano_state *state;
 *     if (nano_nano_init(memory, sizeof memory, &state) != NANO_OK) { fail(); }
 *     for (;;) {
 *         nano_estimate now;
 *         if (nano_nano_push(state, block, 160) == NANO_OK && nano_nano_read(state, &now) == NANO_OK) {
 *             use(now.arousal, now.dominance, now.valence);
 *         }
 *     }
 *
 * One state per stream; one thread per state at a time. Several models can be in one program: their
 * functions have their names, and the types below are the same for all. */
#ifndef NANO_NANO_H
#define NANO_NANO_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef NANO_TYPES /* once for all models */
#define NANO_TYPES
#define NANO_SAMPLING_RATE 16000

typedef enum nano_status {
    NANO_OK = 0,
    NANO_NOT_YET = 1,          /* less than .25 s counted so far, or see estimate_every */
    NANO_ERROR_NULL = -1,      /* a null pointer */
    NANO_ERROR_STATE = -2,     /* not this model's state: another's, not begun, or overwritten */
    NANO_ERROR_SIGNAL = -3,    /* NaN, infinite or beyond 1e6 */
    NANO_ERROR_ARGUMENT = -4,  /* out of its range */
    NANO_ERROR_ALIGNMENT = -5, /* memory that is not aligned to 8 */
    NANO_ERROR_SIZE = -6       /* memory smaller than state_size */
} nano_status;

typedef struct nano_estimate {
    float arousal, dominance, valence; /* 0..1 on the teacher's scale */
    uint64_t samples; /* since init, up to the end of the last complete hop */
    uint64_t counted; /* of them, those that passed the gate, by weight */
} nano_estimate;
#endif

#define NANO_NANO_HOP 256 /* samples per estimate */
#define NANO_NANO_STATE_SIZE 11928 /* bytes, at least nano_nano_state_size() */
/* Memory for one stream, aligned: `static NANO_NANO_MEMORY(name);` */
#define NANO_NANO_MEMORY(name) uint64_t name[(NANO_NANO_STATE_SIZE + 7) / 8]

typedef struct nano_nano_state nano_nano_state;

/* Bytes that init needs. */
size_t nano_nano_state_size(void);

/* Start a stream in `size` bytes of memory, aligned to 8. Call it again to forget all audio. If it
 * fails, the memory is not touched and *state is NULL, which every function rejects. */
nano_status nano_nano_init(void *memory, size_t size, nano_nano_state **state);

/* Take n samples, any n. The block is not kept. */
nano_status nano_nano_push(nano_nano_state *state, const int16_t *block, size_t n);

/* The same for -1..1; rounded to 16 bits. With a NaN or a sample beyond 1e6 nothing is taken. */
nano_status nano_nano_push_float(nano_nano_state *state, const float *block, size_t n);

/* Estimate over the last seconds (W2S_MEMORY_S, 4), fading. */
nano_status nano_nano_read(nano_nano_state *state, nano_estimate *estimate);

/* Estimate over everything since init. */
nano_status nano_nano_read_overall(const nano_nano_state *state, nano_estimate *estimate);

/* Let `read` compute an estimate only when `hops` hops have ended since the last one, and answer
 * NANO_NOT_YET between them; 0, the default: whenever it is called. */
nano_status nano_nano_estimate_every(nano_nano_state *state, uint32_t hops);

/* Weight of the blocks to come, 0..32768 (32768 = voice, the default), from a voice activity
 * detector. */
nano_status nano_nano_set_voice(nano_nano_state *state, int32_t probability);

/* What counts. 0: everything. 1, the default: hops that hold speech (-DW2S_SPOKEN=, Q15) where the
 * model has a head for voice activity, else as 2. 2: what is not silence: a hop from -55 dBFS (RMS)
 * on, if it is within 30 dB of the loudest lately (which fades by 1 dB per second), until the level
 * was 6 dB below that for more than .2 s. Other limits: -DW2S_OPEN_POWER= -DW2S_CLOSE_POWER= (mean squares) -DW2S_RANGE=. */
nano_status nano_nano_set_gate(nano_nano_state *state, int gate);

/* Probability that the last hop holds speech, 0..32768; NANO_NOT_YET before the second hop, and
 * always from a model without a head for voice activity. */
nano_status nano_nano_speech(const nano_nano_state *state, int32_t *probability);

#ifdef __cplusplus
}
#endif

#endif

/* For code of any one model, such as this file's own: names without the model's. */
#ifdef NANO_SHORT_NAMES
#undef NANO_SHORT_NAMES
#define NANO_HOP NANO_NANO_HOP
#define NANO_STATE_SIZE NANO_NANO_STATE_SIZE
#define NANO_MEMORY NANO_NANO_MEMORY
#define nano_state nano_nano_state
#define nano_state_size nano_nano_state_size
#define nano_init nano_nano_init
#define nano_push nano_nano_push
#define nano_push_float nano_nano_push_float
#define nano_read nano_nano_read
#define nano_read_overall nano_nano_read_overall
#define nano_estimate_every nano_nano_estimate_every
#define nano_set_voice nano_nano_set_voice
#define nano_set_gate nano_nano_set_gate
#define nano_speech nano_nano_speech
#endif
