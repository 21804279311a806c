/* 3x3 convolutions with stride 1 of bf16 images in channels-last order, by Winograd's algorithm, on processors with
   AVX512-bf16: 16 multiplications where there are 36.

   Winograd's minimal filtering F(2x2, 3x3), after Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks"
   (2016), section 4.1. The image is cut into tiles of 4x4 pixels, two pixels apart. The sixteen points of transformed
   tiles and of transformed filters, both in bf16, are multiplied as sixteen matrix products over the channels, summed
   in fp32. The inverse transform, in fp32, gives 2x2 pixels of the output. The gradient of the weights is the
   transpose of these steps; the gradient of the output is called the slopes.

   Each output, and the gradient of each weight, is summed in one order: the number of threads changes no bit of it. */

#include <cpuid.h>

#include "vectors.h"

#define POINTS 16
#define WIDE 32             /* channels that are taken at once: bf16 numbers of a vector */
#define TILES_AT_ONCE 12    /* whose products with WIDE filters are summed in registers */
#define SLOPES_AT_ONCE 8    /* channels of slopes whose products with WIDE channels of tiles are summed in registers */
#define PAD 32              /* numbers between points: at a power of two they would share a set of the caches */
#define BLOCK_BYTES 393216  /* of transformed tiles: they stay in the second cache */
#define SUM_BYTES 786432    /* of a thread's transformed tiles and slopes in the gradient of the weights: likewise */
#define SUM_PAIRS 96        /* of tiles whose products are summed in registers: they stay in the first cache */

/* Returns 1 on Zen 4, AMD's only processors of family 25 with AVX512-bf16: its vector units are half as wide as the
   registers, so a product takes two turns. */
int has_half_units(void) {
    unsigned int eax, ebx, ecx, edx;
    if (!__get_cpuid(0, &eax, &ebx, &ecx, &edx) || ebx != signature_AMD_ebx)
        return 0;
    __get_cpuid(1, &eax, &ebx, &ecx, &edx);
    return (eax >> 8 & 15) + (eax >> 20 & 255) == 25;
}

struct job {
    int64_t images, height, width, inputs, outputs; /* inputs, outputs: channels */
    int64_t rows, columns;                          /* of an output image */
    int64_t tiles_across, tiles_each, tiles;        /* of a line, of an image, of all images */
    int64_t next;                                   /* piece of work that no thread has taken */
    int64_t block;                                  /* tiles that are taken at once */
    int64_t rows_each, groups, shares;              /* rows of a `share`, groups of channels, and number of shares */
    int out_of_memory;                              /* the result is not complete */
    const bf16 *image, *gradient, *black;           /* black: a pixel */
    const float *weight, *bias;                     /* bias: null: none */
    bf16 *filters, *output;
    float *sums, *of_weight;
};

/* ---- Transforms ---- */

/* B' d B of 16 channels of a tile. */
static inline void transform_tile(__m512 d[4][4]) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        const __m512 one = d[1][j];
        d[0][j] = _mm512_sub_ps(d[0][j], d[2][j]);
        d[3][j] = _mm512_sub_ps(one, d[3][j]);
        d[1][j] = _mm512_add_ps(one, d[2][j]);
        d[2][j] = _mm512_sub_ps(d[2][j], one);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const __m512 one = d[i][1];
        d[i][0] = _mm512_sub_ps(d[i][0], d[i][2]);
        d[i][3] = _mm512_sub_ps(one, d[i][3]);
        d[i][1] = _mm512_add_ps(one, d[i][2]);
        d[i][2] = _mm512_sub_ps(d[i][2], one);
    }
}

/* The pixels of a tile, black ones beyond the edge: 4x4 of images (images, height, width, channels), one of which lies
   before the outputs, or 2x2 of slopes. */
static inline void find_pixels(const struct job *job, int64_t tile, const bf16 *from, int64_t height, int64_t width,
                               int64_t channels, int side, const bf16 **pixels) {
    const int64_t image = tile / job->tiles_each, rest = tile % job->tiles_each, before = side / 2 - 1;
    const int64_t top = rest / job->tiles_across * 2 - before, left = rest % job->tiles_across * 2 - before;
    for (int64_t y = top; y < top + side; y++)
        for (int64_t x = left; x < left + side; x++) {
            const int there = tile < job->tiles && y >= 0 && y < height && x >= 0 && x < width;
            *pixels++ = there ? from + ((image * height + y) * width + x) * channels : job->black;
        }
}

