/* ---- stream ------------------------------------------------------------------------------- */

static int32_t gate_weight_of_hop(w2s_state *s) {
    s->loudest -= (s->loudest * LOUDEST_FADE) >> 16;
    s->loudest = s->energy > s->loudest ? s->energy : s->loudest;
    if (s->energy >= OPEN_ENERGY && s->energy * OPEN_RANGE >= s->loudest) {
        s->gate_open = 1;
    }
    if (s->energy >= CLOSE_ENERGY && s->energy * CLOSE_RANGE >= s->loudest) {
        s->below = 0;
    } else if (s->below <= HOLD_HOPS) {
        s->below++;
    }
    if (s->below > HOLD_HOPS) {
        s->gate_open = 0;
    }
    int32_t voice = (int32_t)(s->voice_sum / HOP);
    s->voice_sum = 0;
    s->energy = 0;
    return (s->gate_open || !s->gate_enabled) ? voice : 0;
}

static void hop(w2s_state *s) {
    int32_t weight = gate_weight_of_hop(s);
    s->samples += HOP;
    s->counted += (uint64_t)weight * HOP;
    if (s->started) { /* the first hop alone is no frame */
        W2S_STAGE(1);
        spectrum(s);
        W2S_STAGE(2);
        features(s);
        W2S_STAGE(3);
        stem(s);
        W2S_STAGE(4);
        int16_t *ring = s->past;
        for (int number = 0; number < BLOCKS; number++) {
            block(s, number, ring);
            ring += (TAPS - 1) * dilations[number] * CHANNELS;
        }
        W2S_STAGE(5);
        if (weight > 0) {
            pool(s, weight);
        }
        W2S_STAGE(0);
    }
    s->started = 1;
    memcpy(s->signal, s->signal + HOP, HOP * sizeof *s->signal);
    s->filled = 0;
}

static w2s_status check(const w2s_state *s) {
    if (s == NULL) {
        return W2S_ERROR_NULL;
    }
    if (((uintptr_t)s & 7u) != 0u || s->magic != MAGIC) {
        return W2S_ERROR_STATE;
    }
    return W2S_OK;
}

/* Take n samples, up to the end of the hop that fills. */
static void process(w2s_state *s, const int16_t *samples, uint32_t n) {
    memcpy(s->signal + HOP + s->filled, samples, n * sizeof *samples);
    s->energy += energy_of(samples, n);
    s->voice_sum += (uint64_t)n * (uint32_t)s->voice;
    s->filled += n;
    if (s->filled == HOP) {
        hop(s);
    }
}

static uint32_t smaller(size_t n, uint32_t most) {
    return n < most ? (uint32_t)n : most;
}

w2s_status w2s_push(w2s_state *state, const int16_t *samples, size_t n) {
    w2s_status status = check(state);
    if (status == W2S_OK && samples == NULL && n > 0u) {
        status = W2S_ERROR_NULL;
    }
    while (status == W2S_OK && n > 0u) {
        uint32_t part = smaller(n, HOP - state->filled);
        process(state, samples, part);
        samples += part;
        n -= part;
    }
    return status;
}

w2s_status w2s_push_float(w2s_state *state, const float *samples, size_t n) {
    int16_t rounded[32];
    w2s_status status = check(state);
    if (status == W2S_OK && samples == NULL && n > 0u) {
        status = W2S_ERROR_NULL;
    }
    for (size_t i = 0; status == W2S_OK && i < n; i++) {
        if (!(samples[i] >= -3.0e38f && samples[i] <= 3.0e38f)) {
            status = W2S_ERROR_SIGNAL;
        }
    }
    while (status == W2S_OK && n > 0u) {
        uint32_t part = smaller(smaller(n, 32u), HOP - state->filled);
        for (uint32_t i = 0; i < part; i++) {
            float v = samples[i] * 32768.0f;
            v = v < -32768.0f ? -32768.0f : (v > 32767.0f ? 32767.0f : v);
            rounded[i] = (int16_t)((int32_t)(v + 32768.5f) - 32768);
        }
        process(state, rounded, part);
        samples += part;
        n -= part;
    }
    return status;
}

