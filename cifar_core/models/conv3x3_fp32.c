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

static inline void transpose(words v[LANES]) {
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < i; j++) {
            const int32_t word = v[i][j];
            v[i][j] = v[j][i], v[j][i] = word;
        }
}

#include "winograd.h"
