/* ONNX Runtime, loaded at run time, and one session in it. */
#ifndef W2S_RUNTIME_H
#define W2S_RUNTIME_H

#include "ort.h"
#include "wav2small.h"

#define W2S_TENSORS 6

typedef struct w2s_runtime {
    void *library;
    const OrtApi *api;
    OrtEnv *env;
    OrtMemoryInfo *memory;
    OrtAllocator *allocator; /* ONNX Runtime's own */
} w2s_runtime;

typedef struct w2s_tensor {
    const char *name;
    int is_double;
    void *data;
    size_t count;
    size_t rank; /* 1 or 2: [count] or [1, count] */
} w2s_tensor;

w2s_status w2s_runtime_open(w2s_runtime *runtime, const char *library, char *message);
void w2s_runtime_close(w2s_runtime *runtime);

w2s_status w2s_session_open(w2s_runtime *runtime, const void *bytes, size_t size,
                            const w2s_options *options, OrtSession **session, char *message);

/* Width (last dimension, -1 if dynamic) of an input or output, 0 if there is none of that name,
 * type and at least one dimension. */
int64_t w2s_session_width(w2s_runtime *runtime, OrtSession *session, int output,
                          const char *name, int is_double);

/* Copy of a metadata entry, "" if there is none; 0 if it does not fit. */
int w2s_session_metadata(w2s_runtime *runtime, OrtSession *session, const char *key, char *value,
                         size_t size);

/* Run; each output must have exactly the count that is asked for. */
w2s_status w2s_session_run(w2s_runtime *runtime, OrtSession *session, const w2s_tensor *inputs,
                           size_t input_count, const w2s_tensor *outputs, size_t output_count,
                           char *message);

void w2s_msg(char *message, const char *format, ...);

#endif
