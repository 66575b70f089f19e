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
