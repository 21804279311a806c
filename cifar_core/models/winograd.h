/* 3x3 convolutions with stride 1 of images in channels-last order, by Winograd's algorithm, in bf16 (`conv3x3_bf16.c`)
   or fp32 (`conv3x3_fp32.c`): 36 multiplications where there are 144, 25 where there are 81 with OUT = 3, and with
   OUT = 2 16 where there are 36. The smaller tiles are for small images and few of them.

   Winograd's minimal filtering F(OUT x OUT, 3x3), after Lavin & Gray, "Fast Algorithms for Convolutional Neural
   Networks" (2016), section 4. The image is cut into tiles of OUT + 2 pixels a side, OUT pixels apart. The points of
   transformed tiles and of transformed filters are multiplied as matrix products over the channels, one for each point,
   and summed in fp32. The inverse transform gives OUT x OUT pixels of the output. The gradient of the weights is the
   transpose of these steps; the gradient of the output is called the slopes.

   The transforms evaluate polynomials at 0, 2/3, -2/3, 3/2, -3/2 and infinity, at 0, 3/4, -3/4, 2 and infinity (OUT =
   3), or at 0, 1, -1 and infinity. With these rounding does the least harm of those tried: in bf16 the result is off by
   1.1, 0.9 and 0.4 % (root mean square); with the points of the paper, 0, 1, -1, 2, -2 and infinity, it would be by 2.8.
   Barabasz et al., "Error analysis and improving the accuracy of Winograd convolution for deep neural networks" (2020),
   choose points in this way.

   Words of 32 bits, with NUMBERS numbers each, are what is multiplied: pairs of neighbouring channels for the outputs,
   pairs of tiles for the gradient of the weights, or single numbers.

   Each output, and the gradient of each weight, is summed in one order: the number of threads changes no bit of it. */

#pragma once

#if LANES == 16
#define AT_ONCE 12 /* tiles, or channels of slopes, whose products with WIDE channels are summed in 32 registers */
#else
#define AT_ONCE 6 /* in 16 registers */
#endif

/* OUT: side of a tile of the output, 4, 3 or 2; an option of the compiler. */
#define SIDE (OUT + 2)        /* of a tile */
#define HALF ((SIDE + 1) / 2) /* of its rows, rounded up */
#define POINTS (SIDE * SIDE)  /* of a transformed tile */
#define WIDE (2 * LANES)      /* channels that are taken at once */
#define PAD 16                /* words between rows: at a power of two they would share a set of the caches */
#define BLOCK_BYTES 1048576   /* of transformed tiles */
#define FEWEST_TILES 24       /* of a block: all filters are read for each */
#define GRADIENT_ROWS 8       /* outputs whose sums, which lie side by side, a thread transforms at once */
#define SUM_ROWS 64           /* words of tiles whose products are summed in registers */
#define SUM_BYTES 3460300     /* of a share's transformed tiles and slopes at most, as measured */

typedef int32_t word;

static inline vector read(const float *from) { return read_first(from, LANES); }
static inline void write(float *to, vector numbers) { write_first(to, numbers, LANES); }

struct job {
    int64_t images, height, width, inputs, outputs; /* inputs, outputs: channels */
    int64_t rows, columns;                          /* of an output image */
    int64_t tiles_across, tiles_each, tiles;        /* of a line, of an image, of all images */
    int64_t next;                                   /* piece of work that no thread has taken */
    int64_t block;                                  /* tiles that are taken at once */
    int64_t rows_each, groups;                      /* rows of points of a share, groups of channels of the slopes */
    int out_of_memory;                              /* the result is not complete */
    const element *image, *gradient, *black;        /* black: a pixel */
    const float *weight, *bias;                     /* bias: null: none */
    element *output;
    word *filters;
    float *sums, *of_weight;
};

/* ---- Transforms of a line; of a tile: of its columns, then of its rows ---- */

/* x + c y, rounded once: what the compiler fuses by itself depends on where it inlines. */
static inline vector plus(vector x, float c, vector y) { return multiply_add(all(c), y, x); }

#if OUT == 4

