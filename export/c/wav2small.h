/* wav2small: arousal, dominance and valence of speech, over ONNX Runtime.
 *
 * Input is 16 kHz mono float in -1..1; the caller resamples. Estimates are 0..1 on the teacher's
 * scale, which a student can leave by a little. Order: arousal, dominance, valence.
 *
 * Memory: a `w2s_model` belongs to the caller from w2s_open to w2s_close. The library keeps no
 * pointer to samples, paths or bytes after a call returns. Strings it returns live as long as the
 * model (w2s_message) or for ever (w2s_status_text).
 * Threads: no globals. Different models may be used by different threads at the same time; one
 * model by one thread at a time. One model has one stream.
 * Links nothing but libdl and libm: ONNX Runtime 1.16 or newer is found by dlopen in w2s_open.
 */
#ifndef WAV2SMALL_H
#define WAV2SMALL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define W2S_VERSION_MAJOR 0
#define W2S_VERSION_MINOR 1
#define W2S_VERSION_PATCH 0
#define W2S_VERSION "0.1.0"

#if defined(__GNUC__) && !defined(_WIN32)
#define W2S_API __attribute__((visibility("default")))
#else
#define W2S_API
#endif

#define W2S_SAMPLING_RATE 16000
#define W2S_MESSAGE_SIZE 256
#define W2S_NO_VOICE_PROBABILITY (-1.0f)

typedef enum w2s_status {
    W2S_OK = 0,
    W2S_ERROR_ARGUMENT,  /* null pointer or an option out of its range */
    W2S_ERROR_MEMORY,    /* malloc failed */
    W2S_ERROR_LIBRARY,   /* no ONNX Runtime, or one that is too old */
    W2S_ERROR_MODEL,     /* missing, damaged, or not a model of wav2small */
    W2S_ERROR_RATE,      /* sampling rate other than 16000 Hz */
    W2S_ERROR_SIGNAL,    /* NaN, infinite or beyond 1e6; or one value throughout */
    W2S_ERROR_SHORT,     /* less than 0.1 s */
    W2S_ERROR_CAPACITY,  /* array for estimates too small */
    W2S_ERROR_RUN        /* ONNX Runtime failed */
} w2s_status;

typedef struct w2s_model w2s_model;

typedef struct w2s_options {
    const char *library;    /* libonnxruntime to load; NULL: $W2S_ONNXRUNTIME, then the system's */
    int threads;            /* of ONNX Runtime; 1 */
    int arena;              /* 1: ONNX Runtime keeps its memory between calls; 0 */
    double memory_s;        /* seconds that a stream's estimate remembers; 4 */
    double hop_s;           /* seconds between estimates of a model that is not causal; .5 */
    int gate;               /* what moves a stream's estimate. 0: everything; 1: speech, where the
                             * model has a head for voice activity, else as 2; 2: all but silence; 1 */
    double gate_open_db;    /* dBFS (RMS) from which a frame is sound; -55 */
    double gate_close_db;   /* dBFS below which sound ends; -61 */
    double gate_range_db;   /* below the loudest frame lately (fades 1 dB/s): no sound; 30 */
    double gate_hold_s;     /* seconds below gate_close_db before the gate closes; .2 */
} w2s_options;

/* For a model without a stream, `overall` repeats the estimate and the times are the clip's. */
typedef struct w2s_estimate {
    float arousal, dominance, valence; /* over the memory */
    float overall[3];                  /* the same, over everything since the last reset */
    double time_s;                     /* end of the audio that it knows, since the last reset */
    double heard_s;                    /* seconds of it that passed the gate */
} w2s_estimate;

/* Version of the library that runs; W2S_VERSION is that of this header. */
W2S_API const char *w2s_version(void);

W2S_API w2s_options w2s_default_options(void);

/* Open a bundle folder, or one .onnx file; `options` may be NULL. On failure `*model` is NULL and
 * `message`, if not NULL, W2S_MESSAGE_SIZE characters of the caller, describes the problem. */
W2S_API w2s_status w2s_open(const char *path, const w2s_options *options, w2s_model **model,
                            char *message);

/* The same from memory: `clip` is model.onnx, `stream` is streaming.onnx or NULL. The bytes are
 * not needed after the call. */
W2S_API w2s_status w2s_open_bytes(const void *clip, size_t clip_size, const void *stream,
                                  size_t stream_size, const w2s_options *options,
                                  w2s_model **model, char *message);

/* One estimate for n samples, at least 1600. Does not touch the stream. */
W2S_API w2s_status w2s_predict(w2s_model *model, const float *samples, size_t n,
                               int sampling_rate, w2s_estimate *estimate);

/* Take a block of any size, 0 included, and write one estimate per hop that it completed.
 *
 * voice_probability: 0..1 from the caller's voice activity detector, weighs the block;
 *     W2S_NO_VOICE_PROBABILITY if there is none.
 * estimates, capacity: room for them; w2s_stream_capacity(model, n) is always enough. Nothing is
 *     written before .25 s counted. NULL and 0: no estimates.
 * count: estimates written; may be NULL.
 *
 * After any error but W2S_ERROR_RUN the stream is as before the call; after that one, reset. */
W2S_API w2s_status w2s_stream_push(w2s_model *model, const float *block, size_t n,
                                   int sampling_rate, float voice_probability,
                                   w2s_estimate *estimates, size_t capacity, size_t *count);

/* Most estimates that a push of n samples can give; 0 for NULL. */
W2S_API size_t w2s_stream_capacity(const w2s_model *model, size_t n);

/* Forget all audio. */
W2S_API w2s_status w2s_stream_reset(w2s_model *model);

/* Free the model; NULL is allowed. */
W2S_API void w2s_close(w2s_model *model);

/* What the last failed call on this model complained about; "" if none did. */
W2S_API const char *w2s_message(const w2s_model *model);

/* A status in words. */
W2S_API const char *w2s_status_text(w2s_status status);

#ifdef __cplusplus
}
#endif

#endif
