/* ---- network, integer --------------------------------------------------------------------- */

#define LAYER(name, i, weights, outputs, left)                                                     \
    (layer){name##_weight + (i) * (weights), name##_bias + (i) * (outputs),                        \
            name##_multiplier + (i) * (outputs), name##_right + (i) * (outputs), left}

static void stem(nano_state *s) {
    linear(LAYER(stem, 0, 0, 0, STEM_LEFT), s->wide, STEM_TAPS * MELS, CHANNELS, 0, 32767, s->y);
}

static void block(nano_state *s, int number, int16_t *ring) {
    const int dilation = dilations[number], length = (TAPS - 1) * dilation;
    const uint32_t now = s->place[number];
    const int16_t *tap[TAPS];
    int16_t more[CHANNELS] W2S_ALIGNED;
    for (int k = 0; k < TAPS - 1; k++) {
        uint32_t at = now + (uint32_t)(k * dilation);
        at = at >= (uint32_t)length ? at - (uint32_t)length : at;
        tap[k] = ring + at * CHANNELS;
    }
    tap[TAPS - 1] = s->y;
    depthwise(LAYER(depthwise, number, CHANNELS * TAPS, CHANNELS, depthwise_left[number]), tap,
              s->z);
    int16_t *oldest = ring + now * CHANNELS;
    memcpy(oldest, s->y, CHANNELS * sizeof *oldest);
    s->place[number] = now + 1u == (uint32_t)length ? 0u : now + 1u;
    linear(LAYER(pointwise, number, CHANNELS * CHANNELS, CHANNELS, pointwise_left[number]), s->z,
           CHANNELS, CHANNELS, 0, 32767, more);
    add(s->y, more);
}

static int32_t sigmoid(int32_t value) {
    uint32_t place = (uint32_t)(value + 2048);
    int32_t low = sigmoid_table[place >> 4], high = sigmoid_table[(place >> 4) + 1u];
    return low + (((high - low) * (int32_t)(place & 15u) + 8) >> 4);
}

static void pool(nano_state *s, int32_t weight) {
    const int32_t loss = (int32_t)((FADE * weight) >> 15);
    int16_t gates[POOLED], values[POOLED];
    for (int c = 0; c < CHANNELS; c++) {
        int32_t v = requantise(s->y[c] * NARROW_WEIGHT, NARROW_LEFT, NARROW_MULTIPLIER,
                               NARROW_RIGHT);
        s->z[c] = (int8_t)(clamp(v, 0, 255) - 128); /* the biases below take 128 out again */
    }
    linear(LAYER(gate, 0, 0, 0, GATE_LEFT), s->z, CHANNELS, POOLED, -2048, 2047, gates);
    linear(LAYER(value, 0, 0, 0, VALUE_LEFT), s->z, CHANNELS, POOLED, 0, 32767, values);
    for (int c = 0; c < POOLED; c++) {
        int32_t g = (sigmoid(gates[c]) * weight + ONE / 2) >> 15;
        int64_t product = (int64_t)g * values[c];
        s->all_numerator[c] += product;
        s->all_denominator[c] += g;
        s->numerator[c] += product - ((s->numerator[c] * loss) >> 24);
        s->denominator[c] += g - (int32_t)(((int64_t)s->denominator[c] * loss) >> 24);
    }
}