/* B' d */
static inline void transform_tile(const vector d[SIDE], vector t[SIDE]) {
    const vector even = plus(d[4], -2.25f, d[2]), odd = plus(d[3], -2.25f, d[1]);
    const vector outer = plus(d[4], -4.0f / 9, d[2]), inner = plus(d[3], -4.0f / 9, d[1]);
    t[0] = plus(d[0], -97.0f / 36, d[2]) + d[4];
    t[1] = plus(even, 2.0f / 3, odd), t[2] = plus(even, -2.0f / 3, odd);
    t[3] = plus(outer, 1.5f, inner), t[4] = plus(outer, -1.5f, inner);
    t[5] = plus(d[1], -97.0f / 36, d[3]) + d[5];
}

/* A y */
static inline void transform_slopes(const vector y[OUT], vector z[SIDE]) {
    const vector even = plus(y[0], 4.0f / 9, y[2]), odd = plus(y[1], 4.0f / 9, y[3]);
    const vector outer = plus(y[0], 2.25f, y[2]), inner = plus(y[1], 2.25f, y[3]);
    z[0] = y[0];
    z[1] = plus(even, 2.0f / 3, odd), z[2] = plus(even, -2.0f / 3, odd);
    z[3] = plus(outer, 1.5f, inner), z[4] = plus(outer, -1.5f, inner);
    z[5] = y[3];
}

/* A' m */
static inline void pixels_of(const vector m[SIDE], vector y[OUT]) {
    const vector even = m[1] + m[2], odd = m[1] - m[2], outer = m[3] + m[4], inner = m[3] - m[4];
    y[0] = m[0] + even + outer;
    y[1] = (2.0f / 3) * (odd + 2.25f * inner);
    y[2] = (4.0f / 9) * (even + 5.0625f * outer);
    y[3] = (8.0f / 27) * (odd + 11.390625f * inner) + m[5];
}

/* G g */
static inline void transform_filter(const vector g[3], vector u[SIDE]) {
    const vector even = g[0] + (4.0f / 9) * g[2], outer = g[0] + 2.25f * g[2];
    u[0] = g[0];
    u[1] = (-81.0f / 130) * (even + (2.0f / 3) * g[1]), u[2] = (-81.0f / 130) * (even - (2.0f / 3) * g[1]);
    u[3] = (8.0f / 65) * (outer + 1.5f * g[1]), u[4] = (8.0f / 65) * (outer - 1.5f * g[1]);
    u[5] = g[2];
}

/* G' u */
static inline void transform_sums(const vector u[SIDE], vector g[3]) {
    const vector even = u[1] + u[2], odd = u[2] - u[1], outer = u[3] + u[4], inner = u[3] - u[4];
    g[0] = u[0] - (81.0f / 130) * even + (8.0f / 65) * outer;
    g[1] = (54.0f / 130) * (odd + (4.0f / 9) * inner);
    g[2] = u[5] - (36.0f / 130) * even + (18.0f / 65) * outer;
}

#elif OUT == 3

/* B' d */
static inline void transform_tile(const vector d[SIDE], vector t[SIDE]) {
    const vector even = plus(d[3], -2.0f, d[2]), odd = plus(d[2], -2.0f, d[1]);
    t[0] = plus(plus(even, -0.5625f, d[1]), 1.125f, d[0]);
    t[1] = plus(even, 0.75f, odd), t[2] = plus(even, -0.75f, odd);
    t[3] = plus(d[3], -0.5625f, d[1]);
    t[4] = plus(plus(d[4], -2.0f, d[3]), -0.5625f, odd);
}

/* A y */
static inline void transform_slopes(const vector y[OUT], vector z[SIDE]) {
    const vector even = plus(y[0], 0.5625f, y[2]);
    z[0] = y[0];
    z[1] = plus(even, 0.75f, y[1]), z[2] = plus(even, -0.75f, y[1]);
    z[3] = plus(plus(y[0], 2.0f, y[1]), 4.0f, y[2]);
    z[4] = y[2];
}

/* A' m */
static inline void pixels_of(const vector m[SIDE], vector y[OUT]) {
    const vector even = m[1] + m[2], odd = m[1] - m[2];
    y[0] = m[0] + even + m[3];
    y[1] = 0.75f * odd + 2.0f * m[3];
    y[2] = 0.5625f * even + 4.0f * m[3] + m[4];
}

