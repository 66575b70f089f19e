/* ---- network, integer --------------------------------------------------------------------- */

/* See integer.py, Layer.requantise. */
static int32_t requantise(int32_t sum, int32_t left, int32_t multiplier, uint8_t right) {
    int64_t product = (int64_t)(sum * (1 << left)) * multiplier;
    int32_t upper = (int32_t)(product >> 32);
    return (upper + ((int32_t)1 << (right - 1u))) >> right;
}

static int32_t clamp(int32_t value, int32_t low, int32_t high) {
    return value < low ? low : (value > high ? high : value);
}

/* weight (outputs, inputs) times x: the sums, without bias. */
#ifdef W2S_CMSIS_NN
static void linear(const int8_t *weight, const int8_t *x, int inputs, int outputs,
                   int32_t *sums) {
    for (int o = 0; o < outputs; o++) {
        sums[o] = 0;
    }
    /* "rows" and "columns" are of the transposed weights; it cannot fail */
    (void)arm_nn_mat_mult_nt_t_s8_s32(x, weight, sums, 1, inputs, outputs, 0, 1);
}
#else
/* Four outputs at a time: each input is loaded once for four products. */
static void linear(const int8_t *weight, const int8_t *x, int inputs, int outputs,
                   int32_t *sums) {
    for (int o = 0; o < outputs; o += 4) {
        const int8_t *a = weight + o * inputs, *b = a + inputs, *c = b + inputs, *d = c + inputs;
        int32_t sa = 0, sb = 0, sc = 0, sd = 0;
        for (int i = 0; i < inputs; i++) {
            int32_t v = x[i];
            sa += a[i] * v;
            sb += b[i] * v;
            sc += c[i] * v;
            sd += d[i] * v;
        }
        sums[o] = sa;
        sums[o + 1] = sb;
        sums[o + 2] = sc;
        sums[o + 3] = sd;
    }
}
#endif

static void stem(w2s_state *s) {
    int32_t sums[CHANNELS];
    linear(stem_weight, s->wide, STEM_TAPS * MELS, CHANNELS, sums);
    for (int o = 0; o < CHANNELS; o++) {
        int32_t v = requantise(sums[o] + stem_bias[o], STEM_LEFT, stem_multiplier[o],
                               stem_right[o]);
        s->y[o] = (int16_t)clamp(v, 0, 32767);
    }
}

static void block(w2s_state *s, int number, int16_t *ring) {
    const int dilation = dilations[number], length = (TAPS - 1) * dilation;
    const uint32_t now = s->place[number];
    const int8_t *deep = depthwise_weight + number * CHANNELS * TAPS;
    const int base = number * CHANNELS;
    const int16_t *tap[TAPS];
    int32_t sums[CHANNELS];
    for (int k = 0; k < TAPS - 1; k++) {
        uint32_t at = now + (uint32_t)(k * dilation);
        at = at >= (uint32_t)length ? at - (uint32_t)length : at;
        tap[k] = ring + at * CHANNELS;
    }
    tap[TAPS - 1] = s->y;
    for (int c = 0; c < CHANNELS; c++) {
        int32_t sum = depthwise_bias[base + c];
        for (int k = 0; k < TAPS; k++) {
            sum += deep[c * TAPS + k] * (int32_t)tap[k][c];
        }
        int32_t v = requantise(sum, depthwise_left[number], depthwise_multiplier[base + c],
                               depthwise_right[base + c]);
        s->z[c] = (int8_t)clamp(v, -128, 127);
    }
    int16_t *oldest = ring + now * CHANNELS;
    for (int c = 0; c < CHANNELS; c++) {
        oldest[c] = s->y[c];
    }
    s->place[number] = now + 1u == (uint32_t)length ? 0u : now + 1u;
    linear(pointwise_weight + base * CHANNELS, s->z, CHANNELS, CHANNELS, sums);
    for (int o = 0; o < CHANNELS; o++) {
        int32_t v = requantise(sums[o] + pointwise_bias[base + o], pointwise_left[number],
                               pointwise_multiplier[base + o], pointwise_right[base + o]);
        s->y[o] = (int16_t)clamp(s->y[o] + clamp(v, 0, 32767), 0, 32767);
    }
}

static int32_t sigmoid(int32_t value) {
    uint32_t place = (uint32_t)(clamp(value, -2048, 2047) + 2048);
    int32_t low = sigmoid_table[place >> 4], high = sigmoid_table[(place >> 4) + 1u];
    return low + (((high - low) * (int32_t)(place & 15u) + 8) >> 4);
}

static void pool(w2s_state *s, int32_t weight) {
    const int64_t loss = (FADE * weight) >> 15;
    int32_t gates[POOLED], values[POOLED];
    for (int c = 0; c < CHANNELS; c++) {
        int32_t v = requantise(s->y[c] * NARROW_WEIGHT, NARROW_LEFT, NARROW_MULTIPLIER,
                               NARROW_RIGHT);
        s->z[c] = (int8_t)(clamp(v, 0, 255) - 128); /* the biases below take 128 out again */
    }
    linear(gate_weight, s->z, CHANNELS, POOLED, gates);
    linear(value_weight, s->z, CHANNELS, POOLED, values);
    for (int c = 0; c < POOLED; c++) {
        int32_t g = sigmoid(requantise(gates[c] + gate_bias[c], GATE_LEFT, gate_multiplier[c],
                                       gate_right[c]));
        int32_t v = clamp(requantise(values[c] + value_bias[c], VALUE_LEFT, value_multiplier[c],
                                     value_right[c]),
                          0, 32767);
        g = (g * weight + ONE / 2) >> 15;
        s->all_numerator[c] += (int64_t)g * v;
        s->all_denominator[c] += g;
        s->numerator[c] += (int64_t)g * v - ((s->numerator[c] * loss) >> 24);
        s->denominator[c] += g - ((s->denominator[c] * loss) >> 24);
    }
}
