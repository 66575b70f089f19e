#ifdef W2S_MVE
/* The transform of frontend.c, four butterflies at a time: the same operations in the same order,
 * so the same bits. */

typedef struct four_complex {
    float32x4_t real, imag;
} four_complex;

W2S_INLINE void four_butterflies(four_complex a, four_complex b, four_complex c, four_complex d,
                                 four_complex out[4]) {
    float32x4_t acr = vaddq_f32(a.real, c.real), aci = vaddq_f32(a.imag, c.imag);
    float32x4_t amr = vsubq_f32(a.real, c.real), ami = vsubq_f32(a.imag, c.imag);
    float32x4_t bdr = vaddq_f32(b.real, d.real), bdi = vaddq_f32(b.imag, d.imag);
    float32x4_t bmr = vsubq_f32(b.real, d.real), bmi = vsubq_f32(b.imag, d.imag);
    out[0] = (four_complex){vaddq_f32(acr, bdr), vaddq_f32(aci, bdi)};
    out[1] = (four_complex){vaddq_f32(amr, bmi), vsubq_f32(ami, bmr)};
    out[2] = (four_complex){vsubq_f32(acr, bdr), vsubq_f32(aci, bdi)};
    out[3] = (four_complex){vsubq_f32(amr, bmi), vaddq_f32(ami, bmr)};
}

W2S_INLINE float32x4_t gather(const float *table, uint32x4_t places) {
    return vldrwq_gather_shifted_offset_f32(table, places);
}

W2S_INLINE float32x4_t four_samples(const int16_t *signal, uint32x4_t places) {
    return vcvtq_f32_s32(vldrhq_gather_shifted_offset_s32(signal, places));
}

static void window_and_first_stage(const int16_t *signal, float *x) {
    const uint32x4_t apart = vmulq_n_u32(vidupq_n_u32(0, 1), 8);
    for (uint32_t group = 0; group < HOP / 4u; group += 4u, x += 32) {
        uint32x4_t at = vshlq_n_u32(vldrbq_u32(reversed + group), 1);
        four_complex in[4], out[4];
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++, at = vaddq_n_u32(at, HOP / 2u)) {
            float32x4_t even = vmulq_n_f32(gather(cosine, at), HALF_WINDOW);
            float32x4_t odd = vmulq_n_f32(gather(cosine + 1, at), HALF_WINDOW);
            float32x4_t half = vdupq_n_f32(HALF_WINDOW);
            in[i].real = vmulq_f32(four_samples(signal, at), vsubq_f32(half, even));
            in[i].imag = vmulq_f32(four_samples(signal + 1, at), vsubq_f32(half, odd));
            in[i + 2].real = vmulq_f32(four_samples(signal + HOP, at), vaddq_f32(half, even));
            in[i + 2].imag = vmulq_f32(four_samples(signal + HOP + 1, at), vaddq_f32(half, odd));
        }
        four_butterflies(in[0], in[1], in[2], in[3], out);
#pragma GCC unroll 4
        for (uint32_t i = 0; i < 4u; i++) {
            vstrwq_scatter_shifted_offset_f32(x + 2u * i, apart, out[i].real);
            vstrwq_scatter_shifted_offset_f32(x + 2u * i + 1u, apart, out[i].imag);
        }
    }
}

W2S_INLINE four_complex times(const float *at, float32x4_t c, float32x4_t s) {
    float32x4x2_t v = vld2q_f32(at);
    return (four_complex){
        vsubq_f32(vmulq_f32(v.val[0], c), vmulq_f32(v.val[1], s)),
        vaddq_f32(vmulq_f32(v.val[0], s), vmulq_f32(v.val[1], c))};
}

W2S_INLINE void stage(float *x, const uint32_t size) {
    const int32_t step = (int32_t)(2u * HOP / (4u * size));
    for (uint32_t k = 0; k < size; k += 4u) {
        /* cosine holds half a period; the rest mirrors it */
        int32x4_t at = vmulq_n_s32((int32x4_t)vidupq_n_u32(k, 1), step);
        int32x4_t half = vdupq_n_s32(HOP / 2), all = vdupq_n_s32(HOP);
        int32x4_t two = vaddq_s32(at, at), three = vaddq_s32(two, at);
        float32x4_t c1 = gather(cosine, (uint32x4_t)at);
        float32x4_t s1 = vnegq_f32(gather(cosine, (uint32x4_t)vsubq_s32(half, at)));
        float32x4_t c2 = gather(cosine, (uint32x4_t)two);
        float32x4_t s2 = vnegq_f32(gather(cosine, (uint32x4_t)vabsq_s32(vsubq_s32(half, two))));
        float32x4_t c3 = gather(
            cosine, (uint32x4_t)vsubq_s32(all, vabsq_s32(vsubq_s32(all, three))));
        float32x4_t s3 = vnegq_f32(gather(cosine, (uint32x4_t)vabsq_s32(vsubq_s32(half, three))));
        for (float *a = x + 2u * k; a < x + 2u * HOP; a += 8u * size) {
            four_complex out[4];
            float32x4x2_t first = vld2q_f32(a);
            four_butterflies((four_complex){first.val[0], first.val[1]},
                             times(a + 2u * size, c1, s1), times(a + 4u * size, c2, s2),
                             times(a + 6u * size, c3, s3), out);
#pragma GCC unroll 4
            for (uint32_t i = 0; i < 4u; i++) {
                vst2q_f32(a + 2u * size * i, ((float32x4x2_t){{out[i].real, out[i].imag}}));
            }
        }
    }
}

static void powers(float *x) {
    for (uint32_t k = 1; k <= HOP / 2u; k += 4u) {
        const uint32x4_t down = vddupq_n_u32(3, 1); /* 3, 2, 1, 0 */
        const float *q = x + 2u * (HOP - k - 3u);
        float32x4x2_t p = vld2q_f32(x + 2u * k);
        float32x4_t q0 = gather(q, vshlq_n_u32(down, 1)), q1 = gather(q + 1, vshlq_n_u32(down, 1));
        float32x4_t er = vaddq_f32(p.val[0], q0), ei = vsubq_f32(p.val[1], q1);
        float32x4_t or_ = vaddq_f32(p.val[1], q1), oi = vsubq_f32(q0, p.val[0]);
        float32x4_t c = vldrwq_f32(cosine + k);
        float32x4_t d = vnegq_f32(gather(cosine + HOP / 2u - k - 3u, down));
        float32x4_t tr = vsubq_f32(vmulq_f32(or_, c), vmulq_f32(oi, d));
        float32x4_t ti = vaddq_f32(vmulq_f32(or_, d), vmulq_f32(oi, c));
        float32x4_t lr = vaddq_f32(er, tr), li = vaddq_f32(ei, ti);
        float32x4_t hr = vsubq_f32(er, tr), hi = vsubq_f32(ei, ti);
        vstrwq_scatter_shifted_offset_f32(x + 2u * HOP - k - 3u, down,
                                          vaddq_f32(vmulq_f32(hr, hr), vmulq_f32(hi, hi)));
        vstrwq_f32(x + k, vaddq_f32(vmulq_f32(lr, lr), vmulq_f32(li, li)));
    }
}
#endif
