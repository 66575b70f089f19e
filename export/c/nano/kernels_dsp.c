#ifdef W2S_DSP
/* Cortex-M4, M7 and M33: SXTB16 widens bytes 0 and 2 of a word (rotated by 8: 1 and 3), SMLAD does
 * two products of 16 bits. */

typedef uint32_t __attribute__((may_alias)) word; /* aligned to 4 */
typedef uint32_t __attribute__((may_alias, aligned(1))) odd_word;

W2S_INLINE int16x2_t even_bytes(uint32_t bytes) {
    return __sxtb16((int8x4_t)bytes);
}

W2S_INLINE int16x2_t odd_bytes(uint32_t bytes) {
    int16x2_t pair; /* compilers do not fold the rotation */
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(pair) : "r"(bytes));
    return pair;
}

/* sum plus the products of four weights and of inputs that were widened already. One block of
 * assembler: compilers would load all weights first and run out of registers. */
W2S_INLINE int32_t four(const int8_t *weight, uint32_t even, uint32_t odd, int32_t sum) {
    uint32_t bytes, pair;
    __asm__("ldr %1, %3\n\t"
            "sxtb16 %2, %1\n\t"
            "smlad %0, %2, %4, %0\n\t"
            "sxtb16 %2, %1, ror #8\n\t"
            "smlad %0, %2, %5, %0"
            : "+r"(sum), "=&r"(bytes), "=&r"(pair)
            : "m"(*(const odd_word *)weight), "r"(even), "r"(odd));
    return sum;
}

#pragma GCC diagnostic push /* gcc's own __ssat warns of itself */
#pragma GCC diagnostic ignored "-Wsign-conversion"
/* One sum of output o -> its number. The ranges are constants of the caller. */
W2S_INLINE int32_t output(const layer l, int o, int32_t sum, const int32_t low,
                          const int32_t high) {
    const int32_t multiplier = l.multiplier[o];
    int64_t product = (int64_t)(int32_t)((uint32_t)sum << l.left) * multiplier;
    int32_t v; /* requantise; ASR reads the lowest 8 bits only, which compilers do not know */
    __asm__("asr %0, %1, %2" : "=r"(v) : "r"((int32_t)(product >> 32)), "r"(multiplier));
    v = (v + 1) >> 1;
    return low == 0 && high == 32767      ? (int32_t)__usat(v, 15)
           : low == 0 && high == 127      ? (int32_t)__usat(v, 7)
           : low == -128 && high == 127   ? __ssat(v, 8)
           : low == -2048 && high == 2047 ? __ssat(v, 12)
                                          : clamp(v, low, high);
}
#pragma GCC diagnostic pop

/* Outputs of a layer with weight (outputs, inputs), cut to low..high. Four at a time; the number of
 * inputs is a constant of the caller, so that one pointer reaches all four rows. */
W2S_INLINE void linear(const layer l, const int8_t *x, const int inputs, const int outputs,
                       const int32_t low, const int32_t high, int16_t *out) {
    word wide[STEM_TAPS * MELS / 2]; /* x as pairs: bytes 0, 2 and bytes 1, 3 of each word */
    const int8_t *w = l.weight;
    for (int i = 0; i < inputs; i += 4) {
        uint32_t bytes = *(const word *)(x + i);
        wide[i / 2] = (uint32_t)even_bytes(bytes);
        wide[i / 2 + 1] = (uint32_t)odd_bytes(bytes);
    }
    for (int o = 0; o < outputs; o += 4) {
        int32_t sa = l.bias[o], sb = l.bias[o + 1], sc = l.bias[o + 2], sd = l.bias[o + 3];
        const word *pair = wide;
        for (const int8_t *last = w + inputs; w < last; w += 8, pair += 4) {
            sa = four(w, pair[0], pair[1], sa);
            sb = four(w + inputs, pair[0], pair[1], sb);
            sc = four(w + 2 * inputs, pair[0], pair[1], sc);
            sd = four(w + 3 * inputs, pair[0], pair[1], sd);
            sa = four(w + 4, pair[2], pair[3], sa);
            sb = four(w + inputs + 4, pair[2], pair[3], sb);
            sc = four(w + 2 * inputs + 4, pair[2], pair[3], sc);
            sd = four(w + 3 * inputs + 4, pair[2], pair[3], sd);
        }
        w += 3 * inputs;
        out[o] = (int16_t)output(l, o, sa, low, high);
        out[o + 1] = (int16_t)output(l, o + 1, sb, low, high);
        out[o + 2] = (int16_t)output(l, o + 2, sc, low, high);
        out[o + 3] = (int16_t)output(l, o + 3, sd, low, high);
    }
}

