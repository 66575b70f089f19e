#if !defined(W2S_MVE) && !defined(W2S_DSP)
/* Outputs of a layer with weight (outputs, inputs), cut to low..high. Four at a time: each input is
 * loaded once for four products. */
W2S_INLINE void linear(const layer l, const int8_t *x, const int inputs, const int outputs,
                       const int32_t low, const int32_t high, int16_t *out) {
    const int8_t *a = l.weight;
    for (int o = 0; o < outputs; o += 4, a += 4 * inputs) {
        const int8_t *b = a + inputs, *c = b + inputs, *d = c + inputs;
        int32_t sums[4] = {l.bias[o], l.bias[o + 1], l.bias[o + 2], l.bias[o + 3]};
        for (int i = 0; i < inputs; i++) {
            int32_t v = x[i];
            sums[0] += a[i] * v;
            sums[1] += b[i] * v;
            sums[2] += c[i] * v;
            sums[3] += d[i] * v;
        }
        for (int i = 0; i < 4; i++) {
            int32_t v = requantise(sums[i], l.left, l.multiplier[o + i]);
            out[o + i] = (int16_t)clamp(v, low, high);
        }
    }
}

#ifdef VOICE
/* The VOICE outputs of a layer, cut to 0..127: slower than `linear`, but small. */
static W2S_ONCE void few(const layer *l, const int8_t *x, int inputs, int16_t *out) {
    const int8_t *w = l->weight;
    for (int o = 0; o < VOICE; o++) {
        int32_t sum = l->bias[o];
        for (int i = 0; i < inputs; i++) {
            sum += *w++ * x[i];
        }
        sum = requantise(sum, l->left, l->multiplier[o]);
        out[o] = (int16_t)clamp(sum, 0, 127);
    }
}
#endif

/* Outputs of a depthwise layer with weight (TAPS, CHANNELS); tap[k] points to the k-th inputs. */
W2S_INLINE void depthwise(const layer l, const int16_t *const *tap, int8_t *out) {
    for (int c = 0; c < CHANNELS; c++) {
        int32_t sum = l.bias[c];
        for (int k = 0; k < TAPS; k++) {
            sum += l.weight[k * CHANNELS + c] * (int32_t)tap[k][c];
        }
        out[c] = (int8_t)clamp(requantise(sum, l.left, l.multiplier[c]), -128, 127);
    }
}

/* y + more, both of CHANNELS numbers that are not negative, cut to 32767. */
W2S_INLINE void add(int16_t *y, const int16_t *more) {
    for (int c = 0; c < CHANNELS; c++) {
        y[c] = (int16_t)clamp(y[c] + more[c], 0, 32767);
    }
}

/* Sum of squares. */
W2S_INLINE uint64_t energy_of(const int16_t *samples, uint32_t n) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        int32_t v = samples[i];
        sum += (uint32_t)(v * v);
    }
    return sum;
}
#endif
