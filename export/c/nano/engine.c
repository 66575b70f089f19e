/* The engine of nano; the tables above it are the model. See export/integer.py for the integer
 * part, which computes the same numbers bit by bit, and students/nano.py for the whole. */

#ifndef W2S_MEMORY_S
#define W2S_MEMORY_S 4.0
#endif
#ifndef W2S_OPEN_POWER
#define W2S_OPEN_POWER 3.16227766e-6 /* mean square, 1 = full scale: -55 dBFS */
#endif
#ifndef W2S_CLOSE_POWER
#define W2S_CLOSE_POWER 7.94328235e-7 /* -61 dBFS */
#endif
#ifndef W2S_RANGE
#define W2S_RANGE 1000.0 /* power of the loudest hop lately over that of a hop that counts: 30 dB */
#endif
#ifndef W2S_STAGE
#define W2S_STAGE(number) /* a benchmark's hook: the stage that begins */
#endif

#define MAGIC 0x77327331u
#define ONE 32768 /* 1 in Q15 */
#define EMPTY (ONE / 256)
#define NEVER (-1.0e4f)
#define FLOOR_POWER 1.16415321826934814e-10f /* 2^-33 */
#define FIRST_HEARD ((uint64_t)(W2S_SAMPLING_RATE / 4) * ONE)
#define OPEN_ENERGY ((uint64_t)(W2S_OPEN_POWER * 1073741824.0 * HOP)) /* of 16-bit samples */
#define CLOSE_ENERGY ((uint64_t)(W2S_CLOSE_POWER * 1073741824.0 * HOP))
#define OPEN_RANGE ((uint64_t)(W2S_RANGE))
#define CLOSE_RANGE ((uint64_t)(W2S_RANGE * W2S_OPEN_POWER / W2S_CLOSE_POWER))
#define LOUDEST_FADE ((uint64_t)(0.23025851 * HOP / W2S_SAMPLING_RATE * 65536.0 + 0.5)) /* 1 dB/s */
#define HOLD_HOPS ((W2S_SAMPLING_RATE / 5 + HOP / 2) / HOP)
#define R (HOP / (W2S_MEMORY_S * W2S_SAMPLING_RATE))
#define FADE ((int64_t)((R - R * R / 2 + R * R * R / 6) * 16777216.0 + 0.5)) /* 1 - exp(-R) */

struct w2s_state {
    int64_t numerator[POOLED], denominator[POOLED]; /* over the memory */
    int64_t all_numerator[POOLED], all_denominator[POOLED];
    uint64_t samples; /* in whole hops */
    uint64_t counted; /* times ONE */
    uint64_t energy;  /* of the hop that fills */
    uint64_t loudest; /* energy of the loudest hop lately */
    uint32_t magic;
    uint32_t filled;  /* samples in the hop that fills */
    uint32_t started; /* a hop was heard */
    uint32_t below;   /* hops below the closing level */
    int32_t gate_enabled, gate_open;
    int32_t voice;        /* Q15, of the blocks to come */
    int32_t voice_filled; /* sum over samples of the hop that fills, Q15 x samples / HOP */
    uint64_t voice_sum;
    uint32_t level_at;
    uint32_t place[BLOCKS];
    float level[LEVELS];
    float work[2 * HOP]; /* the transform; afterwards the bands */
    int16_t signal[2 * HOP];
    int16_t past[PAST];  /* inputs of the depthwise layers, a ring for each */
    int16_t y[CHANNELS];
    int8_t z[CHANNELS];
    int8_t wide[STEM_TAPS * MELS]; /* features, oldest first */
};

typedef char w2s_state_fits[sizeof(struct w2s_state) <= W2S_STATE_SIZE ? 1 : -1];

size_t w2s_state_size(void) {
    return sizeof(struct w2s_state);
}

w2s_state *w2s_init(void *memory) {
    if (memory == NULL || ((uintptr_t)memory & 7u) != 0u) {
        return NULL;
    }
    uint8_t *bytes = (uint8_t *)memory;
    for (size_t i = 0; i < sizeof(struct w2s_state); i++) {
        bytes[i] = 0u;
    }
    w2s_state *s = (w2s_state *)memory;
    for (int i = 0; i < LEVELS; i++) {
        s->level[i] = NEVER;
    }
    s->gate_enabled = 1;
    s->voice = ONE;
    s->magic = MAGIC;
    return s;
}

/* ---- front end, float32 ------------------------------------------------------------------- */