/* Transformed tiles from `first` on: (16, block, channels), with PAD numbers behind each point. */
static void transform_tiles(const struct job *job, int64_t first, int64_t count, bf16 *tiles) {
    const int64_t inputs = job->inputs, channels = round_up(inputs, WIDE), point_size = job->block * channels + PAD;
    const bf16 *pixels[POINTS];
    for (int64_t t = 0; t < count; t++) {
        find_pixels(job, first + t, job->image, job->height, job->width, inputs, 4, pixels);
        for (int64_t c = 0; c < channels; c += WIDE) {
            const __mmask32 valid = first_32(inputs - c);
            __m512 low[4][4], high[4][4];
#pragma GCC unroll 16
            for (int p = 0; p < POINTS; p++) {
                const __m512i numbers = _mm512_maskz_loadu_epi16(valid, pixels[p] + c);
                low[p / 4][p % 4] = widened(_mm512_castsi512_si256(numbers));
                high[p / 4][p % 4] = widened(_mm512_extracti64x4_epi64(numbers, 1));
            }
            transform_tile(low);
            transform_tile(high);
#pragma GCC unroll 16
            for (int p = 0; p < POINTS; p++)
                _mm512_store_si512(tiles + p * point_size + t * channels + c,
                                   (__m512i)_mm512_cvtne2ps_pbh(high[p / 4][p % 4], low[p / 4][p % 4]));
        }
    }
}

/* G g G' of 16 filters, or of 16 channels of one. */
static inline void transform_filter(const __m512 g[3][3], __m512 u[4][4]) {
    const __m512 half = _mm512_set1_ps(0.5f);
    __m512 t[4][3];
#pragma GCC unroll 3
    for (int j = 0; j < 3; j++) {
        const __m512 outer = _mm512_add_ps(g[0][j], g[2][j]);
        t[0][j] = g[0][j], t[3][j] = g[2][j];
        t[1][j] = _mm512_mul_ps(half, _mm512_add_ps(outer, g[1][j]));
        t[2][j] = _mm512_mul_ps(half, _mm512_sub_ps(outer, g[1][j]));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const __m512 outer = _mm512_add_ps(t[i][0], t[i][2]);
        u[i][0] = t[i][0], u[i][3] = t[i][2];
        u[i][1] = _mm512_mul_ps(half, _mm512_add_ps(outer, t[i][1]));
        u[i][2] = _mm512_mul_ps(half, _mm512_sub_ps(outer, t[i][1]));
    }
}

/* Where WIDE filters of a point, for a pair of channels, begin: (filters / 32, 16, channels / 2, 32, 2). */
static inline bf16 *filters_at(const struct job *job, int64_t filter, int64_t point, int64_t channel) {
    const int64_t channels = round_up(job->inputs, WIDE);
    return job->filters + ((filter / WIDE * POINTS + point) * channels + channel) * WIDE + filter % WIDE * 2;
}

/* Transform weights (outputs, 3, 3, inputs). */
static void transform_filters(void *argument) {
    struct job *job = argument;
    const int64_t inputs = job->inputs, channels = round_up(inputs, WIDE);
    __m512i pairs[POINTS][LANES];
    for (int64_t output; (output = take(&job->next, LANES)) < round_up(job->outputs, WIDE);)
        for (int64_t c = 0; c < channels; c += WIDE) {
            for (int64_t lane = 0; lane < LANES; lane++) {
                const float *from = job->weight + (output + lane) * TAPS * inputs + c;
                const int64_t count = output + lane < job->outputs ? inputs - c : 0;
                __m512 g[3][3], more[3][3], u[4][4], v[4][4];
                for (int tap = 0; tap < TAPS; tap++, from += inputs) {
                    g[tap / 3][tap % 3] = _mm512_maskz_loadu_ps(first_16(count), from);
                    more[tap / 3][tap % 3] = _mm512_maskz_loadu_ps(first_16(count - LANES), from + LANES);
                }
                transform_filter(g, u);
                transform_filter(more, v);
                for (int p = 0; p < POINTS; p++)
                    pairs[p][lane] = (__m512i)_mm512_cvtne2ps_pbh(v[p / 4][p % 4], u[p / 4][p % 4]);
            }
            for (int p = 0; p < POINTS; p++) {
                transpose(pairs[p]);
                for (int i = 0; i < LANES; i++)
                    _mm512_store_si512(filters_at(job, output, p, c + 2 * i), pairs[p][i]);
            }
        }
}