/* G g */
static inline void transform_filter(const vector g[3], vector u[SIDE]) {
    const vector even = g[0] + 0.5625f * g[2];
    u[0] = (8.0f / 9) * g[0];
    u[1] = (-32.0f / 45) * (even + 0.75f * g[1]), u[2] = (-32.0f / 99) * (even - 0.75f * g[1]);
    u[3] = (8.0f / 55) * (g[0] + 2.0f * g[1] + 4.0f * g[2]);
    u[4] = g[2];
}

/* G' u */
static inline void transform_sums(const vector u[SIDE], vector g[3]) {
    const vector one = (32.0f / 45) * u[1], other = (32.0f / 99) * u[2], third = (8.0f / 55) * u[3];
    g[0] = (8.0f / 9) * u[0] - (one + other) + third;
    g[1] = 0.75f * (other - one) + 2.0f * third;
    g[2] = u[4] - 0.5625f * (one + other) + 4.0f * third;
}

#else

/* B' d */
static inline void transform_tile(const vector d[SIDE], vector t[SIDE]) {
    t[0] = d[0] - d[2], t[1] = d[1] + d[2], t[2] = d[2] - d[1], t[3] = d[3] - d[1];
}

/* A y */
static inline void transform_slopes(const vector y[OUT], vector z[SIDE]) {
    z[0] = y[0], z[1] = y[0] + y[1], z[2] = y[0] - y[1], z[3] = y[1];
}

/* A' m */
static inline void pixels_of(const vector m[SIDE], vector y[OUT]) {
    y[0] = m[0] + m[1] + m[2], y[1] = m[1] - m[2] + m[3];
}

/* G g */
static inline void transform_filter(const vector g[3], vector u[SIDE]) {
    const vector even = 0.5f * (g[0] + g[2]), odd = 0.5f * g[1];
    u[0] = g[0], u[1] = even + odd, u[2] = even - odd, u[3] = g[2];
}

/* G' u */
static inline void transform_sums(const vector u[SIDE], vector g[3]) {
    const vector even = 0.5f * (u[1] + u[2]);
    g[0] = u[0] + even, g[1] = 0.5f * (u[1] - u[2]), g[2] = even + u[3];
}

#endif

/* The pixels of a tile, black ones beyond the edge: of images (images, height, width, channels) SIDE by SIDE, one of
   which lies before the outputs, or of slopes OUT by OUT. */
static inline void find_pixels(const struct job *job, int64_t tile, const element *from, int64_t height, int64_t width,
                               int64_t channels, int side, const element **pixels) {
    const int64_t image = tile / job->tiles_each, rest = tile % job->tiles_each, before = side == SIDE;
    const int64_t top = rest / job->tiles_across * OUT - before, left = rest % job->tiles_across * OUT - before;
    for (int64_t y = top; y < top + side; y++)
        for (int64_t x = left; x < left + side; x++) {
            const int there = tile < job->tiles && y >= 0 && y < height && x >= 0 && x < width;
            *pixels++ = there ? from + ((image * height + y) * width + x) * channels : job->black;
        }
}

static inline int64_t words_of(int64_t channels) { return (channels + NUMBERS - 1) / NUMBERS; }

/* Transformed filters: (outputs / WIDE, points, words of the inputs, WIDE). Where those of LANES outputs begin: */
static inline word *filters_at(const struct job *job, int64_t output, int point, int64_t w) {
    const int64_t count = words_of(job->inputs);
    return job->filters + ((output / WIDE * POINTS + point) * count + w) * WIDE + output % WIDE;
}

/* G g G' of LANES filters with the taps g[column][row]: the points u. */
static inline void transform_filters_of(const vector g[3][3], vector u[POINTS]) {
    vector t[3][SIDE];
    for (int x = 0; x < 3; x++)
        transform_filter(g[x], t[x]);
    for (int i = 0; i < SIDE; i++)
        transform_filter((vector[]){t[0][i], t[1][i], t[2][i]}, u + i * SIDE);
}