/* In place, N complex numbers (real, imaginary), N a power of 4; sign -1. */
static void transform(float *x) {
    for (uint32_t i = 0; i < HOP; i++) { /* digits of base 4 in reverse order */
        uint32_t j = 0, rest = i;
        for (uint32_t digit = 1; digit < HOP; digit *= 4u) {
            j = j * 4u + (rest & 3u);
            rest >>= 2;
        }
        if (j > i) {
            float real = x[2u * i], imag = x[2u * i + 1u];
            x[2u * i] = x[2u * j];
            x[2u * i + 1u] = x[2u * j + 1u];
            x[2u * j] = real;
            x[2u * j + 1u] = imag;
        }
    }
    for (uint32_t size = 1; size < HOP; size *= 4u) {
        uint32_t step = 2u * HOP / (4u * size); /* in the table of 2 HOP */
        for (uint32_t k = 0; k < size; k++) {
            float c1 = cosine[k * step], s1 = -sine(k * step);
            float c2 = cosine[2u * k * step], s2 = -sine(2u * k * step);
            float c3 = cosine[3u * k * step], s3 = -sine(3u * k * step);
            for (uint32_t at = k; at < HOP; at += 4u * size) {
                float *a = x + 2u * at;
                float *b = a + 2u * size, *c = b + 2u * size, *d = c + 2u * size;
                float br = b[0] * c1 - b[1] * s1, bi = b[0] * s1 + b[1] * c1;
                float cr = c[0] * c2 - c[1] * s2, ci = c[0] * s2 + c[1] * c2;
                float dr = d[0] * c3 - d[1] * s3, di = d[0] * s3 + d[1] * c3;
                float acr = a[0] + cr, aci = a[1] + ci, amr = a[0] - cr, ami = a[1] - ci;
                float bdr = br + dr, bdi = bi + di, bmr = br - dr, bmi = bi - di;
                a[0] = acr + bdr;
                a[1] = aci + bdi;
                b[0] = amr + bmi;
                b[1] = ami - bmr;
                c[0] = acr - bdr;
                c[1] = aci - bdi;
                d[0] = amr - bmi;
                d[1] = ami + bmr;
            }
        }
    }
}

/* Windowed frame -> power of bins 0..HOP in work[0..HOP]. */
static void spectrum(w2s_state *s) {
    float *x = s->work;
    for (uint32_t i = 0; i < 2u * HOP; i++) {
        float hann = 0.5f - 0.5f * cosine[i];
        x[i] = (float)s->signal[i] * (hann * (1.0f / 32768.0f));
    }
    transform(x);
    /* x holds even samples as real and odd ones as imaginary parts; take them apart. Bin k and
     * bin HOP - k need the same two numbers and leave two powers where these were. */
    float first = x[0] + x[1], last = x[0] - x[1];
    for (uint32_t k = 1; k <= HOP / 2u; k++) {
        float *p = x + 2u * k, *q = x + 2u * (HOP - k);
        float er = 0.5f * (p[0] + q[0]), ei = 0.5f * (p[1] - q[1]);
        float or_ = 0.5f * (p[1] + q[1]), oi = 0.5f * (q[0] - p[0]);
        float c = cosine[k], d = -sine(k);
        float tr = or_ * c - oi * d, ti = or_ * d + oi * c;
        float low_r = er + tr, low_i = ei + ti, high_r = er - tr, high_i = ei - ti;
        p[0] = low_r * low_r + low_i * low_i;
        q[1] = high_r * high_r + high_i * high_i; /* for k = HOP / 2 p and q are one place */
    }
    /* power of bin k: p[0] at 2 k up to HOP / 2, q[1] at 2 k + 1 above; close the gaps */
    x[0] = first * first;
    for (uint32_t k = 1; k <= HOP / 2u; k++) {
        x[k] = x[2u * k];
    }
    for (uint32_t k = HOP / 2u + 1u; k < HOP; k++) {
        x[k] = x[2u * k + 1u];
    }
    x[HOP] = last * last;
}

/* log2 of a normal positive number, error below 4e-6: exponent, and a polynomial of the rest. */
static float log2_of(float value) {
    union {
        float number;
        uint32_t bits;
    } u;
    u.number = value;
    int32_t exponent = (int32_t)(u.bits >> 23) - 127;
    u.bits = (u.bits & 0x007FFFFFu) | 0x3F800000u;
    float m = u.number - 1.5f, sum = log2_terms[LOG2_TERMS - 1];
    for (int i = LOG2_TERMS - 2; i >= 0; i--) {
        sum = sum * m + log2_terms[i];
    }
    return (float)exponent + sum;
}

