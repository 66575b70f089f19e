/* ---- network, integer --------------------------------------------------------------------- */

#define LAYER(name, i, weights, outputs, left)                                                     \
    (layer){name##_weight + (i) * (weights), name##_bias + (i) * (outputs),                        \
            name##_multiplier + (i) * (outputs), left}

static void stem(nano_state *s) {
    linear(LAYER(stem, 0, 0, 0, STEM_LEFT), s->wide, STEM_TAPS * MELS, CHANNELS, 0, 32767,
           s->frame.layers.y);
}

static void block(nano_state *s, int number, int16_t *ring) {
    const int dilation = dilations[number], length = (TAPS - 1) * dilation;
    const uint32_t now = s->place[number];
    int16_t *y = s->frame.layers.y;
    int8_t *z = s->frame.layers.z;
    const int16_t *tap[TAPS];
    int16_t more[CHANNELS] W2S_ALIGNED;
    for (int k = 0; k < TAPS - 1; k++) {
        uint32_t at = now + (uint32_t)(k * dilation);
        at = at >= (uint32_t)length ? at - (uint32_t)length : at;
        tap[k] = ring + at * CHANNELS;
    }
    tap[TAPS - 1] = y;
    depthwise(LAYER(depthwise, number, CHANNELS * TAPS, CHANNELS, depthwise_left[number]), tap,
              z);
    int16_t *oldest = ring + now * CHANNELS;
    memcpy(oldest, y, CHANNELS * sizeof *oldest);
    s->place[number] = now + 1u == (uint32_t)length ? 0u : now + 1u;
    linear(LAYER(pointwise, number, CHANNELS * CHANNELS, CHANNELS, pointwise_left[number]), z,
           CHANNELS, CHANNELS, 0, 32767, more);
    add(y, more);
}

static int32_t sigmoid(int32_t value) {
    uint32_t place = (uint32_t)(value + 2048);
    int32_t low = sigmoid_table[place >> 4], high = sigmoid_table[(place >> 4) + 1u];
    return low + (((high - low) * (int32_t)(place & 15u) + 8) >> 4);
}

/* y -> input of the layers below, in z. */
static void narrow(nano_state *s) {
    for (int c = 0; c < CHANNELS; c++) {
        int32_t sum = s->frame.layers.y[c] * NARROW_WEIGHT;
        int32_t v = clamp(requantise(sum, NARROW_LEFT, NARROW_MULTIPLIER), 0, 255);
        s->frame.layers.z[c] = (int8_t)(v - 128); /* the biases below take 128 out again */
    }
}

#ifdef VOICE
/* z -> probability that the frame holds speech, Q15. */
static int32_t speech_of(nano_state *s) {
    int8_t past[VOICE_TAPS * VOICE] W2S_ALIGNED; /* oldest first */
    int8_t *newest = past + (VOICE_TAPS - 1) * VOICE, *ring = s->voice_past;
    int16_t out[VOICE];
    layer l = LAYER(voice_first, 0, 0, 0, VOICE_FIRST_LEFT);
    few(&l, s->frame.layers.z, CHANNELS, out);
    for (int i = 0; i < VOICE_LAYERS; i++) {
        const uint32_t dilation = voice_dilations[i], length = (VOICE_TAPS - 1) * dilation;
        const uint32_t now = s->voice_place[i];
        uint32_t at = now;
        for (int8_t *one = past; one < newest; one += VOICE) {
            memcpy(one, ring + at * VOICE, VOICE);
            at += dilation;
            at = at >= length ? at - length : at;
        }
        for (int c = 0; c < VOICE; c++) {
            newest[c] = (int8_t)out[c];
        }
        memcpy(ring + now * VOICE, newest, VOICE);
        s->voice_place[i] = now + 1u == length ? 0u : now + 1u;
        ring += length * VOICE;
        l = LAYER(voice_inner, i, VOICE_TAPS * VOICE * VOICE, VOICE, voice_inner_left[i]);
        few(&l, past, VOICE_TAPS * VOICE, out);
    }
    int32_t sum = voice_last_bias[0];
    for (int c = 0; c < VOICE; c++) {
        sum += voice_last_weight[c] * out[c];
    }
    sum = requantise(sum, VOICE_LAST_LEFT, voice_last_multiplier[0]);
    return sigmoid(clamp(sum, -2048, 2047));
}
#endif

static void pool(nano_state *s, int32_t weight) {
    const int32_t loss = (int32_t)((FADE * weight) >> 15);
    int16_t gates[POOLED], values[POOLED];
#ifndef VOICE /* whose head comes first and needs it too */
    narrow(s);
#endif
    const int8_t *z = s->frame.layers.z;
    linear(LAYER(gate, 0, 0, 0, GATE_LEFT), z, CHANNELS, POOLED, -2048, 2047, gates);
    linear(LAYER(value, 0, 0, 0, VALUE_LEFT), z, CHANNELS, POOLED, 0, 32767, values);
    for (int c = 0; c < POOLED; c++) {
        int32_t g = (sigmoid(gates[c]) * weight + ONE / 2) >> 15;
        int64_t product = (int64_t)g * values[c];
        s->all_numerator[c] += product;
        s->all_denominator[c] += g;
        s->numerator[c] += product - ((s->numerator[c] * loss) >> 24);
        s->denominator[c] += g - (int32_t)(((int64_t)s->denominator[c] * loss) >> 24);
    }
}
