/* ---- front end, float32 ------------------------------------------------------------------- */

/* The stages after the first, in place. */
static void other_stages(float *x) {
#if HOP == 256
    stage(x, 4u);
    stage(x, 16u);
    stage(x, 64u);
#else
    for (uint32_t size = 4; size < HOP; size *= 4u) {
        stage(x, size);
    }
#endif
}

/* Windowed frame -> power of bins 0..HOP in work[0..HOP]. */
static void spectrum(nano_state *s) {
    float *x = s->frame.work;
    window_and_first_stage(s->signal, x);
    other_stages(x);
    float first = 2.0f * (x[0] + x[1]), last = 2.0f * (x[0] - x[1]);
    powers(x);
    x[0] = first * first;
    for (uint32_t k = HOP / 2u + 1u; k < HOP; k++) {
        x[k] = x[HOP + k];
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

/* Power -> mel bands. A bin between the centres of two bands belongs to both, its fraction to the
 * upper one and the rest to the lower one. */
static void mel(const float *power, float *bands) {
    const float *fraction = mel_fraction;
    float rising = 0.0f;
    for (int band = 0; band <= MELS; band++) {
        float falling = 0.0f, next = 0.0f;
        for (const float *end = power + mel_count[band]; power < end; power++, fraction++) {
            float part = *power * *fraction;
            next += part;
            falling += *power - part;
        }
        if (band > 0) {
            bands[band - 1] = (rising + falling) * mel_norm[band - 1];
        }
        rising = next;
    }
}

W2S_INLINE uint32_t level_at(const nano_state *s, uint32_t i) {
    return (uint32_t)s->level_high[i] << 16 | s->level_low[i];
}

/* Level of a frame -> loudest of the last LEVELS + 1 frames. Levels are octaves, -33 at the least
 * (FLOOR_POWER) and below 24; they are kept in steps of 2^-18 above -40, 0 for no frame. */
static float loudest_with(nano_state *s, float octaves) {
    const uint32_t level = (uint32_t)((octaves + 40.0f) * 262144.0f);
    const uint32_t old = level_at(s, s->level_at);
    const uint32_t loudest = level > s->level_max ? level : s->level_max;
    s->level_low[s->level_at] = (uint16_t)level;
    s->level_high[s->level_at] = (uint8_t)(level >> 16);
    s->level_at = s->level_at + 1u == LEVELS ? 0u : s->level_at + 1u;
    if (level < s->level_max && old == s->level_max) {
        s->level_max = 0;
        for (uint32_t i = 0; i < LEVELS; i++) {
            s->level_max = level_at(s, i) > s->level_max ? level_at(s, i) : s->level_max;
        }
    } else {
        s->level_max = loudest;
    }
    return (float)loudest * (1.0f / 262144.0f) - 40.0f;
}

/* Power -> the newest MELS numbers of wide, 1/64 each. */
static void features(nano_state *s) {
    float bands[MELS], sum = 0.0f;
    mel(s->frame.work, bands);
    for (int band = 0; band < MELS; band++) {
        bands[band] = log2_of(bands[band] > FLOOR_POWER ? bands[band] : FLOOR_POWER);
        if (band >= LEVEL_FROM && band < LEVEL_TO) {
            sum += bands[band];
        }
    }
    sum *= 1.0f / (LEVEL_TO - LEVEL_FROM);
    float loudest = loudest_with(s, sum > LEAST_LEVEL ? sum : LEAST_LEVEL);
    for (int i = 0; i < (STEM_TAPS - 1) * MELS; i++) {
        s->wide[i] = s->wide[i + MELS];
    }
    for (int band = 0; band < MELS; band++) {
        /* 8 = 64 steps of x, which is an eighth of an octave count */
        float steps = (bands[band] - loudest + 6.0f) * 8.0f;
        steps = steps < LOWEST ? LOWEST : (steps > 127.0f ? 127.0f : steps);
        s->wide[(STEM_TAPS - 1) * MELS + band] = (int8_t)((int32_t)(steps + 128.5f) - 128);
    }
}
