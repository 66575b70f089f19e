/* ---- stream ------------------------------------------------------------------------------- */

static int32_t gate_weight_of_hop(nano_state *s) {
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
    return (s->gate_open || s->gate != GATE_ENERGY) ? voice : 0;
}

static void hop(nano_state *s) {
    int32_t weight = gate_weight_of_hop(s);
#ifdef VOICE
    if (s->gate == GATE_VOICE && !s->started) {
        weight = 0;
    }
#endif
    s->samples += HOP;
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
#ifdef VOICE
        narrow(s);
        s->speech = speech_of(s);
        if (s->gate == GATE_VOICE && s->speech < W2S_SPOKEN) {
            weight = 0;
        }
#endif
        if (weight > 0) {
            pool(s, weight);
        }
        W2S_STAGE(0);
    }
    s->counted += (uint64_t)weight * HOP;
    s->started = 1;
    memcpy(s->signal, s->signal + HOP, HOP * sizeof *s->signal);
    s->filled = 0;
}

static W2S_ONCE nano_status check(const nano_state *s) {
    if (s == NULL) {
        return NANO_ERROR_NULL;
    }
    if (((uintptr_t)s & 7u) != 0u || s->magic != MAGIC) {
        return NANO_ERROR_STATE;
    }
    return NANO_OK;
}

/* Take n samples, up to the end of the hop that fills. */
static void process(nano_state *s, const int16_t *samples, uint32_t n) {
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

nano_status nano_push(nano_state *state, const int16_t *samples, size_t n) {
    nano_status status = check(state);
    if (status == NANO_OK && samples == NULL && n > 0u) {
        status = NANO_ERROR_NULL;
    }
    while (status == NANO_OK && n > 0u) {
        uint32_t part = smaller(n, HOP - state->filled);
        process(state, samples, part);
        samples += part;
        n -= part;
    }
    return status;
}

nano_status nano_push_float(nano_state *state, const float *samples, size_t n) {
    int16_t rounded[32];
    nano_status status = check(state);
    if (status == NANO_OK && samples == NULL && n > 0u) {
        status = NANO_ERROR_NULL;
    }
    for (size_t i = 0; status == NANO_OK && i < n; i++) {
        if (!(samples[i] >= -1.0e6f && samples[i] <= 1.0e6f)) {
            status = NANO_ERROR_SIGNAL;
        }
    }
    while (status == NANO_OK && n > 0u) {
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
    if (high == 0u) {
        return (float)low;
    }
#ifdef __GNUC__
    shift = 32u - (uint32_t)__builtin_clz(high); /* at most 29 */
#else
    for (uint32_t rest = high; rest != 0u; rest >>= 4) {
        shift += 4u;
    }
#endif
    uint32_t top = high << (32u - shift) | low >> shift;
    top |= low << (32u - shift) != 0u ? 1u : 0u; /* so that what falls off still rounds */
    union {
        uint32_t bits;
        float number;
    } scale = {(127u + shift) << 23};
    return (float)top * scale.number;
}

static void compute(const nano_state *s, int overall, nano_estimate *estimate) {
    const int64_t *numerator = overall ? s->all_numerator : s->numerator;
    float a = head_bias[0], d = head_bias[1], v = head_bias[2];
    for (int c = 0; c < POOLED; c++) {
        float ratio = number(numerator[c]);
        if (overall) {
            ratio /= number(s->all_denominator[c] + EMPTY);
        } else {
            ratio /= (float)(s->denominator[c] + EMPTY);
        }
        a += head[c] * ratio;
        d += head[POOLED + c] * ratio;
        v += head[2 * POOLED + c] * ratio;
    }
    estimate->arousal = a;
    estimate->dominance = d;
    estimate->valence = v;
    estimate->samples = s->samples;
    estimate->counted = s->counted / ONE;
}

static uint32_t hops_of(const nano_state *s) {
    return (uint32_t)(s->samples / HOP);
}

static nano_status check_read(const nano_state *s, const nano_estimate *estimate) {
    nano_status status = estimate == NULL ? NANO_ERROR_NULL : check(s);
    if (status == NANO_OK && s->counted < FIRST_COUNTED) {
        status = NANO_NOT_YET;
    }
    return status;
}

nano_status nano_read(nano_state *state, nano_estimate *estimate) {
    nano_status status = check_read(state, estimate);
    if (status == NANO_OK && hops_of(state) - state->read_at < state->every) {
        status = NANO_NOT_YET;
    }
    if (status == NANO_OK) {
        state->read_at = hops_of(state);
        compute(state, 0, estimate);
    }
    return status;
}

nano_status nano_read_overall(const nano_state *state, nano_estimate *estimate) {
    nano_status status = check_read(state, estimate);
    if (status == NANO_OK) {
        compute(state, 1, estimate);
    }
    return status;
}

nano_status nano_estimate_every(nano_state *state, uint32_t hops) {
    nano_status status = check(state);
    if (status == NANO_OK) {
        state->every = hops;
        state->read_at = hops_of(state);
    }
    return status;
}

nano_status nano_set_voice(nano_state *state, int32_t probability) {
    nano_status status = check(state);
    if (status == NANO_OK && (probability < 0 || probability > ONE)) {
        status = NANO_ERROR_ARGUMENT;
    }
    if (status == NANO_OK) {
        state->voice = probability;
    }
    return status;
}

nano_status nano_set_gate(nano_state *state, int gate) {
    nano_status status = check(state);
    if (status == NANO_OK) {
        state->gate = gate == 0 ? 0 : (gate == GATE_ENERGY ? GATE_ENERGY : GATE_DEFAULT);
    }
    return status;
}

nano_status nano_speech(const nano_state *state, int32_t *probability) {
    nano_status status = probability == NULL ? NANO_ERROR_NULL : check(state);
    if (status == NANO_OK && state->speech < 0) {
        status = NANO_NOT_YET;
    }
    if (status == NANO_OK) {
        *probability = state->speech;
    }
    return status;
}

#ifdef W2S_TEST
/* What the tests compare with the integer reference. */
const int8_t *nano_test_features(const nano_state *s);
int64_t nano_test_sum(const nano_state *s, int which, int c);
void nano_test_forward(nano_state *s, uint64_t hops);

const int8_t *nano_test_features(const nano_state *s) {
    return s->wide + (STEM_TAPS - 1) * MELS;
}

int64_t nano_test_sum(const nano_state *s, int which, int c) {
    const int64_t sums[] = {s->numerator[c], s->denominator[c], s->all_numerator[c],
                            s->all_denominator[c]};
    return sums[which];
}

/* As if the audio of the sums so far had come `times` times in all. */
void nano_test_forward(nano_state *s, uint64_t times) {
    for (int c = 0; c < POOLED; c++) {
        s->all_numerator[c] *= (int64_t)times;
        s->all_denominator[c] *= (int64_t)times;
    }
    s->samples *= times;
    s->counted *= times;
}
#endif
