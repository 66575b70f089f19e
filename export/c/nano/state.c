/* The engine of nano; the tables above it are the model. See export/c/integer.py for the integer
 * part, which computes the same numbers bit by bit, and students/nano.py for the student. */

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
#ifndef W2S_SPOKEN
#define W2S_SPOKEN 26214 /* .8, the probability of speech from which a hop counts, Q15 */
#endif
#ifndef W2S_STAGE
#define W2S_STAGE(number) /* a benchmark's hook: the stage that begins */
#endif

#define GATE_VOICE 1
#define GATE_ENERGY 2
#ifdef VOICE
#define GATE_DEFAULT GATE_VOICE
#else
#define GATE_DEFAULT GATE_ENERGY
#endif
#define ONE 32768 /* 1 in Q15 */
#define EMPTY (ONE / 256)
#define FLOOR_POWER 1.16415321826934814e-10f /* 2^-33 */
#define FIRST_COUNTED ((uint64_t)(NANO_SAMPLING_RATE / 4) * ONE)
#define OPEN_ENERGY ((uint64_t)(W2S_OPEN_POWER * 1073741824.0 * HOP)) /* of 16-bit samples */
#define CLOSE_ENERGY ((uint64_t)(W2S_CLOSE_POWER * 1073741824.0 * HOP))
#define OPEN_RANGE ((uint64_t)(W2S_RANGE))
#define CLOSE_RANGE ((uint64_t)(W2S_RANGE * W2S_OPEN_POWER / W2S_CLOSE_POWER))
#define LOUDEST_FADE ((uint64_t)(0.23025851 * HOP / NANO_SAMPLING_RATE * 65536.0 + 0.5)) /* 1 dB/s */
#define HOLD_HOPS ((NANO_SAMPLING_RATE / 5 + HOP / 2) / HOP)
#define R (HOP / (W2S_MEMORY_S * NANO_SAMPLING_RATE))
#define FADE ((int64_t)((R - R * R / 2 + R * R * R / 6) * 16777216.0 + 0.5)) /* 1 - exp(-R) */

struct nano_state {
    int64_t numerator[POOLED], all_numerator[POOLED]; /* over the memory, over everything */
    int64_t all_denominator[POOLED];
    uint64_t samples; /* in complete hops */
    uint64_t counted; /* times ONE */
    uint64_t energy;  /* of the hop that fills */
    uint64_t loudest; /* energy of the loudest hop lately */
    uint64_t voice_sum; /* Q15, of the samples in the hop that fills */
    uint32_t magic;
    uint32_t filled;  /* samples in the hop that fills */
    uint32_t started; /* a hop came */
    uint32_t below;   /* hops below the closing level */
    uint32_t every, read_at; /* hops between estimates; the hop of the last one */
    int32_t gate, gate_open; /* gate: 0, GATE_VOICE or GATE_ENERGY */
    int32_t voice;        /* Q15, of the blocks to come */
    uint32_t level_at, level_max; /* the ring's place and largest */
    uint32_t place[BLOCKS];
#ifdef VOICE
    uint32_t voice_place[VOICE_LAYERS];
#endif
    int32_t speech; /* Q15, of the last frame; -1: not known */
    int32_t denominator[POOLED]; /* over the memory: at most ONE / (1 - exp(-R)) */
    union { /* of the frame at hand; from here to `wide` every array is read in words of 4 bytes */
        float work[2 * HOP]; /* the transform; afterwards the powers */
        struct {
            int16_t y[CHANNELS]; /* then, between the layers */
            int8_t z[CHANNELS];
        } layers;
    } frame;
    int16_t signal[2 * HOP];
    int16_t past[PAST]; /* inputs of the depthwise layers, a ring for each */
    int8_t wide[STEM_TAPS * MELS]; /* features, oldest first */
#ifdef VOICE
    int8_t voice_past[VOICE_PAST]; /* inputs of its layers, a ring for each */
#endif
    uint16_t level_low[LEVELS]; /* a ring of levels, see frontend.c: 24 bits each */
    uint8_t level_high[LEVELS];
};

/* so that a denominator stays below 2^31 */
typedef char nano_memory_fits[(int)W2S_MEMORY_S <= 600 ? 1 : -1];
typedef char nano_state_fits[sizeof(struct nano_state) <= NANO_STATE_SIZE ? 1 : -1];

size_t nano_state_size(void) {
    return sizeof(struct nano_state);
}

nano_status nano_init(void *memory, size_t size, nano_state **state) {
    if (state == NULL) {
        return NANO_ERROR_NULL;
    }
    *state = NULL;
    if (memory == NULL) {
        return NANO_ERROR_NULL;
    }
    if (((uintptr_t)memory & 7u) != 0u) {
        return NANO_ERROR_ALIGNMENT;
    }
    if (size < sizeof(struct nano_state)) {
        return NANO_ERROR_SIZE;
    }
    memset(memory, 0, sizeof(struct nano_state));
    nano_state *s = (nano_state *)memory;
    s->gate = GATE_DEFAULT;
    s->speech = -1;
    s->voice = ONE;
    s->magic = MAGIC;
    *state = s;
    return NANO_OK;
}