/* 16 numbers as bf16, each in the lower half of 32 bits. */
static inline __m512i rounded(__m512 numbers) { return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(numbers)); }

/* Transform weights (inputs, 3, 3, outputs), taps in reverse: those of the gradient of a convolution's inputs. */
static void transform_filters_reversed(void *argument) {
    struct job *job = argument;
    for (int64_t output; (output = take(&job->next, LANES)) < round_up(job->outputs, WIDE);)
        for (int64_t c = 0; c < round_up(job->inputs, WIDE); c += 2) {
            __m512 g[3][3], u[2][4][4];
            for (int next = 0; next < 2; next++) {
                const float *from = job->weight + (c + next) * TAPS * job->outputs + output;
                const __mmask16 valid = first_16(c + next < job->inputs ? job->outputs - output : 0);
                for (int tap = 0; tap < TAPS; tap++, from += job->outputs)
                    g[2 - tap / 3][2 - tap % 3] = _mm512_maskz_loadu_ps(valid, from);
                transform_filter(g, u[next]);
            }
            for (int p = 0; p < POINTS; p++) {
                const __m512i one = rounded(u[0][p / 4][p % 4]), next = rounded(u[1][p / 4][p % 4]);
                _mm512_store_si512(filters_at(job, output, p, c), _mm512_or_si512(one, _mm512_slli_epi32(next, 16)));
            }
        }
}