/* Transform weights (outputs, 3, 3, inputs): LANES channels at once. */
static void transform_filters(void *argument) {
    struct job *job = argument;
    const int64_t inputs = job->inputs, count = words_of(inputs);
    for (int64_t k; (k = take(&job->next, LANES)) < round_up(job->outputs, WIDE);)
        for (int64_t w = 0; w < count; w += LANES) {
            words points[POINTS][LANES];
            for (int64_t lane = 0; lane < LANES; lane++) {
                vector u[NUMBERS][POINTS];
                for (int n = 0; n < NUMBERS; n++) {
                    const int64_t c = w * NUMBERS + n * LANES, channels = k + lane < job->outputs ? inputs - c : 0;
                    vector g[3][3];
                    for (int tap = 0; tap < TAPS; tap++)
                        g[tap % 3][tap / 3] = read_first(job->weight + ((k + lane) * TAPS + tap) * inputs + c, channels);
                    transform_filters_of(g, u[n]);
                }
                for (int p = 0; p < POINTS; p++)
                    points[p][lane] = of_neighbours(u[0][p], u[NUMBERS - 1][p]);
            }
            for (int p = 0; p < POINTS; p++) {
                transpose(points[p]);
                for (int64_t i = 0; i < smaller(LANES, count - w); i++)
                    store_words(filters_at(job, k, p, w + i), points[p][i]);
            }
        }
}

/* Transform weights (inputs, 3, 3, outputs), taps in reverse: LANES outputs at once. */
static void transform_filters_reversed(void *argument) {
    struct job *job = argument;
    const int64_t outputs = job->outputs;
    for (int64_t k; (k = take(&job->next, LANES)) < round_up(outputs, WIDE);)
        for (int64_t w = 0; w < words_of(job->inputs); w++) {
            vector u[NUMBERS][POINTS];
            for (int n = 0; n < NUMBERS; n++) {
                const int64_t c = w * NUMBERS + n, channels = c < job->inputs ? outputs - k : 0;
                vector g[3][3];
                for (int tap = 0; tap < TAPS; tap++)
                    g[2 - tap % 3][2 - tap / 3] = read_first(job->weight + (c * TAPS + tap) * outputs + k, channels);
                transform_filters_of(g, u[n]);
            }
            for (int p = 0; p < POINTS; p++)
                store_words(filters_at(job, k, p, w), of_both(u[0][p], u[NUMBERS - 1][p]));
        }
}

/* ---- Outputs ---- */

static inline int64_t row_of(int64_t channels) { return round_up(words_of(channels), LANES) + PAD; }

/* Transformed tiles from `first` on: (points, block, words of the inputs), with PAD words behind each tile. */
static void transform_tiles(const struct job *job, int64_t first, int64_t count, word *tiles) {
    const int64_t inputs = job->inputs, row = row_of(inputs), point_size = job->block * row + PAD;
    const element *pixels[POINTS];
    for (int64_t tile = 0; tile < count; tile++) {
        find_pixels(job, first + tile, job->image, job->height, job->width, inputs, SIDE, pixels);
        for (int64_t c = 0; c < inputs; c += LANES * NUMBERS) {
            vector t[NUMBERS][SIDE][SIDE], v[NUMBERS][SIDE];
            for (int n = 0; n < NUMBERS; n++)
                for (int x = 0; x < SIDE; x++) {
                    const int64_t from = c + n * LANES;
                    vector d[SIDE];
                    for (int y = 0; y < SIDE; y++)
                        d[y] = load_first(pixels[y * SIDE + x] + from, inputs - from);
                    transform_tile(d, v[n]);
                    for (int i = 0; i < SIDE; i++)
                        t[n][i][x] = v[n][i];
                }
            word *to = tiles + tile * row + c / NUMBERS;
            for (int i = 0; i < SIDE; i++) {
                for (int n = 0; n < NUMBERS; n++)
                    transform_tile(t[n][i], v[n]);
                for (int j = 0; j < SIDE; j++, to += point_size)
                    store_words(to, of_neighbours(v[0][j], v[NUMBERS - 1][j]));
            }
        }
    }
}

