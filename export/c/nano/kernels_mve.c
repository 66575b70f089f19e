#ifdef W2S_MVE
/* Cortex-M55 and M85: VMLADAVA does sixteen products of 8 bits; four outputs are requantised at
 * once, VRSHL with a negative number shifts right and rounds. */

/* Four sums of the outputs from o on -> their numbers. */
W2S_INLINE int32x4_t four_outputs(const layer l, int o, int32x4_t sums, const int32_t low,
                                  const int32_t high) {
    int32x4_t multiplier = vldrwq_s32(l.multiplier + o);
    int32x4_t v = vmulhq_s32(vshlq_r_s32(sums, l.left), multiplier);
    v = vrshlq_s32(v, vmvnq_s32(multiplier)); /* reads the lowest 8 bits only */
    return vminq_s32(vmaxq_s32(v, vdupq_n_s32(low)), vdupq_n_s32(high));
}

/* Outputs of a layer with weight (outputs, inputs), cut to low..high; inputs is a multiple of 8. */
W2S_INLINE void linear(const layer l, const int8_t *x, const int inputs, const int outputs,
                       const int32_t low, const int32_t high, int16_t *out) {
    const mve_pred16_t rest = vctp8q((uint32_t)inputs % 16u);
    const int8_t *w = l.weight;
    for (int o = 0; o < outputs; o += 4) {
        int32_t sums[4];
        for (int i = 0; i < 4; i++, w += inputs) {
            int32_t sum = l.bias[o + i];
#pragma GCC unroll 8
            for (int at = 0; at + 16 <= inputs; at += 16) {
                sum = vmladavaq_s8(sum, vldrbq_s8(x + at), vldrbq_s8(w + at));
            }
            if (inputs % 16) {
                const int at = inputs / 16 * 16;
                sum = vmladavaq_s8(sum, vldrbq_z_s8(x + at, rest), vldrbq_z_s8(w + at, rest));
            }
            sums[i] = sum;
        }
        vstrhq_s32(out + o, four_outputs(l, o, vldrwq_s32(sums), low, high));
    }
}

#ifdef VOICE
/* The VOICE outputs of a layer, cut to 0..127: slower than `linear`, but small. */
static W2S_ONCE void few(const layer *l, const int8_t *x, int inputs, int16_t *out) {
    const int8_t *w = l->weight;
    for (int o = 0; o < VOICE; o += 4) {
        int32_t sums[4];
        for (int i = 0; i < 4; i++, w += inputs) {
            int32_t sum = l->bias[o + i];
            for (int at = 0; at < inputs; at += 16) {
                const mve_pred16_t rest = vctp8q((uint32_t)(inputs - at));
                sum = vmladavaq_s8(sum, vldrbq_z_s8(x + at, rest), vldrbq_z_s8(w + at, rest));
            }
            sums[i] = sum;
        }
        vstrhq_s32(out + o, four_outputs(*l, o, vldrwq_s32(sums), 0, 127));
    }
}
#endif

/* Outputs of a depthwise layer with weight (TAPS, CHANNELS); tap[k] points to the k-th inputs. */
W2S_INLINE void depthwise(const layer l, const int16_t *const *tap, int8_t *out) {
    for (int c = 0; c < CHANNELS; c += 4) {
        int32x4_t sums = vldrwq_s32(l.bias + c);
#pragma GCC unroll 8
        for (int k = 0; k < TAPS; k++) {
            int32x4_t weights = vldrbq_s32(l.weight + k * CHANNELS + c);
            sums = vaddq_s32(sums, vmulq_s32(weights, vldrhq_s32(tap[k] + c)));
        }
        vstrbq_s32(out + c, four_outputs(l, c, sums, -128, 127));
    }
}

/* y + more, both of CHANNELS numbers that are not negative, cut to 32767. */
W2S_INLINE void add(int16_t *y, const int16_t *more) {
    for (int c = 0; c < CHANNELS; c += 8) {
        vstrhq_s16(y + c, vqaddq_s16(vldrhq_s16(y + c), vldrhq_s16(more + c)));
    }
}

/* Sum of squares. */
W2S_INLINE uint64_t energy_of(const int16_t *samples, uint32_t n) {
    int64_t sum = 0;
    for (uint32_t i = 0; i < n; i += 8u) {
        int16x8_t part = vldrhq_z_s16(samples + i, vctp16q(n - i));
        sum = vmlaldavaq_s16(sum, part, part);
    }
    return (uint64_t)sum;
}
#endif
