/* @NAME@: arousal, dominance and valence of speech, in plain C99.
 *
 * Made by `wav2small export --c`. @LICENCE@
 *
 * Takes 16 kHz mono. All memory is the caller's; no heap, no stdio, no libm, no globals that are
 * written, no function pointers, no recursion, no arrays of variable length. Integer from the
 * features to the pooling; the front end and the last layer are float32, so build for a unit that
 * has it (-mfpu=...), else they run in software, some ten times slower.
 *
 *     static W2S_MEMORY(memory);
 *     w2s_state *state = w2s_init(memory);
 *     for (;;) {
 *         w2s_estimate now;
 *         if (w2s_push(state, block, 160) == W2S_OK && w2s_read(state, &now) == W2S_OK) {
 *             use(now.arousal, now.dominance, now.valence);
 *         }
 *     }
 *
 * One state per stream; one thread per state at a time. */
#ifndef W2S_@GUARD@_H
#define W2S_@GUARD@_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define W2S_SAMPLING_RATE 16000
#define W2S_HOP @HOP@            /* samples per estimate */
#define W2S_STATE_SIZE @STATE_SIZE@   /* bytes, at least w2s_state_size() */
/* Memory for one stream, aligned: `static W2S_MEMORY(name);` */
#define W2S_MEMORY(name) uint64_t name[(W2S_STATE_SIZE + 7) / 8]

typedef enum w2s_status {
    W2S_OK = 0,
    W2S_NOT_YET = 1,          /* less than .25 s counted so far */
    W2S_ERROR_NULL = -1,      /* a null pointer */
    W2S_ERROR_STATE = -2,     /* not a state: w2s_init was not called, or memory was overwritten */
    W2S_ERROR_SIGNAL = -3,    /* NaN or infinite samples */
    W2S_ERROR_ARGUMENT = -4   /* out of its range */
} w2s_status;

typedef struct w2s_state w2s_state;

typedef struct w2s_estimate {
    float arousal, dominance, valence; /* 0..1 on the teacher's scale */
    uint64_t samples; /* since w2s_init, up to the end of the last complete hop */
    uint64_t counted; /* of them, those that passed the gate, by weight */
} w2s_estimate;

/* Bytes that w2s_init needs. */
size_t w2s_state_size(void);

/* Start a stream in memory of w2s_state_size() bytes, aligned to 8; NULL if it is NULL or not
 * aligned. Call it again to forget all audio. */
w2s_state *w2s_init(void *memory);

/* Take n samples, any n. The block is not kept. */
w2s_status w2s_push(w2s_state *state, const int16_t *block, size_t n);

/* The same for -1..1; rounded to 16 bits. With an infinite sample or a NaN nothing is taken. */
w2s_status w2s_push_float(w2s_state *state, const float *block, size_t n);

/* Estimate over the last seconds (W2S_MEMORY_S, 4), fading. */
w2s_status w2s_read(const w2s_state *state, w2s_estimate *estimate);

/* Estimate over everything since w2s_init. */
w2s_status w2s_read_overall(const w2s_state *state, w2s_estimate *estimate);

/* Weight of the blocks to come, 0..32768 (32768 = voice, the default), from a voice activity
 * detector. */
w2s_status w2s_set_voice(w2s_state *state, int32_t probability);

/* 0: silence counts too. 1, the default: a hop counts from -55 dBFS (RMS) on, if it is within 30 dB
 * of the loudest lately (which fades by 1 dB per second), until the level was 6 dB below that for
 * more than .2 s. Other limits: -DW2S_OPEN_POWER= -DW2S_CLOSE_POWER= (mean squares) -DW2S_RANGE=. */
w2s_status w2s_set_gate(w2s_state *state, int enabled);

#ifdef __cplusplus
}
#endif

#endif
