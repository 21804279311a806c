/* `winograd.h` in bf16, on processors with AVX512-bf16. A word is a pair of numbers. */

#include "vectors.h"

#define NUMBERS 2

typedef bf16 element; /* of the images */
typedef __m512 vector;
typedef __m512i words;

static inline vector zero(void) { return _mm512_setzero_ps(); }
static inline vector all(float number) { return _mm512_set1_ps(number); }
static inline vector read_first(const float *from, int64_t count) {
    return _mm512_maskz_loadu_ps(first_16(count), from);
}
static inline void write_first(float *to, vector numbers, int64_t count) {
    _mm512_mask_storeu_ps(to, first_16(count), numbers);
}

/* Words of neighbours among the 32 numbers, and words of one number of each vector. */
static inline words of_neighbours(vector one, vector next) { return (words)_mm512_cvtne2ps_pbh(next, one); }
static inline words of_both(vector one, vector next) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, of_neighbours(one, next));
}

static inline words load_words(const int32_t *from) { return _mm512_loadu_si512(from); }
static inline void store_words(int32_t *to, words numbers) { _mm512_storeu_si512(to, numbers); }
static inline words all_words(int32_t word) {
    words numbers = _mm512_set1_epi32(word);
    __asm__("" : "+v"(numbers)); /* else GCC reads the word from memory for each product, which is slower */
    return numbers;
}
static inline vector add_products(vector sum, words one, words other) {
    return _mm512_dpbf16_ps(sum, (__m512bh)one, (__m512bh)other);
}

#include "winograd.h"