/* Products of AT_ONCE tiles, `row` words apart, with filters (count, WIDE): (AT_ONCE, WIDE). */
static inline void multiply(const word *tiles, int64_t row, int64_t count, const word *filters, float *products) {
    vector sum[AT_ONCE], more[AT_ONCE];
#pragma GCC unroll 12
    for (int i = 0; i < AT_ONCE; i++)
        sum[i] = more[i] = zero();
    for (int64_t w = 0; w < count; w++, filters += WIDE) {
        const words filter = load_words(filters), more_filter = load_words(filters + LANES);
#pragma GCC unroll 12
        for (int i = 0; i < AT_ONCE; i++) {
            const words number = all_words(tiles[i * row + w]);
            sum[i] = add_products(sum[i], number, filter);
            more[i] = add_products(more[i], number, more_filter);
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < AT_ONCE; i++)
        write(products + i * WIDE, sum[i]), write(products + i * WIDE + LANES, more[i]);
}

/* Write WIDE channels of the outputs of a block, from the channel `k` on. */
static void write_outputs(const struct job *job, int64_t first, int64_t count, int64_t k, const float *products) {
    const int64_t point_size = job->block * WIDE + PAD, outputs = job->outputs;
    for (int64_t tile = 0; tile < count; tile++) {
        const int64_t image = (first + tile) / job->tiles_each, rest = (first + tile) % job->tiles_each;
        const int64_t top = rest / job->tiles_across * OUT, left = rest % job->tiles_across * OUT;
        const int64_t rows = smaller(OUT, job->rows - top), columns = smaller(OUT, job->columns - left);
        element *const corner = job->output + ((image * job->rows + top) * job->columns + left) * outputs;
        for (int64_t channel = k; channel < smaller(k + WIDE, outputs); channel += LANES) {
            const vector bias = job->bias ? read_first(job->bias + channel, outputs - channel) : zero();
            vector t[OUT][SIDE], y[OUT];
            for (int j = 0; j < SIDE; j++) {
                vector m[SIDE];
                for (int i = 0; i < SIDE; i++)
                    m[i] = read(products + (i * SIDE + j) * point_size + tile * WIDE + channel - k);
                pixels_of(m, y);
                for (int i = 0; i < OUT; i++)
                    t[i][j] = y[i];
            }
            for (int64_t i = 0; i < rows; i++) {
                pixels_of(t[i], y);
                for (int64_t j = 0; j < columns; j++)
                    store_first(corner + (i * job->columns + j) * outputs + channel, y[j] + bias, outputs - channel);
            }
        }
    }
}

static void convolve_blocks(void *argument) {
    struct job *job = argument;
    const int64_t row = row_of(job->inputs), point_size = job->block * row + PAD, words = words_of(job->inputs);
    const int64_t product_size = job->block * WIDE + PAD;
    int64_t first = take(&job->next, job->block);
    if (first >= job->tiles) /* there are more threads than blocks */
        return;
    word *tiles = zeros(POINTS * point_size * sizeof(word));
    float *products = zeros(POINTS * product_size * sizeof(float));
    if (tiles == NULL || products == NULL)
        job->out_of_memory = 1;
    for (; !job->out_of_memory && first < job->tiles; first = take(&job->next, job->block)) {
        const int64_t count = smaller(job->block, job->tiles - first);
        transform_tiles(job, first, count, tiles);
        const word *filters = job->filters;
        for (int64_t k = 0; k < job->outputs; k += WIDE) {
            for (int p = 0; p < POINTS; p++, filters += words * WIDE)
                for (int64_t tile = 0; tile < count; tile += AT_ONCE)
                    multiply(tiles + p * point_size + tile * row, row, words, filters,
                             products + p * product_size + tile * WIDE);
            write_outputs(job, first, count, k, products);
        }
    }
    free(products);
    free(tiles);
}

/* ---- Gradient of the weights ---- */

/* A share of the work: some rows of the points of transformed tiles and slopes, for a group of channels of the slopes.
   It takes blocks of tiles one after the other. Transformed tiles are (points, words of the block, inputs), transformed
   slopes (points, words of the block, channels of the group), with PAD words behind each row. */
struct share {
    int64_t top, from, to; /* first row; channels of the slopes */
    int64_t first, count;  /* tiles of the block */
    int64_t row, slope_row;
    word *tiles, *slopes;
};

static inline __attribute__((always_inline)) void transform_rows(const struct job *job, const struct share *share,
                                                                const int top, const int bottom) {
    const int64_t inputs = job->inputs, outputs = job->outputs, sum_rows = words_of(job->block);
    const element *pixels[NUMBERS][POINTS];
    for (int64_t tile = 0; tile < share->count; tile += NUMBERS) {
        for (int n = 0; n < NUMBERS; n++)
            find_pixels(job, share->first + tile + n, job->image, job->height, job->width, inputs, SIDE, pixels[n]);
        for (int64_t c = 0; c < inputs; c += LANES) {
            vector t[NUMBERS][SIDE][SIDE], v[NUMBERS][SIDE];
#pragma GCC unroll 2
            for (int n = 0; n < NUMBERS; n++)
#pragma GCC unroll 6
                for (int x = 0; x < SIDE; x++) {
                    vector d[SIDE];
#pragma GCC unroll 6
                    for (int y = 0; y < SIDE; y++) /* the rows depend on these */
                        if ((y > 0 || top == 0) && (y < SIDE - 1 || bottom == SIDE))
                            d[y] = load_first(pixels[n][y * SIDE + x] + c, inputs - c);
                        else
                            d[y] = zero();
                    transform_tile(d, v[n]);
#pragma GCC unroll 6
                    for (int i = top; i < bottom; i++)
                        t[n][i][x] = v[n][i];
                }
            word *to = share->tiles + tile / NUMBERS * share->row + c;
#pragma GCC unroll 6
            for (int i = top; i < bottom; i++) {
                for (int n = 0; n < NUMBERS; n++)
                    transform_tile(t[n][i], v[n]);
                for (int j = 0; j < SIDE; j++, to += sum_rows * share->row + PAD)
                    store_words(to, of_both(v[0][j], v[NUMBERS - 1][j]));
            }
        }
        for (int n = 0; n < NUMBERS; n++)
            find_pixels(job, share->first + tile + n, job->gradient, job->rows, job->columns, outputs, OUT, pixels[n]);
        for (int64_t k = share->from; k < share->to; k += LANES) {
            vector t[NUMBERS][SIDE][OUT], z[NUMBERS][SIDE];
#pragma GCC unroll 2
            for (int n = 0; n < NUMBERS; n++)
#pragma GCC unroll 4
                for (int x = 0; x < OUT; x++) {
                    vector y[OUT];
#pragma GCC unroll 4
                    for (int line = 0; line < OUT; line++)
                        y[line] = load_first(pixels[n][line * OUT + x] + k, share->to - k);
                    transform_slopes(y, z[n]);
#pragma GCC unroll 6
                    for (int i = top; i < bottom; i++)
                        t[n][i][x] = z[n][i];
                }
            word *to = share->slopes + tile / NUMBERS * share->slope_row + k - share->from;
#pragma GCC unroll 6
            for (int i = top; i < bottom; i++) {
                for (int n = 0; n < NUMBERS; n++)
                    transform_slopes(t[n][i], z[n]);
                for (int j = 0; j < SIDE; j++, to += sum_rows * share->slope_row + PAD)
                    store_words(to, of_both(z[0][j], z[NUMBERS - 1][j]));
            }
        }
    }
}

/* Products of AT_ONCE channels of slopes and WIDE of tiles: sums (AT_ONCE, WIDE). They are added to those before. */
static inline void accumulate(const word *slopes, int64_t slope_row, const word *tiles, int64_t row, int64_t count,
                              int first, float *sums) {
    vector sum[AT_ONCE], more[AT_ONCE];
#pragma GCC unroll 12
    for (int i = 0; i < AT_ONCE; i++)
        if (first)
            sum[i] = more[i] = zero();
        else
            sum[i] = read(sums + i * WIDE), more[i] = read(sums + i * WIDE + LANES);
    for (; count > 0; count--, slopes += slope_row, tiles += row) {
        const words tile = load_words(tiles), more_tile = load_words(tiles + LANES);
#pragma GCC unroll 12
        for (int i = 0; i < AT_ONCE; i++) {
            const words slope = all_words(slopes[i]);
            sum[i] = add_products(sum[i], slope, tile);
            more[i] = add_products(more[i], slope, more_tile);
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < AT_ONCE; i++)
        write(sums + i * WIDE, sum[i]), write(sums + i * WIDE + LANES, more[i]);
}

/* Where the sums of a point, of a group and WIDE inputs, begin: (points, groups, inputs / WIDE, outputs of a group,
   WIDE). */
static inline int64_t group_outputs(const struct job *job) {
    return round_up((job->outputs + job->groups - 1) / job->groups, AT_ONCE);
}
static inline float *sums_at(const struct job *job, int64_t point, int64_t group, int64_t c) {
    const int64_t panels = round_up(job->inputs, WIDE) / WIDE;
    return job->sums + ((point * job->groups + group) * panels + c / WIDE) * group_outputs(job) * WIDE;
}

/* Parts of the rows of a tile, the last of which may have fewer. */
static inline int64_t parts_of(int64_t rows_each) { return (SIDE + rows_each - 1) / rows_each; }

/* Transform the tiles of a block. With constants it is fast. */
static void transform_share(const struct job *job, const struct share *share) {
    if (job->rows_each == SIDE)
        transform_rows(job, share, 0, SIDE);
    else if (job->rows_each == HALF && share->top == 0)
        transform_rows(job, share, 0, HALF);
    else if (job->rows_each == HALF)
        transform_rows(job, share, HALF, SIDE);
    else
#pragma GCC unroll 6
        for (int row = 0; row < SIDE; row++)
            if (share->top == row)
                transform_rows(job, share, row, row + 1);
}

static void sum_products(void *argument) {
    struct job *job = argument;
    const int64_t shares = parts_of(job->rows_each) * job->groups, each = group_outputs(job);
    const int64_t most = SIDE * job->rows_each; /* points of a share */
    int64_t taken = take(&job->next, 1);
    if (taken >= shares) /* there are more threads than shares */
        return;
    struct share share = {.row = round_up(job->inputs, WIDE) + PAD, .slope_row = round_up(each, LANES) + PAD};
    const int64_t sum_rows = words_of(job->block), point_size = sum_rows * share.row + PAD;
    const int64_t slopes_size = sum_rows * share.slope_row + PAD;
    share.tiles = zeros(most * point_size * sizeof(word));
    share.slopes = zeros(most * slopes_size * sizeof(word));
    if (share.tiles == NULL || share.slopes == NULL)
        job->out_of_memory = 1;
    for (; !job->out_of_memory && taken < shares; taken = take(&job->next, 1)) {
        const int64_t group = taken % job->groups;
        share.top = taken / job->groups * job->rows_each;
        const int64_t points = smaller(most, POINTS - SIDE * share.top);
        share.from = smaller(group * each, job->outputs), share.to = smaller(share.from + each, job->outputs);
        for (share.first = 0; share.first < job->tiles; share.first += job->block) {
            share.count = smaller(job->block, job->tiles - share.first);
            transform_share(job, &share);
            for (int64_t p = 0; p < points; p++) {
                const word *tiles = share.tiles + p * point_size, *slopes = share.slopes + p * slopes_size;
                for (int64_t c = 0; c < job->inputs; c += WIDE) {
                    float *sums = sums_at(job, share.top * SIDE + p, group, c);
                    for (int64_t k = 0; k < share.to - share.from; k += AT_ONCE)
                        accumulate(slopes + k, share.slope_row, tiles + c, share.row, words_of(share.count),
                                   share.first == 0, sums + k * WIDE);
                }
            }
        }
    }
    free(share.slopes);
    free(share.tiles);
}

static void write_gradient(void *argument) {
    struct job *job = argument;
    const int64_t inputs = job->inputs, each = group_outputs(job);
    for (int64_t first; (first = take(&job->next, GRADIENT_ROWS)) < job->outputs;)
        for (int64_t c = 0; c < inputs; c += LANES)
            for (int64_t k = first; k < smaller(first + GRADIENT_ROWS, job->outputs); k++) {
                vector t[3][SIDE], g[3];
                for (int j = 0; j < SIDE; j++) {
                    vector u[SIDE];
                    for (int i = 0; i < SIDE; i++)
                        u[i] = read(sums_at(job, i * SIDE + j, k / each, c) + k % each * WIDE + c % WIDE);
                    transform_sums(u, g);
                    for (int y = 0; y < 3; y++)
                        t[y][j] = g[y];
                }
                for (int y = 0; y < 3; y++) {
                    transform_sums(t[y], g);
                    for (int x = 0; x < 3; x++)
                        write_first(job->of_weight + (k * TAPS + y * 3 + x) * inputs + c, g[x], inputs - c);
                }
            }
}

/* ---- The work, on all threads ---- */

static struct job new_job(int64_t images, int64_t height, int64_t width, int64_t inputs, int64_t outputs, int64_t rows,
                          int64_t columns) {
    struct job job = {.images = images, .height = height, .width = width, .inputs = inputs, .outputs = outputs,
                      .rows = rows, .columns = columns};
    job.tiles_across = (columns + OUT - 1) / OUT;
    job.tiles_each = (rows + OUT - 1) / OUT * job.tiles_across;
    job.tiles = images * job.tiles_each;
    return job;
}

/* What Python calls: 0, or 1 if there is too little memory.

   image: (images, height, width, inputs), output: (images, rows, columns, outputs), the first ones of a convolution
   with a zero around each image; weight: (outputs, 3, 3, inputs), bias: (outputs) or null. With `reversed` the images
   are the gradient of a convolution's output, and its weight is (inputs, 3, 3, outputs). */
int convolve(fork_join parallel, int64_t threads, int64_t images, int64_t height, int64_t width, int64_t inputs,
             int64_t outputs, int64_t rows, int64_t columns, int64_t reversed, const element *image, const float *weight,
             const float *bias, element *output) {
    struct job job = new_job(images, height, width, inputs, outputs, rows, columns);
    const int64_t row = row_of(inputs), each = (job.tiles + threads - 1) / threads;
    const int64_t most = BLOCK_BYTES / (POINTS * row * sizeof(word));
    job.block = round_up(smaller(larger(most, FEWEST_TILES), each), AT_ONCE);
    element *black = zeros(inputs * sizeof(element));
    job.image = image, job.black = black, job.weight = weight, job.bias = bias, job.output = output;
    job.filters = zeros(POINTS * words_of(inputs) * round_up(outputs, WIDE) * sizeof(word));
    job.out_of_memory = job.filters == NULL || black == NULL;
    if (!job.out_of_memory) {
        on_threads(parallel, threads, reversed ? transform_filters_reversed : transform_filters, &job, &job.next);
        on_threads(parallel, threads, convolve_blocks, &job, &job.next);
    }
    free(job.filters);
    free(black);
    return job.out_of_memory;
}

/* Choose the shares of the gradient that take the least time. Products take rows * inputs * outputs, and transforms
   4 * (rows + 2) * (inputs + outputs): fewer rows save less than their part of them (measured). What a share transforms
   has to stay in the caches. */
static void share_out(struct job *job, int64_t threads) {
    const int64_t choices[] = {SIDE, HALF, 1};
    int64_t least = INT64_MAX;
    for (int choice = 0; choice < 3; choice++)
        for (int64_t groups = 1; groups <= larger(1, job->outputs / 32); groups++) {
            const int64_t rows = choices[choice], inputs = job->inputs, outputs = (job->outputs + groups - 1) / groups;
            const int64_t bytes = SIDE * rows * SUM_ROWS * (inputs + outputs + 2 * PAD) * sizeof(word);
            const int64_t rounds = (parts_of(rows) * groups + threads - 1) / threads;
            const int64_t time = rounds * (rows * inputs * outputs + 4 * (rows + 2) * (inputs + outputs));
            if (time < least && (bytes <= SUM_BYTES || rows == 1))
                least = time, job->rows_each = rows, job->groups = groups;
        }
}

/* What Python calls, as above.

   image: (images, height, width, inputs), gradient: (images, rows, columns, outputs), of_weight: (outputs, 3, 3,
   inputs). */
int gradient_of_weight(fork_join parallel, int64_t threads, int64_t images, int64_t height, int64_t width,
                       int64_t inputs, int64_t outputs, int64_t rows, int64_t columns, const element *image,
                       const element *gradient, float *of_weight) {
    struct job job = new_job(images, height, width, inputs, outputs, rows, columns);
    share_out(&job, threads);
    job.block = smaller(SUM_ROWS * NUMBERS, round_up(job.tiles, NUMBERS));
    element *black = zeros(larger(inputs, outputs) * sizeof(element));
    job.image = image, job.black = black, job.gradient = gradient, job.of_weight = of_weight;
    job.sums = room(POINTS * job.groups * round_up(inputs, WIDE) * group_outputs(&job) * sizeof(float));
    job.out_of_memory = black == NULL || job.sums == NULL;
    if (!job.out_of_memory) {
        on_threads(parallel, threads, sum_products, &job, &job.next);
        on_threads(parallel, threads, write_gradient, &job, &job.next);
    }
    free(job.sums);
    free(black);
    return job.out_of_memory;
}
