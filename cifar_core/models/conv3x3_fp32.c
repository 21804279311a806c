/* 3x3 convolutions with stride 1 of fp32 images in channels-last order, by Winograd's algorithm: 36 multiplications
   where there are 144.

   Winograd's minimal filtering F(4x4, 3x3), after Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks"
   (2016), section 4.2. The image is cut into tiles of 6x6 pixels, four pixels apart. The 36 points of transformed
   tiles and of transformed filters are multiplied as 36 matrix products over the channels. The inverse transform gives
   4x4 pixels of the output. The gradient of the weights is the transpose of these steps; the gradient of the output is
   called the slopes.

   Each output, and the gradient of each weight, is summed in one order: the number of threads changes no bit of it. */

#include "vectors_fp32.h"

#ifdef __AVX512F__
#define AT_ONCE 12 /* tiles, or channels of slopes, whose products with WIDE channels are summed in 32 registers */
#else
#define AT_ONCE 6 /* in 16 registers */
#endif

#define SIDE 6              /* of a tile */
#define POINTS 36           /* of a transformed tile */
#define OUT 4               /* side of a tile of the output */
#define WIDE (2 * LANES)    /* channels that are taken at once */
#define PAD 16              /* numbers between rows: at a power of two they would share a set of the caches */
#define BLOCK_BYTES 1048576 /* of transformed tiles */
#define FEWEST_TILES 24     /* of a block: all filters are read for each */
#define SUM_TILES 64        /* whose products are summed in registers */
#define SUM_BYTES 3460300   /* of a share's transformed tiles and slopes at most, as measured */

struct job {
    int64_t images, height, width, inputs, outputs; /* inputs, outputs: channels */
    int64_t rows, columns;                          /* of an output image */
    int64_t tiles_across, tiles_each, tiles;        /* of a line, of an image, of all images */
    int64_t next;                                   /* piece of work that no thread has taken */
    int64_t block;                                  /* tiles that are taken at once */
    int64_t rows_each, groups;                      /* rows of points of a share, groups of channels of the slopes */
    int reversed, out_of_memory;                    /* out_of_memory: the result is not complete */
    const float *image, *gradient, *black;          /* black: a pixel */
    const float *weight, *bias;                     /* bias: null: none */
    float *filters, *output, *sums, *of_weight;
};

/* ---- Transforms of a line; of a tile: of its columns, then of its rows ---- */

/* B' d */
static inline void transform_tile(const vector d[SIDE], vector t[SIDE]) {
    const vector even = d[4] - 4.0f * d[2], odd = d[3] - 4.0f * d[1];
    const vector outer = d[4] - d[2], inner = 2.0f * (d[3] - d[1]);
    t[0] = 4.0f * d[0] - 5.0f * d[2] + d[4];
    t[1] = even + odd, t[2] = even - odd;
    t[3] = outer + inner, t[4] = outer - inner;
    t[5] = 4.0f * d[1] - 5.0f * d[3] + d[5];
}

/* A y */
static inline void transform_slopes(const vector y[OUT], vector z[SIDE]) {
    const vector even = y[0] + y[2], odd = y[1] + y[3];
    const vector even_of_two = y[0] + 4.0f * y[2], odd_of_two = 2.0f * y[1] + 8.0f * y[3];
    z[0] = y[0];
    z[1] = even + odd, z[2] = even - odd;
    z[3] = even_of_two + odd_of_two, z[4] = even_of_two - odd_of_two;
    z[5] = y[3];
}

/* A' m */
static inline void pixels_of(const vector m[SIDE], vector y[OUT]) {
    const vector sum = m[1] + m[2], difference = m[1] - m[2];
    const vector sum_of_two = m[3] + m[4], difference_of_two = m[3] - m[4];
    y[0] = m[0] + sum + sum_of_two;
    y[1] = difference + 2.0f * difference_of_two;
    y[2] = sum + 4.0f * sum_of_two;
    y[3] = difference + 8.0f * difference_of_two + m[5];
}

/* G g */
static inline void transform_filter(const vector g[3], vector u[SIDE]) {
    const vector outer = (g[0] + g[2]) * (-1.0f / 6), middle = g[1] * (1.0f / 6);
    const vector outer_of_two = g[0] * (1.0f / 24) + g[2] * (1.0f / 6), middle_of_two = g[1] * (1.0f / 12);
    u[0] = g[0] * 0.25f;
    u[1] = outer - middle, u[2] = outer + middle;
    u[3] = outer_of_two + middle_of_two, u[4] = outer_of_two - middle_of_two;
    u[5] = g[2];
}

