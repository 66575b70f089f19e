/* ---- kernels ------------------------------------------------------------------------------ */

/* Which instructions the compiler may use decides which kernels are compiled; all of them compute
 * the same bits. -DW2S_PORTABLE takes the portable ones everywhere. */
#if defined(__ARM_FEATURE_MVE) || defined(__ARM_FEATURE_SIMD32)
#if defined(__GNUC__) && defined(__has_include) /* in two steps, for preprocessors without it */
#if __has_include(<arm_mve.h>)
#define W2S_HAS_MVE_H
#endif
#if __has_include(<arm_acle.h>)
#define W2S_HAS_ACLE_H
#endif
#endif
#if defined(W2S_PORTABLE)
#elif defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 2) && defined(W2S_HAS_MVE_H)
#define W2S_MVE
#include <arm_mve.h>
#elif !defined(__ARM_FEATURE_MVE) && defined(W2S_HAS_ACLE_H)
#define W2S_DSP
#include <arm_acle.h>
#elif !defined(W2S_SAID_PORTABLE)
#define W2S_SAID_PORTABLE
#pragma message("portable kernels, slower: no arm_mve.h or arm_acle.h, or MVE without floats")
#endif
#endif

#if defined(__GNUC__)
#define W2S_INLINE static inline __attribute__((always_inline, unused))
#define W2S_ALIGNED __attribute__((aligned(4)))
#define W2S_ONCE __attribute__((noinline)) /* smaller */
#else
#define W2S_INLINE static inline
#define W2S_ALIGNED
#define W2S_ONCE
#endif

/* The numbers of one layer in integers, see integer.py. */
typedef struct layer {
    const int8_t *weight;
    const int32_t *bias, *multiplier;
    int32_t left;
} layer;

W2S_INLINE int32_t clamp(int32_t value, int32_t low, int32_t high) {
    return value < low ? low : (value > high ? high : value);
}

/* See integer.py, Layer.requantise. */
W2S_INLINE int32_t requantise(int32_t sum, int32_t left, int32_t multiplier) {
    int64_t product = (int64_t)(int32_t)((uint32_t)sum << left) * multiplier;
    return (((int32_t)(product >> 32) >> (multiplier & 255)) + 1) >> 1;
}