/* Power -> the newest MELS numbers of wide, 1/64 each. */
static void features(w2s_state *s) {
    float *x = s->work, bands[MELS], sum = 0.0f;
    const float *weight = mel_weights;
    for (int band = 0; band < MELS; band++) {
        float power = 0.0f;
        const float *bin = x + mel_first[band];
        for (int i = 0; i < mel_count[band]; i++) {
            power += bin[i] * weight[i];
        }
        weight += mel_count[band];
        bands[band] = log2_of(power > FLOOR_POWER ? power : FLOOR_POWER);
        sum += bands[band];
    }
    float level = sum * (1.0f / MELS), loudest = level;
    for (int i = 0; i < LEVELS; i++) {
        if (s->level[i] > loudest) {
            loudest = s->level[i];
        }
    }
    s->level[s->level_at] = level;
    s->level_at = s->level_at + 1u == LEVELS ? 0u : s->level_at + 1u;
    for (int i = 0; i < (STEM_TAPS - 1) * MELS; i++) {
        s->wide[i] = s->wide[i + MELS];
    }
    for (int band = 0; band < MELS; band++) {
        /* 8 = 64 steps of x, which is an eighth of an octave count */
        float steps = (bands[band] - loudest + 6.0f) * 8.0f;
        steps = steps < -128.0f ? -128.0f : (steps > 127.0f ? 127.0f : steps);
        s->wide[(STEM_TAPS - 1) * MELS + band] = (int8_t)((int32_t)(steps + 128.5f) - 128);
    }
}

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
    for (uint32_t i = 0; i < HOP; i++) {
        s->signal[i] = s->signal[HOP + i];
    }
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

static void hear(w2s_state *s, int16_t sample) {
    int32_t v = sample;
    s->signal[HOP + s->filled] = sample;
    s->energy += (uint64_t)(uint32_t)(v * v);
    s->voice_sum += (uint64_t)(uint32_t)s->voice;
    s->filled++;
    if (s->filled == HOP) {
        hop(s);
    }
}

w2s_status w2s_push(w2s_state *state, const int16_t *samples, size_t n) {
    w2s_status status = check(state);
    if (status == W2S_OK && samples == NULL && n > 0u) {
        status = W2S_ERROR_NULL;
    }
    if (status == W2S_OK) {
        for (size_t i = 0; i < n; i++) {
            hear(state, samples[i]);
        }
    }
    return status;
}

w2s_status w2s_push_float(w2s_state *state, const float *samples, size_t n) {
    w2s_status status = check(state);
    if (status == W2S_OK && samples == NULL && n > 0u) {
        status = W2S_ERROR_NULL;
    }
    for (size_t i = 0; status == W2S_OK && i < n; i++) {
        if (!(samples[i] >= -3.0e38f && samples[i] <= 3.0e38f)) {
            status = W2S_ERROR_SIGNAL;
        }
    }
    for (size_t i = 0; status == W2S_OK && i < n; i++) {
        float v = samples[i] * 32768.0f;
        v = v < -32768.0f ? -32768.0f : (v > 32767.0f ? 32767.0f : v);
        hear(state, (int16_t)((int32_t)(v + 32768.5f) - 32768));
    }
    return status;
}

static w2s_status estimate_from(const w2s_state *s, const int64_t *numerator,
                                const int64_t *denominator, w2s_estimate *estimate) {
    float sums[3] = {head_bias[0], head_bias[1], head_bias[2]};
    for (int c = 0; c < POOLED; c++) {
        float ratio = (float)numerator[c] / (float)(denominator[c] + EMPTY);
        for (int i = 0; i < 3; i++) {
            sums[i] += head[i * POOLED + c] * ratio;
        }
    }
    estimate->arousal = sums[0];
    estimate->dominance = sums[1];
    estimate->valence = sums[2];
    estimate->samples = s->samples;
    estimate->counted = s->counted / ONE;
    return W2S_OK;
}

static w2s_status check_read(const w2s_state *s, const w2s_estimate *estimate) {
    w2s_status status = estimate == NULL ? W2S_ERROR_NULL : check(s);
    if (status == W2S_OK && s->counted < FIRST_HEARD) {
        status = W2S_NOT_YET;
    }
    return status;
}

w2s_status w2s_read(const w2s_state *state, w2s_estimate *estimate) {
    w2s_status status = check_read(state, estimate);
    return status == W2S_OK
               ? estimate_from(state, state->numerator, state->denominator, estimate)
               : status;
}

w2s_status w2s_read_overall(const w2s_state *state, w2s_estimate *estimate) {
    w2s_status status = check_read(state, estimate);
    return status == W2S_OK
               ? estimate_from(state, state->all_numerator, state->all_denominator, estimate)
               : status;
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
const int64_t *w2s_test_sums(const w2s_state *s, int which);
void w2s_test_forward(w2s_state *s, uint64_t hops);

const int8_t *w2s_test_features(const w2s_state *s) {
    return s->wide + (STEM_TAPS - 1) * MELS;
}

const int64_t *w2s_test_sums(const w2s_state *s, int which) {
    const int64_t *const sums[] = {s->numerator, s->denominator, s->all_numerator,
                                   s->all_denominator};
    return sums[which];
}

/* As if the audio of the sums so far had been heard `times` times in all. */
void w2s_test_forward(w2s_state *s, uint64_t times) {
    for (int c = 0; c < POOLED; c++) {
        s->all_numerator[c] *= (int64_t)times;
        s->all_denominator[c] *= (int64_t)times;
    }
    s->samples *= times;
    s->counted *= times;
}
#endif
