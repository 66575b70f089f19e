/* The part of ONNX Runtime's C interface that wav2small calls.
 *
 * The interface is one table of functions that only ever grows: a function keeps its place for
 * ever, so its place is all a caller has to know. With -DORT_INCLUDE_DIR= (CMake) the user's own
 * onnxruntime_c_api.h is used instead, which also checks these declarations' use. */
#ifndef W2S_ORT_H
#define W2S_ORT_H

#include <stddef.h>
#include <stdint.h>

#define W2S_ORT_API_VERSION 16u

#ifdef W2S_ORT_HEADER

#include <onnxruntime_c_api.h>
#define ORT(api, name) ((api)->name)

#else

typedef struct OrtStatus OrtStatus;
typedef struct OrtEnv OrtEnv;
typedef struct OrtSession OrtSession;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtRunOptions OrtRunOptions;
typedef struct OrtMemoryInfo OrtMemoryInfo;
typedef struct OrtAllocator OrtAllocator;
typedef struct OrtValue OrtValue;
typedef struct OrtTypeInfo OrtTypeInfo;
typedef struct OrtTensorTypeAndShapeInfo OrtTensorTypeAndShapeInfo;
typedef struct OrtModelMetadata OrtModelMetadata;

enum {
    ORT_LOGGING_LEVEL_FATAL = 4,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE = 11,
    OrtDeviceAllocator = 0,
    OrtMemTypeDefault = 0
};

typedef void (*OrtFunction)(void);
typedef struct OrtApi {
    OrtFunction slots[131];
} OrtApi;
typedef struct OrtApiBase {
    const OrtApi *(*GetApi)(uint32_t version);
    const char *(*GetVersionString)(void);
} OrtApiBase;

/* name, place, arguments */
#define W2S_ORT_FUNCTIONS(X)                                                                      \
    X(const char *, GetErrorMessage, 2, (const OrtStatus *))                                      \
    X(OrtStatus *, CreateEnv, 3, (int, const char *, OrtEnv **))                                  \
    X(OrtStatus *, CreateSessionFromArray, 8,                                                     \
      (const OrtEnv *, const void *, size_t, const OrtSessionOptions *, OrtSession **))           \
    X(OrtStatus *, Run, 9,                                                                        \
      (OrtSession *, const OrtRunOptions *, const char *const *, const OrtValue *const *, size_t, \
       const char *const *, size_t, OrtValue **))                                                 \
    X(OrtStatus *, CreateSessionOptions, 10, (OrtSessionOptions **))                              \
    X(OrtStatus *, DisableCpuMemArena, 19, (OrtSessionOptions *))                                 \
    X(OrtStatus *, SetSessionLogSeverityLevel, 22, (OrtSessionOptions *, int))                    \
    X(OrtStatus *, SetIntraOpNumThreads, 24, (OrtSessionOptions *, int))                          \
    X(OrtStatus *, SetInterOpNumThreads, 25, (OrtSessionOptions *, int))                          \
    X(OrtStatus *, SessionGetInputCount, 30, (const OrtSession *, size_t *))                      \
    X(OrtStatus *, SessionGetOutputCount, 31, (const OrtSession *, size_t *))                     \
    X(OrtStatus *, SessionGetInputTypeInfo, 33, (const OrtSession *, size_t, OrtTypeInfo **))     \
    X(OrtStatus *, SessionGetOutputTypeInfo, 34, (const OrtSession *, size_t, OrtTypeInfo **))    \
    X(OrtStatus *, SessionGetInputName, 36,                                                       \
      (const OrtSession *, size_t, OrtAllocator *, char **))                                      \
    X(OrtStatus *, SessionGetOutputName, 37,                                                      \
      (const OrtSession *, size_t, OrtAllocator *, char **))                                      \
    X(OrtStatus *, CreateTensorWithDataAsOrtValue, 49,                                            \
      (const OrtMemoryInfo *, void *, size_t, const int64_t *, size_t, int, OrtValue **))         \
    X(OrtStatus *, GetTensorMutableData, 51, (OrtValue *, void **))                               \
    X(OrtStatus *, CastTypeInfoToTensorInfo, 55,                                                  \
      (const OrtTypeInfo *, const OrtTensorTypeAndShapeInfo **))                                  \
    X(OrtStatus *, GetTensorElementType, 60, (const OrtTensorTypeAndShapeInfo *, int *))          \
    X(OrtStatus *, GetDimensionsCount, 61, (const OrtTensorTypeAndShapeInfo *, size_t *))         \
    X(OrtStatus *, GetDimensions, 62, (const OrtTensorTypeAndShapeInfo *, int64_t *, size_t))     \
    X(OrtStatus *, GetTensorShapeElementCount, 64,                                                \
      (const OrtTensorTypeAndShapeInfo *, size_t *))                                              \
    X(OrtStatus *, GetTensorTypeAndShape, 65, (const OrtValue *, OrtTensorTypeAndShapeInfo **))   \
    X(OrtStatus *, CreateCpuMemoryInfo, 69, (int, int, OrtMemoryInfo **))                         \
    X(OrtStatus *, AllocatorFree, 76, (OrtAllocator *, void *))                                   \
    X(OrtStatus *, GetAllocatorWithDefaultOptions, 78, (OrtAllocator **))                         \
    X(void, ReleaseEnv, 92, (OrtEnv *))                                                           \
    X(void, ReleaseStatus, 93, (OrtStatus *))                                                     \
    X(void, ReleaseMemoryInfo, 94, (OrtMemoryInfo *))                                             \
    X(void, ReleaseSession, 95, (OrtSession *))                                                   \
    X(void, ReleaseValue, 96, (OrtValue *))                                                       \
    X(void, ReleaseTypeInfo, 98, (OrtTypeInfo *))                                                 \
    X(void, ReleaseTensorTypeAndShapeInfo, 99, (OrtTensorTypeAndShapeInfo *))                     \
    X(void, ReleaseSessionOptions, 100, (OrtSessionOptions *))                                    \
    X(OrtStatus *, SessionGetModelMetadata, 111, (const OrtSession *, OrtModelMetadata **))       \
    X(OrtStatus *, ModelMetadataLookupCustomMetadataMap, 116,                                     \
      (const OrtModelMetadata *, OrtAllocator *, const char *, char **))                          \
    X(void, ReleaseModelMetadata, 118, (OrtModelMetadata *))                                      \
    X(OrtStatus *, AddSessionConfigEntry, 130,                                                    \
      (OrtSessionOptions *, const char *, const char *))

#define W2S_ORT_DECLARE(result, name, slot, arguments)  \
    enum { Ort_slot_##name = (slot) };                  \
    typedef result(*Ort_function_##name) arguments;
W2S_ORT_FUNCTIONS(W2S_ORT_DECLARE)
#undef W2S_ORT_DECLARE

#define ORT(api, name) ((Ort_function_##name)(api)->slots[Ort_slot_##name])

#endif

#endif