/* A sum of the pooling, 0..2^60, rounded to float: six times as fast as the compiler's own. */
static float number(int64_t sum) {
    uint32_t high = (uint32_t)((uint64_t)sum >> 32), low = (uint32_t)sum, shift = 0;
    for (uint32_t rest = high; rest != 0u; rest >>= 4) {
        shift += 4u;
    }
    if (shift == 0u) {
        return (float)low;
    }
    uint32_t top = high << (32u - shift) | low >> shift;
    top |= low << (32u - shift) != 0u ? 1u : 0u; /* so that what falls off still rounds */
    union {
        uint32_t bits;
        float number;
    } scale = {(127u + shift) << 23};
    return (float)top * scale.number;
}

static void estimate_from(const w2s_state *s, const float *ratio, w2s_estimate *estimate) {
    float sums[3] = {head_bias[0], head_bias[1], head_bias[2]};
    for (int c = 0; c < POOLED; c++) {
        for (int i = 0; i < 3; i++) {
            sums[i] += head[i * POOLED + c] * ratio[c];
        }
    }
    estimate->arousal = sums[0];
    estimate->dominance = sums[1];
    estimate->valence = sums[2];
    estimate->samples = s->samples;
    estimate->counted = s->counted / ONE;
}

static w2s_status check_read(const w2s_state *s, const w2s_estimate *estimate) {
    w2s_status status = estimate == NULL ? W2S_ERROR_NULL : check(s);
    if (status == W2S_OK && s->counted < FIRST_COUNTED) {
        status = W2S_NOT_YET;
    }
    return status;
}

w2s_status w2s_read(const w2s_state *state, w2s_estimate *estimate) {
    w2s_status status = check_read(state, estimate);
    if (status == W2S_OK) {
        float ratio[POOLED];
        for (int c = 0; c < POOLED; c++) {
            ratio[c] = number(state->numerator[c]) / (float)(state->denominator[c] + EMPTY);
        }
        estimate_from(state, ratio, estimate);
    }
    return status;
}

w2s_status w2s_read_overall(const w2s_state *state, w2s_estimate *estimate) {
    w2s_status status = check_read(state, estimate);
    if (status == W2S_OK) {
        float ratio[POOLED];
        for (int c = 0; c < POOLED; c++) {
            ratio[c] = number(state->all_numerator[c]) / number(state->all_denominator[c] + EMPTY);
        }
        estimate_from(state, ratio, estimate);
    }
    return status;
}

w2s_status w2s_set_voice(w2s_state *state, int32_t probability) {
    w2s_status status = check(state);
    if (status == W2S_OK && (probability < 0 || probability > ONE)) {
        status = W2S_ERROR_ARGUMENT;
    }
    if (status == W2S_OK) {
        state->voice = probability;
    }
    return status;
}

w2s_status w2s_set_gate(w2s_state *state, int enabled) {
    w2s_status status = check(state);
    if (status == W2S_OK) {
        state->gate_enabled = enabled != 0;
    }
    return status;
}

#ifdef W2S_TEST
/* What the tests compare with the integer reference. */
const int8_t *w2s_test_features(const w2s_state *s);
int64_t w2s_test_sum(const w2s_state *s, int which, int c);
void w2s_test_forward(w2s_state *s, uint64_t hops);

const int8_t *w2s_test_features(const w2s_state *s) {
    return s->wide + (STEM_TAPS - 1) * MELS;
}

int64_t w2s_test_sum(const w2s_state *s, int which, int c) {
    const int64_t sums[] = {s->numerator[c], s->denominator[c], s->all_numerator[c],
                            s->all_denominator[c]};
    return sums[which];
}

/* As if the audio of the sums so far had come `times` times in all. */
void w2s_test_forward(w2s_state *s, uint64_t times) {
    for (int c = 0; c < POOLED; c++) {
        s->all_numerator[c] *= (int64_t)times;
        s->all_denominator[c] *= (int64_t)times;
    }
    s->samples *= times;
    s->counted *= times;
}
#endif
