#include "runtime.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void w2s_msg(char *message, const char *format, ...) {
    if (message) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(message, W2S_MESSAGE_SIZE, format, arguments);
        va_end(arguments);
    }
}

/* 1 if all is well, else the status' own words go to message and it is freed. */
static int good(const OrtApi *api, OrtStatus *status, char *message) {
    if (!status) {
        return 1;
    }
    w2s_msg(message, "ONNX Runtime: %.200s", ORT(api, GetErrorMessage)(status));
    ORT(api, ReleaseStatus)(status);
    return 0;
}

static void *load(const char *library, const char **name) {
    static const char *const names[] = {"libonnxruntime.so.1", "libonnxruntime.so",
                                        "libonnxruntime.dylib"};
    *name = library ? library : getenv("W2S_ONNXRUNTIME");
    /* NODELETE: its threads' destructors may run after w2s_close. */
    if (*name) {
        return dlopen(*name, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        void *found = dlopen(names[i], RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
        if (found) {
            *name = names[i];
            return found;
        }
    }
    *name = names[0];
    return NULL;
}

w2s_status w2s_runtime_open(w2s_runtime *runtime, const char *library, char *message) {
    const char *name = NULL;
    const OrtApiBase *(*get_base)(void) = NULL;
    runtime->library = load(library, &name);
    if (!runtime->library) {
        w2s_msg(message,
                "%.120s: cannot be loaded; install ONNX Runtime, or set W2S_ONNXRUNTIME to "
                "libonnxruntime.so",
                name);
        return W2S_ERROR_LIBRARY;
    }
    void *symbol = dlsym(runtime->library, "OrtGetApiBase");
    if (!symbol) {
        w2s_msg(message, "%.160s: has no OrtGetApiBase; this is not ONNX Runtime", name);
        return W2S_ERROR_LIBRARY;
    }
    memcpy(&get_base, &symbol, sizeof get_base); /* ISO C has no cast from data to function */
    const OrtApiBase *base = get_base();
    runtime->api = base ? base->GetApi(W2S_ORT_API_VERSION) : NULL;
    if (!runtime->api) {
        w2s_msg(message, "%.120s: ONNX Runtime %.20s is too old; 1.16 or newer is needed", name,
                base ? base->GetVersionString() : "?");
        return W2S_ERROR_LIBRARY;
    }
    const OrtApi *api = runtime->api;
    if (!good(api, ORT(api, CreateEnv)(ORT_LOGGING_LEVEL_FATAL, "wav2small", &runtime->env),
              message) ||
        !good(api,
              ORT(api, CreateCpuMemoryInfo)(OrtDeviceAllocator, OrtMemTypeDefault,
                                            &runtime->memory),
              message) ||
        !good(api, ORT(api, GetAllocatorWithDefaultOptions)(&runtime->allocator), message)) {
        return W2S_ERROR_LIBRARY;
    }
    return W2S_OK;
}

void w2s_runtime_close(w2s_runtime *runtime) {
    if (runtime->memory) {
        ORT(runtime->api, ReleaseMemoryInfo)(runtime->memory);
    }
    if (runtime->env) {
        ORT(runtime->api, ReleaseEnv)(runtime->env);
    }
    if (runtime->library) {
        dlclose(runtime->library);
    }
    memset(runtime, 0, sizeof *runtime);
}

w2s_status w2s_session_open(w2s_runtime *runtime, const void *bytes, size_t size,
                            const w2s_options *options, OrtSession **session, char *message) {
    const OrtApi *api = runtime->api;
    OrtSessionOptions *settings = NULL;
    /* Without x64quantprecision 8-bit convolutions saturate silently on x86 without VNNI. */
    int fine =
        good(api, ORT(api, CreateSessionOptions)(&settings), message) &&
        good(api, ORT(api, SetIntraOpNumThreads)(settings, options->threads), message) &&
        good(api, ORT(api, SetInterOpNumThreads)(settings, 1), message) &&
        good(api, ORT(api, SetSessionLogSeverityLevel)(settings, ORT_LOGGING_LEVEL_FATAL),
             message) &&
        good(api,
             ORT(api, AddSessionConfigEntry)(settings, "session.x64quantprecision", "1"),
             message) &&
        (options->arena || good(api, ORT(api, DisableCpuMemArena)(settings), message)) &&
        good(api,
             ORT(api, CreateSessionFromArray)(runtime->env, bytes, size, settings, session),
             message);
    if (settings) {
        ORT(api, ReleaseSessionOptions)(settings);
    }
    return fine ? W2S_OK : W2S_ERROR_MODEL;
}

static int64_t type_width(const OrtApi *api, OrtTypeInfo *type, int is_double) {
    const OrtTensorTypeAndShapeInfo *tensor = NULL;
    int64_t dims[8] = {0};
    size_t rank = 0;
    int kind = 0;
    if (!good(api, ORT(api, CastTypeInfoToTensorInfo)(type, &tensor), NULL) || !tensor ||
        !good(api, ORT(api, GetTensorElementType)(tensor, (void *)&kind), NULL) ||
        !good(api, ORT(api, GetDimensionsCount)(tensor, &rank), NULL) || rank < 1 || rank > 8 ||
        !good(api, ORT(api, GetDimensions)(tensor, dims, rank), NULL)) {
        return 0;
    }
    int expected = is_double ? ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE
                           : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    return kind == expected ? dims[rank - 1] : 0;
}

int64_t w2s_session_width(w2s_runtime *runtime, OrtSession *session, int output,
                          const char *name, int is_double) {
    const OrtApi *api = runtime->api;
    size_t count = 0;
    int64_t width = 0;
    if (!good(api,
              output ? ORT(api, SessionGetOutputCount)(session, &count)
                     : ORT(api, SessionGetInputCount)(session, &count),
              NULL)) {
        return 0;
    }
    for (size_t i = 0; i < count && width == 0; i++) {
        char *found = NULL;
        OrtTypeInfo *type = NULL;
        if (!good(api,
                  output
                      ? ORT(api, SessionGetOutputName)(session, i, runtime->allocator, &found)
                      : ORT(api, SessionGetInputName)(session, i, runtime->allocator, &found),
                  NULL)) {
            return 0;
        }
        if (strcmp(found, name) == 0 &&
            good(api,
                 output ? ORT(api, SessionGetOutputTypeInfo)(session, i, &type)
                        : ORT(api, SessionGetInputTypeInfo)(session, i, &type),
                 NULL)) {
            width = type_width(api, type, is_double);
            ORT(api, ReleaseTypeInfo)(type);
        }
        good(api, ORT(api, AllocatorFree)(runtime->allocator, found), NULL);
    }
    return width;
}

int w2s_session_metadata(w2s_runtime *runtime, OrtSession *session, const char *key, char *value,
                         size_t size) {
    const OrtApi *api = runtime->api;
    OrtModelMetadata *metadata = NULL;
    char *found = NULL;
    int fits = 0;
    value[0] = '\0';
    if (!good(api, ORT(api, SessionGetModelMetadata)(session, &metadata), NULL)) {
        return 0;
    }
    if (good(api,
             ORT(api, ModelMetadataLookupCustomMetadataMap)(metadata, runtime->allocator, key,
                                                            &found),
             NULL)) {
        fits = 1;
        if (found) {
            fits = strlen(found) < size;
            if (fits) {
                strcpy(value, found);
            }
            good(api, ORT(api, AllocatorFree)(runtime->allocator, found), NULL);
        }
    }
    ORT(api, ReleaseModelMetadata)(metadata);
    return fits;
}

static int copy_output(const OrtApi *api, OrtValue *value, const w2s_tensor *output,
                       char *message) {
    OrtTensorTypeAndShapeInfo *shape = NULL;
    void *data = NULL;
    size_t count = 0;
    int kind = 0;
    if (!good(api, ORT(api, GetTensorTypeAndShape)(value, &shape), message)) {
        return 0;
    }
    int fine = good(api, ORT(api, GetTensorShapeElementCount)(shape, &count), message) &&
               good(api, ORT(api, GetTensorElementType)(shape, (void *)&kind), message);
    ORT(api, ReleaseTensorTypeAndShapeInfo)(shape);
    int expected = output->is_double ? ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE
                                   : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    if (fine && (count != output->count || kind != expected)) {
        w2s_msg(message, "output %s has %zu numbers where %zu were expected", output->name, count,
                output->count);
        return 0;
    }
    if (!fine || !good(api, ORT(api, GetTensorMutableData)(value, &data), message)) {
        return 0;
    }
    memcpy(output->data, data, count * (output->is_double ? sizeof(double) : sizeof(float)));
    return 1;
}

w2s_status w2s_session_run(w2s_runtime *runtime, OrtSession *session, const w2s_tensor *inputs,
                           size_t input_count, const w2s_tensor *outputs, size_t output_count,
                           char *message) {
    const OrtApi *api = runtime->api;
    OrtValue *given[W2S_TENSORS] = {NULL};
    OrtValue *made[W2S_TENSORS] = {NULL};
    const char *given_names[W2S_TENSORS] = {NULL}, *made_names[W2S_TENSORS] = {NULL};
    int fine = 1;
    for (size_t i = 0; i < input_count && fine; i++) {
        const w2s_tensor *input = &inputs[i];
        int64_t shape[2] = {1, (int64_t)input->count};
        size_t size = input->is_double ? sizeof(double) : sizeof(float);
        given_names[i] = input->name;
        fine = good(api,
                    ORT(api, CreateTensorWithDataAsOrtValue)(
                        runtime->memory, input->data, input->count * size,
                        shape + 2 - input->rank, input->rank,
                        input->is_double ? ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE
                                         : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
                        &given[i]),
                    message);
    }
    for (size_t i = 0; i < output_count; i++) {
        made_names[i] = outputs[i].name;
    }
    fine = fine && good(api,
                        ORT(api, Run)(session, NULL, given_names,
                                      (const OrtValue *const *)given, input_count, made_names,
                                      output_count, made),
                        message);
    for (size_t i = 0; i < output_count && fine; i++) {
        fine = copy_output(api, made[i], &outputs[i], message);
    }
    for (size_t i = 0; i < W2S_TENSORS; i++) {
        if (given[i]) {
            ORT(api, ReleaseValue)(given[i]);
        }
        if (made[i]) {
            ORT(api, ReleaseValue)(made[i]);
        }
    }
    return fine ? W2S_OK : W2S_ERROR_RUN;
}
