/* Vectors of AVX512, which the C files for bf16 share. */

#pragma once

#include <immintrin.h>

#include "common.h"

#define LANES 16 /* fp32 numbers of a vector */

typedef uint16_t bf16;

static inline __mmask16 first_16(int64_t count) { return count >= 16 ? 0xffff : count < 0 ? 0 : (1 << count) - 1; }
static inline __mmask32 first_32(int64_t count) { return count >= 32 ? ~0u : (1u << count) - 1; }

/* 16 numbers of bf16 in fp32. */
static inline __m512 widened(__m256i numbers) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(numbers), 16));
}

/* The first `count` numbers, or 16 of them; zeros behind them. */
static inline __m512 load_first(const bf16 *from, int64_t count) {
    return widened(_mm256_maskz_loadu_epi16(first_16(count), from));
}
static inline void store_first(bf16 *to, __m512 numbers, int64_t count) {
    _mm256_mask_storeu_epi16(to, first_16(count), (__m256i)_mm512_cvtneps_pbh(numbers));
}

static inline __m512 multiply_add(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(a, b, c); }

/* Transpose 16 vectors of 16 numbers of 32 bits. */
static inline void transpose(__m512i *v) {
    __m512i t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xdd);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        v[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        v[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        v[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        v[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}
