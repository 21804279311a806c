/* `winograd.h` in fp32. A word is a number. */

#include <immintrin.h>

#include "vectors_fp32.h"

#define NUMBERS 1

typedef float element;
typedef int32_t words __attribute__((vector_size(4 * LANES)));

static inline vector multiply_add(vector a, vector b, vector c) {
#ifdef __AVX512F__
    return _mm512_fmadd_ps(a, b, c);
#else
    return _mm256_fmadd_ps(a, b, c);
#endif
}
static inline vector read_first(const float *from, int64_t count) { return load_first(from, count); }
static inline void write_first(float *to, vector numbers, int64_t count) { store_first(to, numbers, count); }

static inline words of_neighbours(vector one, vector next) { return (void)next, (words)one; }
static inline words of_both(vector one, vector next) { return (void)next, (words)one; }

static inline words load_words(const int32_t *from) {
    words numbers;
    memcpy(&numbers, from, sizeof numbers);
    return numbers;
}
static inline void store_words(int32_t *to, words numbers) { memcpy(to, &numbers, sizeof numbers); }
static inline words all_words(int32_t word) { return word - (words){0}; }
static inline vector add_products(vector sum, words one, words other) { return sum + (vector)one * (vector)other; }

/* Transpose LANES vectors of words, of which blocks of `half` change places with their neighbours on the diagonal. */
static inline void transpose(words v[LANES]) {
#pragma GCC unroll 4
    for (int half = LANES / 2; half > 0; half /= 2) {
        words upper, lower;
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) {
            upper[i] = i & half ? LANES + i - half : i;
            lower[i] = upper[i] + half;
        }
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            if (!(i & half)) {
                const words one = v[i], other = v[i + half];
                v[i] = __builtin_shuffle(one, other, upper);
                v[i + half] = __builtin_shuffle(one, other, lower);
            }
    }
}

#include "winograd.h"
