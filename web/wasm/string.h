/* What nano_<name>.c needs of a C library; there is none here. */
#ifndef W2S_STRING_H
#define W2S_STRING_H

#include <stddef.h>

static inline void *memset(void *to, int value, size_t n) {
    return __builtin_memset(to, value, n); /* one instruction: bulk memory */
}

static inline void *memcpy(void *to, const void *from, size_t n) {
    return __builtin_memcpy(to, from, n);
}

#endif