/* G' u */
static inline void transform_sums(const vector u[SIDE], vector g[3]) {
    const vector sum = (u[1] + u[2]) * (1.0f / 6), sum_of_two = u[3] + u[4];
    g[0] = u[0] * 0.25f - sum + sum_of_two * (1.0f / 24);
    g[1] = (u[2] - u[1]) * (1.0f / 6) + (u[3] - u[4]) * (1.0f / 12);
    g[2] = u[5] - sum + sum_of_two * (1.0f / 6);
}

/* The pixels of a tile, black ones beyond the edge: 6x6 of images (images, height, width, channels), one of which lies
   before the outputs, or 4x4 of slopes. */
static inline void find_pixels(const struct job *job, int64_t tile, const float *from, int64_t height, int64_t width,
                               int64_t channels, int side, const float **pixels) {
    const int64_t image = tile / job->tiles_each, rest = tile % job->tiles_each, before = side == SIDE;
    const int64_t top = rest / job->tiles_across * OUT - before, left = rest % job->tiles_across * OUT - before;
    for (int64_t y = top; y < top + side; y++)
        for (int64_t x = left; x < left + side; x++) {
            const int there = y >= 0 && y < height && x >= 0 && x < width;
            *pixels++ = there ? from + ((image * height + y) * width + x) * channels : job->black;
        }
}

/* Transformed filters of weights (outputs, 3, 3, inputs), or of weights (inputs, 3, 3, outputs) whose taps are
   reversed: (outputs / WIDE, 36, inputs, WIDE). */
static void transform_filters(void *argument) {
    struct job *job = argument;
    const int64_t inputs = job->inputs, outputs = job->outputs;
    for (int64_t k; (k = take(&job->next, LANES)) < round_up(outputs, WIDE);)
        for (int64_t c = 0; c < inputs; c++) {
            vector g[3][3], t[3][SIDE], u[SIDE];
            for (int tap = 0; tap < TAPS; tap++)
                if (job->reversed)
                    g[2 - tap % 3][2 - tap / 3] = load_first(job->weight + (c * TAPS + tap) * outputs + k, outputs - k);
                else
                    for (int64_t lane = 0; lane < LANES; lane++)
                        g[tap % 3][tap / 3][lane] =
                            k + lane < outputs ? job->weight[((k + lane) * TAPS + tap) * inputs + c] : 0;
            for (int x = 0; x < 3; x++)
                transform_filter(g[x], t[x]);
            float *to = job->filters + (k / WIDE * POINTS * inputs + c) * WIDE + k % WIDE;
            for (int i = 0; i < SIDE; i++) {
                transform_filter((vector[]){t[0][i], t[1][i], t[2][i]}, u);
                for (int j = 0; j < SIDE; j++, to += inputs * WIDE)
                    store(to, u[j]);
            }
        }
}

/* ---- Outputs ---- */

/* Transformed tiles from `first` on: (36, block, inputs), with PAD numbers behind each tile. */
static void transform_tiles(const struct job *job, int64_t first, int64_t count, float *tiles) {
    const int64_t inputs = job->inputs, row = round_up(inputs, LANES) + PAD, point_size = job->block * row + PAD;
    const float *pixels[POINTS];
    for (int64_t tile = 0; tile < count; tile++) {
        find_pixels(job, first + tile, job->image, job->height, job->width, inputs, SIDE, pixels);
        for (int64_t c = 0; c < inputs; c += LANES) {
            vector t[SIDE][SIDE], v[SIDE];
            for (int x = 0; x < SIDE; x++) {
                vector d[SIDE];
                for (int y = 0; y < SIDE; y++)
                    d[y] = load_first(pixels[y * SIDE + x] + c, inputs - c);
                transform_tile(d, v);
                for (int i = 0; i < SIDE; i++)
                    t[i][x] = v[i];
            }
            float *to = tiles + tile * row + c;
            for (int i = 0; i < SIDE; i++) {
                transform_tile(t[i], v);
                for (int j = 0; j < SIDE; j++, to += point_size)
                    store(to, v[j]);
            }
        }
    }
}

