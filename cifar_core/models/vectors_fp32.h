/* Vectors of GCC, which the C files for fp32 share: AVX512's, or AVX2's. */

#pragma once

#include "common.h"

#ifdef __AVX512F__
#define LANES 16 /* numbers of a vector */
#else
#define LANES 8
#endif

typedef float vector __attribute__((vector_size(4 * LANES)));

static inline vector zero(void) { return (vector){0}; }
static inline vector all(float number) { return number - zero(); }

/* The first `count` numbers, or LANES of them; zeros behind them. */
static inline vector load_first(const float *from, int64_t count) {
    vector numbers = zero();
    if (count >= LANES)
        memcpy(&numbers, from, sizeof numbers);
    else
        memcpy(&numbers, from, larger(count, 0) * sizeof(float));
    return numbers;
}
static inline void store_first(float *to, vector numbers, int64_t count) {
    if (count >= LANES)
        memcpy(to, &numbers, sizeof numbers);
    else
        memcpy(to, &numbers, larger(count, 0) * sizeof(float));
}
static inline vector load(const float *from) { return load_first(from, LANES); }
static inline void store(float *to, vector numbers) { store_first(to, numbers, LANES); }