/* A y A' of 16 channels of 2x2 slopes. */
static inline void transform_slopes(const __m512 y[2][2], __m512 z[4][4]) {
    __m512 t[4][2];
#pragma GCC unroll 2
    for (int j = 0; j < 2; j++) {
        t[0][j] = y[0][j], t[3][j] = _mm512_sub_ps(_mm512_setzero_ps(), y[1][j]);
        t[1][j] = _mm512_add_ps(y[0][j], y[1][j]);
        t[2][j] = _mm512_sub_ps(y[0][j], y[1][j]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        z[i][0] = t[i][0], z[i][3] = _mm512_sub_ps(_mm512_setzero_ps(), t[i][1]);
        z[i][1] = _mm512_add_ps(t[i][0], t[i][1]);
        z[i][2] = _mm512_sub_ps(t[i][0], t[i][1]);
    }
}

/* G' u G of 16 channels of a filter. */
static inline void transform_sums(const __m512 u[4][4], __m512 g[3][3]) {
    const __m512 half = _mm512_set1_ps(0.5f);
    __m512 t[3][4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        const __m512 sum = _mm512_mul_ps(half, _mm512_add_ps(u[1][j], u[2][j]));
        t[0][j] = _mm512_add_ps(u[0][j], sum);
        t[1][j] = _mm512_mul_ps(half, _mm512_sub_ps(u[1][j], u[2][j]));
        t[2][j] = _mm512_add_ps(sum, u[3][j]);
    }
#pragma GCC unroll 3
    for (int i = 0; i < 3; i++) {
        const __m512 sum = _mm512_mul_ps(half, _mm512_add_ps(t[i][1], t[i][2]));
        g[i][0] = _mm512_add_ps(t[i][0], sum);
        g[i][1] = _mm512_mul_ps(half, _mm512_sub_ps(t[i][1], t[i][2]));
        g[i][2] = _mm512_add_ps(sum, t[i][3]);
    }
}

/* ---- Outputs ---- */

/* Products of TILES_AT_ONCE tiles, `stride` numbers apart, with filters (channels / 2, 32, 2): (TILES_AT_ONCE, 32). */
static inline void multiply(const bf16 *tiles, int64_t stride, int64_t channels, const bf16 *filters,
                            float *products) {
    __m512 sum[TILES_AT_ONCE], more[TILES_AT_ONCE];
#pragma GCC unroll 12
    for (int i = 0; i < TILES_AT_ONCE; i++)
        sum[i] = more[i] = _mm512_setzero_ps();
    for (int64_t c = 0; c < channels; c += 2, filters += 2 * WIDE) {
        const __m512bh filter = (__m512bh)_mm512_load_si512(filters);
        const __m512bh more_filter = (__m512bh)_mm512_load_si512(filters + WIDE);
#pragma GCC unroll 12
        for (int i = 0; i < TILES_AT_ONCE; i++) {
            __m512bh pair = (__m512bh)_mm512_set1_epi32(*(const int32_t *)(tiles + i * stride + c));
            __asm__("" : "+v"(pair)); /* else GCC reads it from memory twice, which is slower */
            sum[i] = _mm512_dpbf16_ps(sum[i], pair, filter);
            more[i] = _mm512_dpbf16_ps(more[i], pair, more_filter);
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < TILES_AT_ONCE; i++)
        _mm512_store_ps(products + i * WIDE, sum[i]), _mm512_store_ps(products + i * WIDE + LANES, more[i]);
}

/* A' m A of 16 channels of a tile of products: 2x2 pixels. */
static inline void pixels_of(const float *products, int64_t point_size, __m512 bias, __m512 y[2][2]) {
    __m512 t[2][4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        __m512 m[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            m[i] = _mm512_load_ps(products + (4 * i + j) * point_size);
        t[0][j] = _mm512_add_ps(_mm512_add_ps(m[0], m[1]), m[2]);
        t[1][j] = _mm512_sub_ps(_mm512_sub_ps(m[1], m[2]), m[3]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        y[i][0] = _mm512_add_ps(_mm512_add_ps(_mm512_add_ps(t[i][0], t[i][1]), t[i][2]), bias);
        y[i][1] = _mm512_add_ps(_mm512_sub_ps(_mm512_sub_ps(t[i][1], t[i][2]), t[i][3]), bias);
    }
}

/* Write WIDE channels of the outputs of a block, from the channel `k` on. */
static void write_outputs(const struct job *job, int64_t first, int64_t count, int64_t k, const float *products) {
    const __mmask32 valid = first_32(job->outputs - k);
    const int64_t point_size = job->block * WIDE + PAD;
    __m512 bias = _mm512_setzero_ps(), more_bias = bias;
    if (job->bias) {
        bias = _mm512_maskz_loadu_ps(first_16(job->outputs - k), job->bias + k);
        more_bias = _mm512_maskz_loadu_ps(first_16(job->outputs - k - LANES), job->bias + k + LANES);
    }
    for (int64_t t = 0; t < count; t++) {
        const int64_t image = (first + t) / job->tiles_each, rest = (first + t) % job->tiles_each;
        const int64_t top = rest / job->tiles_across * 2, left = rest % job->tiles_across * 2;
        __m512 low[2][2], high[2][2];
        pixels_of(products + t * WIDE, point_size, bias, low);
        pixels_of(products + t * WIDE + LANES, point_size, more_bias, high);
        bf16 *to = job->output + ((image * job->rows + top) * job->columns + left) * job->outputs + k;
        for (int64_t i = 0; i < smaller(2, job->rows - top); i++)
            for (int64_t j = 0; j < smaller(2, job->columns - left); j++)
                _mm512_mask_storeu_epi16(to + (i * job->columns + j) * job->outputs, valid,
                                         (__m512i)_mm512_cvtne2ps_pbh(high[i][j], low[i][j]));
    }
}

static void convolve_blocks(void *argument) {
    struct job *job = argument;
    const int64_t channels = round_up(job->inputs, WIDE), point_size = job->block * channels + PAD;
    bf16 *tiles = zeros(POINTS * point_size * sizeof(bf16));
    float *products = zeros(POINTS * (job->block * WIDE + PAD) * sizeof(float));
    if (tiles == NULL || products == NULL) {
        job->out_of_memory = 1;
        goto end;
    }
    for (int64_t first; (first = take(&job->next, job->block)) < job->tiles;) {
        const int64_t count = smaller(job->block, job->tiles - first);
        transform_tiles(job, first, count, tiles);
        for (int64_t k = 0; k < job->outputs; k += WIDE) {
            for (int64_t p = 0; p < POINTS; p++)
                for (int64_t t = 0; t < count; t += TILES_AT_ONCE)
                    multiply(tiles + p * point_size + t * channels, channels, round_up(job->inputs, 2),
                             filters_at(job, k, p, 0), products + p * (job->block * WIDE + PAD) + t * WIDE);
            write_outputs(job, first, count, k, products);
        }
    }
end:
    free(products);
    free(tiles);
}

/* ---- Gradient of the weights ---- */

static inline __m512 load_16(const bf16 *from, int64_t count) {
    return widened(_mm256_maskz_loadu_epi16(first_16(count), from));
}

/* Store 16 channels of two tiles as pairs. */
static inline void store_pairs(bf16 *to, __m512 one, __m512 next) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    _mm512_store_si512(to, _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(next, one)));
}

/* A share of the work on the gradient of the weights, for one thread: some rows of points, of four each, and a group of
   channels of the slopes. Shares have no memory in common that they write: cores that do so in turns are slow.

   The transformed tiles and slopes are pairs (points, channels / 32, block / 2, 32, 2), with PAD numbers behind each
   point and each 32 channels. */
struct share {
    int64_t top, bottom;  /* rows */
    int64_t from, to;     /* channels of the slopes */
    int64_t first, count; /* tiles of the block */
    bf16 *tiles, *slopes; /* transformed */
};

static int64_t pairs_size(const struct job *job, int64_t channels) {
    return round_up(channels, WIDE) / WIDE * (job->block * WIDE + PAD) + PAD;
}
static inline bf16 *pairs_at(const struct job *job, bf16 *pairs, int64_t channel) {
    return pairs + channel / WIDE * (job->block * WIDE + PAD) + channel % WIDE * 2;
}

/* Rows of B' d B of tiles `first + t` and the next one; tiles beyond the last are zero. */
static inline void transform_pair_of_tiles(const struct job *job, const struct share *share, int64_t t, int top,
                                           int bottom) {
    const int64_t inputs = job->inputs, point_size = pairs_size(job, inputs);
    const bf16 *pixels[2][POINTS];
    for (int next = 0; next < 2; next++)
        find_pixels(job, share->first + t + next, job->image, job->height, job->width, inputs, 4, pixels[next]);
    for (int64_t c = 0; c < round_up(inputs, WIDE); c += LANES) {
        bf16 *to = pairs_at(job, share->tiles, c) + t * WIDE;
        __m512 d[2][4][4];
#pragma GCC unroll 2
        for (int next = 0; next < 2; next++) {
#pragma GCC unroll 16
            for (int p = 0; p < POINTS; p++)
                if ((p / 4 > 0 || top == 0) && (p / 4 < 3 || bottom == 4)) /* the rows may depend on it */
                    d[next][p / 4][p % 4] = load_16(pixels[next][p] + c, inputs - c);
                else
                    d[next][p / 4][p % 4] = _mm512_setzero_ps();
            transform_tile(d[next]);
        }
#pragma GCC unroll 16
        for (int p = 0; p < POINTS; p++)
            if (p / 4 >= top && p / 4 < bottom)
                store_pairs(to + (p - 4 * top) * point_size, d[0][p / 4][p % 4], d[1][p / 4][p % 4]);
    }
}

/* Rows of A y A' of the slopes of the same tiles. */
static inline void transform_pair_of_slopes(const struct job *job, const struct share *share, int64_t t, int top,
                                            int bottom) {
    const int64_t outputs = job->outputs, point_size = pairs_size(job, outputs);
    const bf16 *pixels[2][4];
    for (int next = 0; next < 2; next++)
        find_pixels(job, share->first + t + next, job->gradient, job->rows, job->columns, outputs, 2, pixels[next]);
    for (int64_t k = share->from; k < share->to; k += LANES) {
        bf16 *to = pairs_at(job, share->slopes, k) + t * WIDE;
        __m512 y[2][2], z[2][4][4];
#pragma GCC unroll 2
        for (int next = 0; next < 2; next++) {
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++)
                y[i / 2][i % 2] = load_16(pixels[next][i] + k, outputs - k);
            transform_slopes(y, z[next]);
        }
#pragma GCC unroll 16
        for (int p = 0; p < POINTS; p++)
            if (p / 4 >= top && p / 4 < bottom)
                store_pairs(to + (p - 4 * top) * point_size, z[0][p / 4][p % 4], z[1][p / 4][p % 4]);
    }
}

static inline __attribute__((always_inline)) void transform_rows(const struct job *job, const struct share *share,
                                                                int top, int bottom) {
    for (int64_t t = 0; t < share->count; t += 2) {
        transform_pair_of_tiles(job, share, t, top, bottom);
        transform_pair_of_slopes(job, share, t, top, bottom);
    }
}

/* Add the products of SLOPES_AT_ONCE channels of slopes and WIDE of tiles, both (pairs, 32, 2), to sums
   (SLOPES_AT_ONCE, inputs). */
static inline void accumulate(const bf16 *slopes, const bf16 *tiles, int64_t pairs, float *sums, int64_t inputs) {
    __m512 sum[SLOPES_AT_ONCE], more[SLOPES_AT_ONCE];
#pragma GCC unroll 8
    for (int i = 0; i < SLOPES_AT_ONCE; i++)
        sum[i] = _mm512_load_ps(sums + i * inputs), more[i] = _mm512_load_ps(sums + i * inputs + LANES);
    for (int64_t pair = 0; pair < pairs; pair++, slopes += 2 * WIDE, tiles += 2 * WIDE) {
        const __m512bh tile = (__m512bh)_mm512_load_si512(tiles);
        const __m512bh more_tile = (__m512bh)_mm512_load_si512(tiles + WIDE);
#pragma GCC unroll 8
        for (int i = 0; i < SLOPES_AT_ONCE; i++) {
            __m512bh slope = (__m512bh)_mm512_set1_epi32(*(const int32_t *)(slopes + 2 * i));
            __asm__("" : "+v"(slope)); /* else GCC reads it from memory twice, which is slower */
            sum[i] = _mm512_dpbf16_ps(sum[i], slope, tile);
            more[i] = _mm512_dpbf16_ps(more[i], slope, more_tile);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < SLOPES_AT_ONCE; i++)
        _mm512_store_ps(sums + i * inputs, sum[i]), _mm512_store_ps(sums + i * inputs + LANES, more[i]);
}

/* Add a block of tiles to the sums (16, outputs, inputs). */
static void sum_block(const struct job *job, const struct share *share) {
    const int64_t inputs = round_up(job->inputs, WIDE), outputs = round_up(job->outputs, WIDE);
    const int64_t pairs = (share->count + 1) / 2;
    for (int64_t p = 4 * share->top; p < 4 * share->bottom; p++)
        for (int64_t k = share->from; k < share->to; k += WIDE) {
            const int64_t point = p - 4 * share->top;
            const bf16 *slopes = pairs_at(job, share->slopes + point * pairs_size(job, job->outputs), k);
            bf16 *const tiles_of_point = share->tiles + point * pairs_size(job, job->inputs);
            for (int64_t from = 0; from < pairs; from += SUM_PAIRS)
                for (int64_t c = 0; c < inputs; c += WIDE) {
                    const bf16 *tiles = pairs_at(job, tiles_of_point, c) + from * 2 * WIDE;
                    for (int64_t i = 0; i < WIDE; i += SLOPES_AT_ONCE)
                        accumulate(slopes + from * 2 * WIDE + 2 * i, tiles, smaller(SUM_PAIRS, pairs - from),
                                   job->sums + (p * outputs + k + i) * inputs + c, inputs);
                }
        }
}

static void sum_products(void *argument) {
    struct job *job = argument;
    int64_t taken = take(&job->next, 1);
    if (taken >= job->shares) /* there are more threads than shares */
        return;
    const int64_t panels = round_up(job->outputs, WIDE) / WIDE, points = 4 * job->rows_each;
    struct share share = {.tiles = zeros(points * pairs_size(job, job->inputs) * sizeof(bf16)),
                          .slopes = zeros(points * pairs_size(job, job->outputs) * sizeof(bf16))};
    if (share.tiles == NULL || share.slopes == NULL)
        job->out_of_memory = 1;
    for (; !job->out_of_memory && taken < job->shares; taken = take(&job->next, 1)) {
        const int64_t group = taken % job->groups;
        share.top = taken / job->groups * job->rows_each, share.bottom = share.top + job->rows_each;
        share.from = group * panels / job->groups * WIDE, share.to = (group + 1) * panels / job->groups * WIDE;
        for (share.first = 0; share.first < job->tiles; share.first += job->block) {
            share.count = smaller(job->block, job->tiles - share.first);
            if (share.top == 0 && share.bottom == 4) /* with constants it is fast */
                transform_rows(job, &share, 0, 4);
            else if (share.top == 0 && share.bottom == 2)
                transform_rows(job, &share, 0, 2);
            else if (share.top == 2 && share.bottom == 4)
                transform_rows(job, &share, 2, 4);
            else
                transform_rows(job, &share, share.top, share.bottom);
            sum_block(job, &share);
        }
    }
    free(share.slopes);
    free(share.tiles);
}

static void write_gradient(void *argument) {
    struct job *job = argument;
    const int64_t inputs = round_up(job->inputs, WIDE), outputs = round_up(job->outputs, WIDE);
    for (int64_t k; (k = take(&job->next, 1)) < job->outputs;)
        for (int64_t c = 0; c < job->inputs; c += LANES) {
            __m512 u[4][4], g[3][3];
            for (int p = 0; p < POINTS; p++)
                u[p / 4][p % 4] = _mm512_load_ps(job->sums + (p * outputs + k) * inputs + c);
            transform_sums(u, g);
            for (int tap = 0; tap < TAPS; tap++)
                _mm512_mask_storeu_ps(job->of_weight + (k * TAPS + tap) * job->inputs + c,
                                      first_16(job->inputs - c), g[tap / 3][tap % 3]);
        }
}

/* ---- The work, on all threads ---- */

static struct job new_job(int64_t images, int64_t height, int64_t width, int64_t inputs, int64_t outputs, int64_t rows,
                          int64_t columns) {
    struct job job = {.images = images, .height = height, .width = width, .inputs = inputs, .outputs = outputs,
                      .rows = rows, .columns = columns};
    job.tiles_across = (columns + 1) / 2;
    job.tiles_each = (rows + 1) / 2 * job.tiles_across;
    job.tiles = images * job.tiles_each;
    return job;
}

/* What Python calls: 0, or 1 if there is too little memory.

   image: (images, height, width, inputs), output: (images, rows, columns, outputs), the first ones of a convolution
   with a zero around each image; weight: (outputs, 3, 3, inputs), bias: (outputs) or null. With `reversed` the images
   are the gradient of a convolution's output, and its weight is (inputs, 3, 3, outputs). */
int convolve(fork_join parallel, int64_t threads, int64_t images, int64_t height, int64_t width, int64_t inputs,
             int64_t outputs, int64_t rows, int64_t columns, int64_t reversed, const bf16 *image, const float *weight,
             const float *bias, bf16 *output) {
    struct job job = new_job(images, height, width, inputs, outputs, rows, columns);
    const int64_t channels = round_up(inputs, WIDE);
    bf16 *black = zeros(channels * sizeof(bf16));
    const int64_t each = (job.tiles + threads - 1) / threads, most = BLOCK_BYTES / (POINTS * channels * sizeof(bf16));
    job.block = round_up(smaller(larger(most, 1), each), TILES_AT_ONCE);
    job.image = image, job.black = black, job.weight = weight, job.bias = bias, job.output = output;
    job.filters = zeros(POINTS * channels * round_up(outputs, WIDE) * sizeof(bf16));
    job.out_of_memory = job.filters == NULL || black == NULL;
    if (!job.out_of_memory) {
        on_threads(parallel, threads, reversed ? transform_filters_reversed : transform_filters, &job, &job.next);
        on_threads(parallel, threads, convolve_blocks, &job, &job.next);
    }
    free(job.filters);
    free(black);
    return job.out_of_memory;
}

/* What Python calls, as above.

   image: (images, height, width, inputs), gradient: (images, rows, columns, outputs), of_weight: (outputs, 3, 3,
   inputs). */
int gradient_of_weight(fork_join parallel, int64_t threads, int64_t images, int64_t height, int64_t width,
                       int64_t inputs, int64_t outputs, int64_t rows, int64_t columns, const bf16 *image,
                       const bf16 *gradient, float *of_weight) {
    struct job job = new_job(images, height, width, inputs, outputs, rows, columns);
    const int64_t in = round_up(inputs, WIDE), out = round_up(outputs, WIDE);
    job.rows_each = threads % 2 ? 4 : 2;
    if (threads * job.rows_each / 4 > out / WIDE)
        job.rows_each = 1;
    job.groups = larger(1, smaller(threads * job.rows_each / 4, out / WIDE));
    job.shares = 4 / job.rows_each * job.groups;
    job.block = SUM_BYTES / (4 * job.rows_each * (in + out / job.groups) * sizeof(bf16));
    job.block = round_up(smaller(larger(job.block, 2 * SUM_PAIRS), job.tiles), 2);
    bf16 *black = zeros(larger(in, out) * sizeof(bf16));
    job.image = image, job.black = black, job.gradient = gradient, job.of_weight = of_weight;
    job.sums = zeros(POINTS * in * out * sizeof(float));
    job.out_of_memory = black == NULL || job.sums == NULL;
    if (!job.out_of_memory) {
        on_threads(parallel, threads, sum_products, &job, &job.next);
        on_threads(parallel, threads, write_gradient, &job, &job.next);
    }
    free(job.sums);
    free(black);
    return job.out_of_memory;
}