#ifdef VOICE
/* The VOICE outputs of a layer, cut to 0..127: slower than `linear`, but small. */
static W2S_ONCE void few(const layer *l, const int8_t *x, int inputs, int16_t *out) {
    word wide[STEM_TAPS * MELS / 2];
    const int8_t *w = l->weight;
    for (int i = 0; i < inputs; i += 4) {
        uint32_t bytes = *(const word *)(x + i);
        wide[i / 2] = (uint32_t)even_bytes(bytes);
        wide[i / 2 + 1] = (uint32_t)odd_bytes(bytes);
    }
    for (int o = 0; o < VOICE; o++) {
        int32_t sum = l->bias[o];
        for (int i = 0; i < inputs; i += 4, w += 4) {
            sum = four(w, wide[i / 2], wide[i / 2 + 1], sum);
        }
        out[o] = (int16_t)output(*l, o, sum, 0, 127);
    }
}
#endif

/* Outputs of a depthwise layer with weight (TAPS, CHANNELS); tap[k] points to the k-th inputs. */
W2S_INLINE void depthwise(const layer l, const int16_t *const *tap, int8_t *out) {
    for (int c = 0; c < CHANNELS; c += 4) {
        int32_t sa = l.bias[c], sb = l.bias[c + 1], sc = l.bias[c + 2], sd = l.bias[c + 3];
#pragma GCC unroll 8
        for (int k = 0; k < TAPS; k++) {
            uint32_t bytes = *(const odd_word *)(l.weight + k * CHANNELS + c);
            const word *x = (const word *)(tap[k] + c);
            int16x2_t even = even_bytes(bytes), odd = odd_bytes(bytes);
            int32_t low = (int32_t)x[0], high = (int32_t)x[1];
            sa = __smlabb(even, low, sa);
            sb = __smlabt(odd, low, sb);
            sc = __smlatb(even, high, sc);
            sd = __smlatt(odd, high, sd);
        }
        out[c] = (int8_t)output(l, c, sa, -128, 127);
        out[c + 1] = (int8_t)output(l, c + 1, sb, -128, 127);
        out[c + 2] = (int8_t)output(l, c + 2, sc, -128, 127);
        out[c + 3] = (int8_t)output(l, c + 3, sd, -128, 127);
    }
}

/* y + more, both of CHANNELS numbers that are not negative, cut to 32767. */
W2S_INLINE void add(int16_t *y, const int16_t *more) {
    for (int c = 0; c < CHANNELS; c += 2) {
        word *pair = (word *)(y + c);
        *pair = (uint32_t)__qadd16((int16x2_t)*pair, (int16x2_t)*(const word *)(more + c));
    }
}

/* Sum of squares. */
W2S_INLINE uint64_t energy_of(const int16_t *samples, uint32_t n) {
    int64_t sum = 0;
    uint32_t i = 0;
    for (; i + 2u <= n; i += 2u) {
        int16x2_t pair = (int16x2_t) * (const odd_word *)(samples + i);
        sum = __smlald(pair, pair, sum);
    }
    return (uint64_t)sum + (i < n ? (uint64_t)((int32_t)samples[i] * samples[i]) : 0u);
}
#endif
