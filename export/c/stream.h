/* From blocks of any size to one estimate per hop; knows nothing of ONNX Runtime. */
#ifndef W2S_STREAM_H
#define W2S_STREAM_H

#include "gate.h"
#include "wav2small.h"

#define W2S_STREAM_FIRST_S 0.25 /* no estimate before so much counted */

/* Causal models: run `hops` hops, weigh each, and write 6 numbers per hop: the estimate over the
 * memory, then over everything; a weight becomes 0 where the model finds no speech. Other models: `samples` is the full window, `hops` is its length
 * in samples, `weights` is NULL, and 3 numbers are written. Returns 0 or W2S_ERROR_RUN. */
typedef w2s_status (*w2s_stream_run)(void *context, const float *samples, size_t hops,
                                     float *weights, float *estimates);

typedef struct w2s_stream {
    w2s_gate gate;
    size_t hop;      /* samples between estimates, a multiple of gate.frame */
    size_t window;   /* samples per run of a model that is not causal; 0 = causal */
    size_t max_hops; /* hops per run of a causal model */
    w2s_stream_run run;
    void *context;

    float *buffer;  /* causal: max_hops * hop, else 2 * window */
    float *weights; /* max_hops */
    float *results; /* 6 * max_hops */

    size_t filled;     /* samples in buffer */
    size_t hop_filled; /* samples since the last hop ended */
    uint64_t samples;  /* since the last reset, hops that are complete */
    double counted;     /* sum of the weights of all frames */
    double hop_counted; /* of the frames since the last hop ended */
    int has_estimate;
    float last[3];      /* not causal: */
    double overall[3];  /* weighted sum of estimates */
    double overall_weight;
} w2s_stream;

/* Allocate; gate, hop, window, max_hops, run and context are set. */
w2s_status w2s_stream_init(w2s_stream *stream);
void w2s_stream_free(w2s_stream *stream);
void w2s_stream_forget(w2s_stream *stream);
size_t w2s_stream_room(const w2s_stream *stream, size_t n);

/* See w2s_stream_push; the arguments were checked, the samples are finite. */
w2s_status w2s_stream_process(w2s_stream *stream, const float *block, size_t n,
                              double probability, w2s_estimate *estimates, size_t *count);

#endif
