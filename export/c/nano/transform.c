/* ---- transform, float32 ------------------------------------------------------------------- */

#define HALF_WINDOW (0.25f / 32768.0f) /* half of Hann's, for samples of 16 bits */

#ifndef W2S_MVE
/* One butterfly of radix 4 on complex numbers (real, imaginary) that lie 2 size floats apart. */
W2S_INLINE void butterfly(float *a, uint32_t size, float br, float bi, float cr, float ci, float dr,
                          float di) {
    float *b = a + 2u * size, *c = b + 2u * size, *d = c + 2u * size;
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

/* Complex numbers `at` and `at` + HOP / 2 of the windowed signal (Hann's window, halved). */
W2S_INLINE void two_windowed(const int16_t *signal, uint32_t at, float *x) {
    float even = HALF_WINDOW * cosine[at], odd = HALF_WINDOW * cosine[at + 1u];
    x[0] = (float)signal[at] * (HALF_WINDOW - even);
    x[1] = (float)signal[at + 1u] * (HALF_WINDOW - odd);
    x[4] = (float)signal[at + HOP] * (HALF_WINDOW + even);
    x[5] = (float)signal[at + HOP + 1u] * (HALF_WINDOW + odd);
}

/* The window and the first stage, whose inputs lie in base-4 digit-reversed order and whose factors
 * are 1: signal -> x, HOP complex numbers, HOP a power of 4. */
static void window_and_first_stage(const int16_t *signal, float *x) {
    for (uint32_t group = 0; group < HOP / 4u; group++, x += 8) {
        two_windowed(signal, 2u * reversed[group], x);
        two_windowed(signal, 2u * reversed[group] + HOP / 2u, x + 2);
        butterfly(x, 1u, x[2], x[3], x[4], x[5], x[6], x[7]);
    }
}

/* The stage that joins transforms of `size` (a constant of the caller), in place; sign -1. */
W2S_INLINE void stage(float *x, const uint32_t size) {
    const uint32_t step = 2u * HOP / (4u * size); /* in the table of 2 HOP */
    for (float *a = x; a < x + 2u * HOP; a += 8u * size) { /* k = 0: factors are 1 */
        const float *b = a + 2u * size, *c = b + 2u * size, *d = c + 2u * size;
        butterfly(a, size, b[0], b[1], c[0], c[1], d[0], d[1]);
    }
    for (uint32_t k = 1; k < size; k++) {
        const uint32_t at = k * step; /* 3 at < 3 / 2 HOP */
        const float c1 = cosine[at], s1 = -cosine[HOP / 2u - at];
        const float c2 = cosine[2u * at], s2 = -sine(2u * at);
        const float c3 = cosine[3u * at <= HOP ? 3u * at : 2u * HOP - 3u * at], s3 = -sine(3u * at);
        for (float *a = x + 2u * k; a < x + 2u * HOP; a += 8u * size) {
            const float *b = a + 2u * size, *c = b + 2u * size, *d = c + 2u * size;
            butterfly(a, size, b[0] * c1 - b[1] * s1, b[0] * s1 + b[1] * c1,
                      c[0] * c2 - c[1] * s2, c[0] * s2 + c[1] * c2, d[0] * c3 - d[1] * s3,
                      d[0] * s3 + d[1] * c3);
        }
    }
}

/* x holds even samples as real and odd ones as imaginary parts; take them apart. Bin k and bin
 * HOP - k need the same two numbers. Power of bin k goes to x[k] up to HOP / 2 and to x[HOP + k]
 * above, where nothing is needed any more. */
static void powers(float *x) {
    for (uint32_t k = 1; k <= HOP / 2u; k++) {
        const float *p = x + 2u * k, *q = x + 2u * (HOP - k);
        float er = p[0] + q[0], ei = p[1] - q[1], or_ = p[1] + q[1], oi = q[0] - p[0];
        float c = cosine[k], d = -cosine[HOP / 2u - k];
        float tr = or_ * c - oi * d, ti = or_ * d + oi * c;
        float low_r = er + tr, low_i = ei + ti, high_r = er - tr, high_i = ei - ti;
        x[2u * HOP - k] = high_r * high_r + high_i * high_i;
        x[k] = low_r * low_r + low_i * low_i;
    }
}
#endif