/* Products of AT_ONCE tiles, `row` numbers apart, with filters (inputs, WIDE): (AT_ONCE, WIDE). */
static inline void multiply(const float *tiles, int64_t row, int64_t inputs, const float *filters, float *products) {
    vector sum[AT_ONCE], more[AT_ONCE];
#pragma GCC unroll 12
    for (int i = 0; i < AT_ONCE; i++)
        sum[i] = more[i] = zero();
    for (int64_t c = 0; c < inputs; c++, filters += WIDE) {
        const vector filter = load(filters), more_filter = load(filters + LANES);
#pragma GCC unroll 12
        for (int i = 0; i < AT_ONCE; i++) {
            const vector number = all(tiles[i * row + c]);
            sum[i] += number * filter;
            more[i] += number * more_filter;
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < AT_ONCE; i++)
        store(products + i * WIDE, sum[i]), store(products + i * WIDE + LANES, more[i]);
}

/* Write WIDE channels of the outputs of a block, from the channel `k` on. */
static void write_outputs(const struct job *job, int64_t first, int64_t count, int64_t k, const float *products) {
    const int64_t point_size = job->block * WIDE + PAD, outputs = job->outputs;
    for (int64_t tile = 0; tile < count; tile++) {
        const int64_t image = (first + tile) / job->tiles_each, rest = (first + tile) % job->tiles_each;
        const int64_t top = rest / job->tiles_across * OUT, left = rest % job->tiles_across * OUT;
        const int64_t rows = smaller(OUT, job->rows - top), columns = smaller(OUT, job->columns - left);
        float *const corner = job->output + ((image * job->rows + top) * job->columns + left) * outputs;
        for (int64_t channel = k; channel < smaller(k + WIDE, outputs); channel += LANES) {
            const vector bias = job->bias ? load_first(job->bias + channel, outputs - channel) : zero();
            vector t[OUT][SIDE], y[OUT];
            for (int j = 0; j < SIDE; j++) {
                vector m[SIDE];
                for (int i = 0; i < SIDE; i++)
                    m[i] = load(products + (i * SIDE + j) * point_size + tile * WIDE + channel - k);
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
    const int64_t inputs = job->inputs, row = round_up(inputs, LANES) + PAD, point_size = job->block * row + PAD;
    const int64_t product_size = job->block * WIDE + PAD;
    int64_t first = take(&job->next, job->block);
    if (first >= job->tiles) /* there are more threads than blocks */
        return;
    float *tiles = zeros(POINTS * point_size * sizeof(float));
    float *products = zeros(POINTS * product_size * sizeof(float));
    if (tiles == NULL || products == NULL)
        job->out_of_memory = 1;
    for (; !job->out_of_memory && first < job->tiles; first = take(&job->next, job->block)) {
        const int64_t count = smaller(job->block, job->tiles - first);
        transform_tiles(job, first, count, tiles);
        const float *filters = job->filters;
        for (int64_t k = 0; k < job->outputs; k += WIDE) {
            for (int p = 0; p < POINTS; p++, filters += inputs * WIDE)
                for (int64_t tile = 0; tile < count; tile += AT_ONCE)
                    multiply(tiles + p * point_size + tile * row, row, inputs, filters,
                             products + p * product_size + tile * WIDE);
            write_outputs(job, first, count, k, products);
        }
    }
    free(products);
    free(tiles);
}

/* ---- Gradient of the weights ---- */

/* A share of the work: some rows of the points of transformed tiles and slopes, for a group of channels of the slopes.
   It takes blocks of tiles one after the other. Transformed tiles are (points, block, inputs), transformed slopes
   (points, block, channels of the group), with PAD numbers behind each tile. */
struct share {
    int64_t top, from, to; /* first row; channels of the slopes */
    int64_t first, count;  /* tiles of the block */
    int64_t row, slope_row;
    float *tiles, *slopes;
};

static inline __attribute__((always_inline)) void transform_rows(const struct job *job, const struct share *share,
                                                                const int top, const int bottom) {
    const int64_t inputs = job->inputs, outputs = job->outputs;
    const float *pixels[POINTS];
    for (int64_t tile = 0; tile < share->count; tile++) {
        find_pixels(job, share->first + tile, job->image, job->height, job->width, inputs, SIDE, pixels);
        for (int64_t c = 0; c < inputs; c += LANES) {
            vector t[SIDE][SIDE], v[SIDE];
#pragma GCC unroll 6
            for (int x = 0; x < SIDE; x++) {
                vector d[SIDE];
#pragma GCC unroll 6
                for (int y = 0; y < SIDE; y++) /* the rows depend on these */
                    if ((y > 0 || top == 0) && (y < 5 || bottom == SIDE))
                        d[y] = load_first(pixels[y * SIDE + x] + c, inputs - c);
                    else
                        d[y] = zero();
                transform_tile(d, v);
#pragma GCC unroll 6
                for (int i = top; i < bottom; i++)
                    t[i][x] = v[i];
            }
            float *to = share->tiles + tile * share->row + c;
#pragma GCC unroll 6
            for (int i = top; i < bottom; i++) {
                transform_tile(t[i], v);
                for (int j = 0; j < SIDE; j++, to += job->block * share->row + PAD)
                    store(to, v[j]);
            }
        }
        find_pixels(job, share->first + tile, job->gradient, job->rows, job->columns, outputs, OUT, pixels);
        for (int64_t k = share->from; k < share->to; k += LANES) {
            vector t[SIDE][OUT], z[SIDE];
#pragma GCC unroll 4
            for (int x = 0; x < OUT; x++) {
                vector y[OUT];
#pragma GCC unroll 4
                for (int line = 0; line < OUT; line++)
                    y[line] = load_first(pixels[line * OUT + x] + k, share->to - k);
                transform_slopes(y, z);
#pragma GCC unroll 6
                for (int i = top; i < bottom; i++)
                    t[i][x] = z[i];
            }
            float *to = share->slopes + tile * share->slope_row + k - share->from;
#pragma GCC unroll 6
            for (int i = top; i < bottom; i++) {
                transform_slopes(t[i], z);
                for (int j = 0; j < SIDE; j++, to += job->block * share->slope_row + PAD)
                    store(to, z[j]);
            }
        }
    }
}

/* Add products of AT_ONCE channels of slopes and WIDE of tiles to sums (AT_ONCE, WIDE). */
static inline void accumulate(const float *slopes, int64_t slope_row, const float *tiles, int64_t row, int64_t count,
                              float *sums) {
    vector sum[AT_ONCE], more[AT_ONCE];
#pragma GCC unroll 12
    for (int i = 0; i < AT_ONCE; i++)
        sum[i] = load(sums + i * WIDE), more[i] = load(sums + i * WIDE + LANES);
    for (; count > 0; count--, slopes += slope_row, tiles += row) {
        const vector tile = load(tiles), more_tile = load(tiles + LANES);
#pragma GCC unroll 12
        for (int i = 0; i < AT_ONCE; i++) {
            const vector slope = all(slopes[i]);
            sum[i] += slope * tile;
            more[i] += slope * more_tile;
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < AT_ONCE; i++)
        store(sums + i * WIDE, sum[i]), store(sums + i * WIDE + LANES, more[i]);
}

/* Where the sums of a point, of a group and WIDE inputs, begin: (36, groups, inputs / WIDE, outputs of a group, WIDE).
*/
static inline int64_t group_outputs(const struct job *job) {
    return round_up((job->outputs + job->groups - 1) / job->groups, AT_ONCE);
}
static inline float *sums_at(const struct job *job, int64_t point, int64_t group, int64_t c) {
    const int64_t panels = round_up(job->inputs, WIDE) / WIDE;
    return job->sums + ((point * job->groups + group) * panels + c / WIDE) * group_outputs(job) * WIDE;
}

/* Transform the tiles of a block. With constants it is fast. */
static void transform_share(const struct job *job, const struct share *share) {
    switch (SIDE * (job->rows_each - 1) + share->top) {
    case 0: return transform_rows(job, share, 0, 1);
    case 1: return transform_rows(job, share, 1, 2);
    case 2: return transform_rows(job, share, 2, 3);
    case 3: return transform_rows(job, share, 3, 4);
    case 4: return transform_rows(job, share, 4, 5);
    case 5: return transform_rows(job, share, 5, 6);
    case 12: return transform_rows(job, share, 0, 3);
    case 15: return transform_rows(job, share, 3, 6);
    default: return transform_rows(job, share, 0, 6);
    }
}

static void sum_products(void *argument) {
    struct job *job = argument;
    const int64_t shares = SIDE / job->rows_each * job->groups, each = group_outputs(job);
    const int64_t points = SIDE * job->rows_each;
    int64_t taken = take(&job->next, 1);
    if (taken >= shares) /* there are more threads than shares */
        return;
    struct share share = {.row = round_up(job->inputs, WIDE) + PAD, .slope_row = round_up(each, LANES) + PAD};
    share.tiles = zeros(points * (job->block * share.row + PAD) * sizeof(float));
    share.slopes = zeros(points * (job->block * share.slope_row + PAD) * sizeof(float));
    if (share.tiles == NULL || share.slopes == NULL)
        job->out_of_memory = 1;
    for (; !job->out_of_memory && taken < shares; taken = take(&job->next, 1)) {
        const int64_t group = taken % job->groups;
        share.top = taken / job->groups * job->rows_each;
        share.from = smaller(group * each, job->outputs), share.to = smaller(share.from + each, job->outputs);
        for (share.first = 0; share.first < job->tiles; share.first += job->block) {
            share.count = smaller(job->block, job->tiles - share.first);
            transform_share(job, &share);
            for (int64_t p = 0; p < points; p++) {
                const float *tiles = share.tiles + p * (job->block * share.row + PAD);
                const float *slopes = share.slopes + p * (job->block * share.slope_row + PAD);
                for (int64_t c = 0; c < job->inputs; c += WIDE) {
                    float *sums = sums_at(job, share.top * SIDE + p, group, c);
                    for (int64_t k = 0; k < share.to - share.from; k += AT_ONCE)
                        accumulate(slopes + k, share.slope_row, tiles + c, share.row, share.count, sums + k * WIDE);
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
    for (int64_t k; (k = take(&job->next, 1)) < job->outputs;)
        for (int64_t c = 0; c < inputs; c += LANES) {
            vector t[3][SIDE], g[3];
            for (int j = 0; j < SIDE; j++) {
                vector u[SIDE];
                for (int i = 0; i < SIDE; i++)
                    u[i] = load(sums_at(job, i * SIDE + j, k / each, c) + k % each * WIDE + c % WIDE);
                transform_sums(u, g);
                for (int y = 0; y < 3; y++)
                    t[y][j] = g[y];
            }
            for (int y = 0; y < 3; y++) {
                transform_sums(t[y], g);
                for (int x = 0; x < 3; x++)
                    store_first(job->of_weight + (k * TAPS + y * 3 + x) * inputs + c, g[x], inputs - c);
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
             int64_t outputs, int64_t rows, int64_t columns, int64_t reversed, const float *image, const float *weight,
             const float *bias, float *output) {
    struct job job = new_job(images, height, width, inputs, outputs, rows, columns);
    const int64_t row = round_up(inputs, LANES) + PAD, each = (job.tiles + threads - 1) / threads;
    const int64_t most = BLOCK_BYTES / (POINTS * row * sizeof(float));
    job.block = round_up(smaller(larger(most, FEWEST_TILES), each), AT_ONCE);
    float *black = zeros(inputs * sizeof(float));
    job.reversed = reversed;
    job.image = image, job.black = black, job.weight = weight, job.bias = bias, job.output = output;
    job.filters = zeros(POINTS * inputs * round_up(outputs, WIDE) * sizeof(float));
    job.out_of_memory = job.filters == NULL || black == NULL;
    if (!job.out_of_memory) {
        on_threads(parallel, threads, transform_filters, &job, &job.next);
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
    int64_t least = INT64_MAX;
    for (int64_t rows = SIDE; rows > 0; rows /= rows == SIDE ? 2 : 3) /* 6, 3, 1 */
        for (int64_t groups = 1; groups <= larger(1, job->outputs / 32); groups++) {
            const int64_t inputs = job->inputs, outputs = (job->outputs + groups - 1) / groups;
            const int64_t bytes = SIDE * rows * SUM_TILES * (inputs + outputs + 2 * PAD) * sizeof(float);
            const int64_t rounds = (SIDE / rows * groups + threads - 1) / threads;
            const int64_t time = rounds * (rows * inputs * outputs + 4 * (rows + 2) * (inputs + outputs));
            if (time < least && (bytes <= SUM_BYTES || rows == 1))
                least = time, job->rows_each = rows, job->groups = groups;
        }
}

/* What Python calls, as above.

   image: (images, height, width, inputs), gradient: (images, rows, columns, outputs), of_weight: (outputs, 3, 3,
   inputs). */
int gradient_of_weight(fork_join parallel, int64_t threads, int64_t images, int64_t height, int64_t width,
                       int64_t inputs, int64_t outputs, int64_t rows, int64_t columns, const float *image,
                       const float *gradient, float *of_weight) {
    struct job job = new_job(images, height, width, inputs, outputs, rows, columns);
    share_out(&job, threads);
    job.block = smaller(SUM_TILES, job.tiles);
    float *black = zeros(larger(inputs, outputs) * sizeof(float));
    job.image = image, job.black = black, job.gradient = gradient, job.of_weight = of_weight;
    job.sums = zeros(POINTS * job.groups * round_up(inputs, WIDE) * group_outputs(&job) * sizeof(float));
    job.out_of_memory = black == NULL || job.sums == NULL;
    if (!job.out_of_memory) {
        on_threads(parallel, threads, sum_products, &job, &job.next);
        on_threads(parallel, threads, write_gradient, &job, &job.next);
    }
    free(job.sums);
    free(black);
    return job.out_of_memory;
}
