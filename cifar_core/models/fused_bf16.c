/* `fused.h` in bf16, on processors with AVX512-bf16. */

#include "vectors.h"

typedef bf16 element; /* of the images */
typedef __m512 vector;
typedef __m512i integers;
typedef __mmask16 mask;

static inline vector load(const bf16 *from) { return widened(_mm256_loadu_si256((const __m256i *)from)); }
static inline void store(bf16 *to, vector numbers) {
    _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(numbers));
}

static inline vector read(const float *from) { return _mm512_loadu_ps(from); }
static inline void write(float *to, vector numbers) { _mm512_storeu_ps(to, numbers); }
static inline integers read_bytes(const uint8_t *from) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)from));
}
static inline void write_bytes(uint8_t *to, integers numbers) {
    _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8(numbers));
}

static inline vector relu(vector x) { return _mm512_max_ps(_mm512_setzero_ps(), x); } /* NaN stays */
static inline mask is_nan(vector x) { return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q); }
static inline mask is_greater(vector x, vector y) { return _mm512_cmp_ps_mask(x, y, _CMP_GT_OQ); }
static inline mask is_at_most_zero(vector x) { return _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LE_OQ); }
static inline mask is_positive(vector x) { /* or NaN */
    return _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_NLE_UQ);
}
static inline mask is_equal(integers x, int number) { return _mm512_cmpeq_epi32_mask(x, _mm512_set1_epi32(number)); }
static inline vector kept(mask where, vector x) { return _mm512_maskz_mov_ps(where, x); } /* zero elsewhere */
static inline vector chosen(mask where, vector x, vector y) { return _mm512_mask_mov_ps(y, where, x); }
static inline integers replaced(integers x, mask where, int number) {
    return _mm512_mask_mov_epi32(x, where, _mm512_set1_epi32(number));
}

/* A curve in 32 pieces, one around each multiple of 3/8 from -6 to 5.625: polynomials of the fourth degree, whose
   coefficients are table[power][piece]. The first piece also serves all smaller numbers, and the last all larger
   ones. NaN stays NaN. */
static inline vector curve(const float *table, vector x) {
    const vector to_integers = _mm512_set1_ps(12582912.0f); /* 1.5 * 2^23: the sum has the integer in its low bits */
    vector steps = _mm512_mul_ps(x, _mm512_set1_ps(8.0f / 3));
    steps = _mm512_max_ps(_mm512_set1_ps(-16), _mm512_min_ps(_mm512_set1_ps(15), steps));
    const vector integer = _mm512_add_ps(steps, to_integers);
    const vector rest = _mm512_sub_ps(steps, _mm512_sub_ps(integer, to_integers));
    const __m512i piece = _mm512_castps_si512(integer); /* its low five bits count */
    vector sum = _mm512_setzero_ps();
#pragma GCC unroll 5
    for (int power = 4; power >= 0; power--) {
        const float *coefficients = table + 2 * LANES * power;
        const vector of_piece = _mm512_permutex2var_ps(_mm512_loadu_ps(coefficients), piece,
                                                       _mm512_loadu_ps(coefficients + LANES));
        sum = power == 4 ? of_piece : _mm512_fmadd_ps(sum, rest, of_piece);
    }
    return sum;
}

static inline vector gelu_over(const float *table, vector x) { return curve(table, x); } /* x */
static inline vector gelu_slope(const float *table, vector x) { return curve(table, x); }

#include "fused.h"
