/* `fused.h` in fp32. */

#include "vectors_fp32.h"

typedef float element;
typedef int32_t integers __attribute__((vector_size(4 * LANES)));
typedef integers mask; /* of all bits, or of none */
typedef uint8_t bytes __attribute__((vector_size(LANES)));

static inline vector read(const float *from) { return load(from); }
static inline void write(float *to, vector numbers) { store(to, numbers); }
static inline integers read_bytes(const uint8_t *from) {
    bytes numbers;
    memcpy(&numbers, from, sizeof numbers);
    return __builtin_convertvector(numbers, integers);
}
static inline void write_bytes(uint8_t *to, integers numbers) {
    const bytes narrow = __builtin_convertvector(numbers, bytes);
    memcpy(to, &narrow, sizeof narrow);
}

static inline vector kept(mask where, vector x) { return (vector)((integers)x & where); } /* zero elsewhere */
static inline vector chosen(mask where, vector x, vector y) {
    return (vector)(((integers)x & where) | ((integers)y & ~where));
}
static inline integers replaced(integers x, mask where, int number) { return (number & where) | (x & ~where); }

static inline mask is_nan(vector x) { return x != x; }
static inline mask is_greater(vector x, vector y) { return x > y; }
static inline mask is_at_most_zero(vector x) { return x <= zero(); }
static inline mask is_positive(vector x) { return ~is_at_most_zero(x); } /* or NaN */
static inline mask is_equal(integers x, int number) { return x == number; }
static inline vector relu(vector x) { return kept(is_positive(x), x); } /* NaN stays */
static inline vector multiply_add(vector a, vector b, vector c) { return a * b + c; }

/* exp(-x^2 / 2), by a power of two and the Taylor series of what is left. */
static inline vector bell(vector x) {
    const vector to_integers = all(12582912.0f); /* 1.5 * 2^23: the sum has the integer in its low bits */
    const vector power = x * x * (-0.5f * 1.44269504f);
    const vector integer = power + to_integers, rest = (power - (integer - to_integers)) * 0.693147181f;
    vector sum = all(1.0f / 720);
    sum = sum * rest + 1.0f / 120;
    sum = sum * rest + 1.0f / 24;
    sum = sum * rest + 1.0f / 6;
    sum = sum * rest + 0.5f;
    sum = sum * rest + 1.0f;
    sum = sum * rest + 1.0f;
    return kept(~(power < all(-126.0f)), (vector)((integers)sum + ((integers)integer << 23)));
}

/* The normal distribution function, from exp(-x^2 / 2), to some 1e-7: Abramowitz & Stegun, "Handbook of Mathematical
   Functions" (1964), formula 7.1.26. */
static inline vector share_below(vector x, vector bell_of_x) {
    const vector size = (vector)((integers)x & 0x7fffffff), t = 1.0f / (1.0f + size * (0.3275911f * 0.707106781f));
    vector tail = t * 1.061405429f - 1.453152027f;
    tail = tail * t + 1.421413741f;
    tail = tail * t - 0.284496736f;
    tail = tail * t + 0.254829592f;
    tail = tail * t * bell_of_x * 0.5f;
    return chosen(x > zero(), 1.0f - tail, tail);
}

/* GELU(x) / x, and the slope of GELU; they need no table. */
static inline vector gelu_over(const float *table, vector x) {
    (void)table;
    return share_below(x, bell(x));
}
static inline vector gelu_slope(const float *table, vector x) {
    (void)table;
    const vector bell_of_x = bell(x);
    return share_below(x, bell_of_x) + x * bell_of_x * 0.398942280f;
}

#include "fused.h"
