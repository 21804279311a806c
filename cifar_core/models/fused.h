/* Batch norm and GELU or ReLU, with a 2x2 max-pool before or after them, or less of these, on images in channels-last
   order: in bf16 (`fused_bf16.c`) or fp32 (`fused_fp32.c`).

   A tensor is an array (images, height, width, channels). Images are divided into chunks, which threads take one
   after the other. Sums are kept per chunk and added in the order of the chunks, so the number of threads changes no
   bit of the result. A vector holds LANES channels of a pixel, in fp32. */

#pragma once

#define WIDEST 1024 /* channels; `_MOST_CHANNELS` in fused.py */
#define NOWHERE 4   /* winner of a block whose ReLU is zero: no pixel takes a gradient */

enum pool { NONE, FIRST, LAST };

struct job {
    int64_t images, height, width, channels; /* before the pool */
    int64_t rows, columns;                   /* after the pool */
    int64_t area;                            /* pixels of an image that the norm counts */
    int64_t chunks, next;
    void (*work)(struct job *, int64_t chunk);
    const float *table;                      /* of GELU; null: ReLU */
    const element *inputs;
    element *pixels;                         /* `inputs`, or what the first pool leaves of them */
    element *outputs;
    uint8_t *winner;                         /* which pixel of its 2x2 block is the largest; null without a pool */
    float *partial;                          /* (chunks, 2, channels); null where the statistics are given */
    const float *mean, *scale, *shift;
    const element *gradient;
    const float *slope_mean, *slant;
};

/* ---- Activations ---- */

/* `table` is of GELU(x) / x here, and of the slope of GELU in `slope`. */
static inline vector activation(const float *table, vector x) {
    if (table)
        return x * gelu_over(table, x);
    return relu(x);
}

/* The gradient of the input `x` of the activation, from that of its output. */
static inline vector slope(const float *table, vector x, vector gradient) {
    if (table)
        return gradient * gelu_slope(table, x);
    return kept(is_positive(x), gradient);
}

/* `name` by `name_as`, compiled twice: with what the job has, given as `with`, and without it. */
#define TWICE(name, has, with)                         \
    static void name(struct job *job, int64_t chunk) { \
        if (job->has)                                  \
            name##_as(job, chunk, with);               \
        else                                           \
            name##_as(job, chunk, 0);                  \
    }

/* ---- Forward ---- */

static int64_t first_image(const struct job *job, int64_t chunk) { return chunk * job->images / job->chunks; }

/* Mean and sum of squared deviations of each channel over the pixels of a chunk, in one pass: as exact as torch unless
   the chunk's first pixel is hundreds of deviations off. */
static void moments(struct job *job, int64_t chunk) {
    const int64_t channels = job->channels, area = job->area;
    const int64_t from = first_image(job, chunk) * area, to = first_image(job, chunk + 1) * area;
    float *mean = job->partial + chunk * 2 * channels, *squares = mean + channels;
    float first[WIDEST], sum[WIDEST] = {0}, product[WIDEST] = {0};
    for (int64_t c = 0; c < channels; c += LANES)
        write(first + c, load(job->pixels + from * channels + c));
    for (int64_t pixel = from; pixel < to; pixel++)
        for (int64_t c = 0; c < channels; c += LANES) {
            const vector input = load(job->pixels + pixel * channels + c);
            const vector deviation = input - read(first + c);
            write(sum + c, read(sum + c) + deviation);
            write(product + c, multiply_add(deviation, deviation, read(product + c)));
        }
    for (int64_t c = 0; c < channels; c++) {
        const float rest = product[c] - sum[c] * sum[c] / (to - from);
        squares[c] = rest < 0 ? 0 : rest; /* of rounding; NaN stays */
        mean[c] = first[c] + sum[c] / (to - from);
    }
}

/* The largest of four vectors, and which one it is. The first of equals wins, and NaN over all numbers, as in torch. */
static inline vector largest(const vector v[4], integers *place) {
    vector found = v[0];
    *place = (integers){0};
#pragma GCC unroll 3
    for (int i = 1; i < 4; i++) {
        const mask wins = is_greater(v[i], found) | is_nan(v[i]);
        found = chosen(wins, v[i], found);
        *place = replaced(*place, wins, i);
    }
    return found;
}

/* Distances of the pixels of a 2x2 block from its first. */
static inline void block(const struct job *job, int64_t to[4]) {
    to[0] = 0, to[1] = job->channels, to[2] = job->width * job->channels, to[3] = to[2] + to[1];
}

/* The first number of the block of a pixel (image, row, column) after the pool. */
static inline int64_t block_at(const struct job *job, int64_t image, int64_t row, int64_t column) {
    return ((image * job->height + 2 * row) * job->width + 2 * column) * job->channels;
}

static void pool(struct job *job, int64_t chunk) {
    int64_t place = first_image(job, chunk) * job->rows * job->columns * job->channels, to[4];
    block(job, to);
    for (int64_t image = first_image(job, chunk); image < first_image(job, chunk + 1); image++)
        for (int64_t row = 0; row < job->rows; row++)
            for (int64_t column = 0; column < job->columns; column++) {
                const element *from = job->inputs + block_at(job, image, row, column);
                for (int64_t c = 0; c < job->channels; c += LANES, place += LANES) {
                    const vector v[4] = {load(from + to[0] + c), load(from + to[1] + c), load(from + to[2] + c),
                                         load(from + to[3] + c)};
                    integers winner;
                    store(job->pixels + place, largest(v, &winner));
                    write_bytes(job->winner + place, winner);
                }
            }
    if (job->partial)
        moments(job, chunk);
}

/* Channels of a pixel, from `c` on, as deviations from their means. */
static inline vector deviation(const struct job *job, int64_t c, vector pixel) { return pixel - read(job->mean + c); }

/* The output of the norm. */
static inline vector normalised(const struct job *job, int64_t c, vector pixel) {
    return multiply_add(deviation(job, c, pixel), read(job->scale + c), read(job->shift + c));
}

static inline void activate_as(struct job *job, int64_t chunk, const float *table) {
    const int64_t channels = job->channels, area = job->rows * job->columns;
    for (int64_t pixel = first_image(job, chunk) * area; pixel < first_image(job, chunk + 1) * area; pixel++)
        for (int64_t c = 0; c < channels; c += LANES) {
            const int64_t place = pixel * channels + c;
            store(job->outputs + place, activation(table, normalised(job, c, load(job->pixels + place))));
        }
}

TWICE(activate, table, job->table)

/* Norm if there is one, ReLU, then pool. */
static inline void activate_and_pool_as(struct job *job, int64_t chunk, int norm) {
    int64_t place = first_image(job, chunk) * job->rows * job->columns * job->channels, to[4];
    block(job, to);
    for (int64_t image = first_image(job, chunk); image < first_image(job, chunk + 1); image++)
        for (int64_t row = 0; row < job->rows; row++)
            for (int64_t column = 0; column < job->columns; column++) {
                const element *from = job->pixels + block_at(job, image, row, column);
                for (int64_t c = 0; c < job->channels; c += LANES, place += LANES) {
                    vector v[4];
#pragma GCC unroll 4
                    for (int i = 0; i < 4; i++) {
                        v[i] = load(from + to[i] + c);
                        if (norm)
                            v[i] = normalised(job, c, v[i]);
                    }
                    integers winner;
                    const vector found = largest(v, &winner);
                    winner = replaced(winner, is_at_most_zero(found), NOWHERE);
                    store(job->outputs + place, activation(0, found));
                    write_bytes(job->winner + place, winner);
                }
            }
}

TWICE(activate_and_pool, scale, 1)

/* ---- Backward ---- */

static inline void add_to(float *sums, vector numbers) { write(sums, read(sums) + numbers); }

/* Sums over the pixels of a chunk of the gradient of the norm's output, as it is and times the input's deviation. */
static inline void sum_slopes_as(struct job *job, int64_t chunk, const float *table) {
    const int64_t channels = job->channels, area = job->rows * job->columns;
    float *sum = job->partial + chunk * 2 * channels, *product = sum + channels;
    memset(sum, 0, 2 * channels * sizeof(float));
    for (int64_t pixel = first_image(job, chunk) * area; pixel < first_image(job, chunk + 1) * area; pixel++)
        for (int64_t c = 0; c < channels; c += LANES) {
            const int64_t place = pixel * channels + c;
            const vector input = load(job->pixels + place);
            const vector s = slope(table, normalised(job, c, input), load(job->gradient + place));
            add_to(sum + c, s);
            add_to(product + c, s * deviation(job, c, input));
        }
}

TWICE(sum_slopes, table, job->table)

static void sum_pooled_slopes(struct job *job, int64_t chunk) {
    const int64_t channels = job->channels;
    int64_t place = first_image(job, chunk) * job->rows * job->columns * channels, to[4];
    float *sum = job->partial + chunk * 2 * channels, *product = sum + channels;
    block(job, to);
    memset(sum, 0, 2 * channels * sizeof(float));
    for (int64_t image = first_image(job, chunk); image < first_image(job, chunk + 1); image++)
        for (int64_t row = 0; row < job->rows; row++)
            for (int64_t column = 0; column < job->columns; column++) {
                const element *from = job->pixels + block_at(job, image, row, column);
                for (int64_t c = 0; c < channels; c += LANES, place += LANES) {
                    const integers winner = read_bytes(job->winner + place);
                    vector pixel = load(from + to[0] + c);
#pragma GCC unroll 3
                    for (int i = 1; i < 4; i++)
                        pixel = chosen(is_equal(winner, i), load(from + to[i] + c), pixel);
                    const vector s = kept(~is_equal(winner, NOWHERE), load(job->gradient + place));
                    add_to(sum + c, s);
                    add_to(product + c, s * deviation(job, c, pixel));
                }
            }
}

/* The gradient of the input of the norm, from that of its output. */
static inline vector spread_to(const struct job *job, int64_t c, vector slope, vector pixel) {
    const vector along = multiply_add(deviation(job, c, pixel), read(job->slant + c), read(job->slope_mean + c));
    return read(job->scale + c) * (slope - along);
}

static inline void spread_as(struct job *job, int64_t chunk, const float *table) {
    const int64_t channels = job->channels, area = job->rows * job->columns;
    for (int64_t pixel = first_image(job, chunk) * area; pixel < first_image(job, chunk + 1) * area; pixel++)
        for (int64_t c = 0; c < channels; c += LANES) {
            const int64_t place = pixel * channels + c;
            const vector input = load(job->pixels + place);
            const vector s = slope(table, normalised(job, c, input), load(job->gradient + place));
            store(job->outputs + place, spread_to(job, c, s, input));
        }
}

TWICE(spread, table, job->table)

static void clear(element *from, element *to) {
    memset(from, 0, (to - from) * sizeof(element));
}

/* The gradient of the inputs of a first pool: zero of pixels that are not the largest, or that it left out. */
static inline void spread_before_pool_as(struct job *job, int64_t chunk, const float *table) {
    const int64_t channels = job->channels, line = job->width * channels;
    int64_t place = first_image(job, chunk) * job->rows * job->columns * channels, to[4];
    block(job, to);
    for (int64_t image = first_image(job, chunk); image < first_image(job, chunk + 1); image++) {
        element *output = job->outputs + image * job->height * line;
        for (int64_t row = 0; row < job->rows; row++) {
            element *upper = output + 2 * row * line;
            for (int64_t column = 0; column < job->columns; column++)
                for (int64_t c = 0; c < channels; c += LANES, place += LANES) {
                    const vector pixel = load(job->pixels + place);
                    const vector s = slope(table, normalised(job, c, pixel), load(job->gradient + place));
                    const vector value = spread_to(job, c, s, pixel);
                    const integers winner = read_bytes(job->winner + place);
#pragma GCC unroll 4
                    for (int i = 0; i < 4; i++)
                        store(upper + 2 * column * channels + to[i] + c, kept(is_equal(winner, i), value));
                }
            clear(upper + 2 * job->columns * channels, upper + line);
            clear(upper + line + 2 * job->columns * channels, upper + 2 * line);
        }
        clear(output + 2 * job->rows * line, output + job->height * line);
    }
}

TWICE(spread_before_pool, table, job->table)

/* The gradient of the inputs of the norm before a last pool, or of ReLU without a norm. */
static inline void spread_after_pool_as(struct job *job, int64_t chunk, int norm) {
    const int64_t channels = job->channels;
    int64_t place = first_image(job, chunk) * job->rows * job->columns * channels, to[4];
    block(job, to);
    for (int64_t image = first_image(job, chunk); image < first_image(job, chunk + 1); image++)
        for (int64_t row = 0; row < job->rows; row++)
            for (int64_t column = 0; column < job->columns; column++) {
                const int64_t first = block_at(job, image, row, column);
                for (int64_t c = 0; c < channels; c += LANES, place += LANES) {
                    const integers winner = read_bytes(job->winner + place);
                    const vector s = load(job->gradient + place);
#pragma GCC unroll 4
                    for (int i = 0; i < 4; i++) {
                        const int64_t at = first + to[i] + c;
                        const vector own = kept(is_equal(winner, i), s);
                        store(job->outputs + at, norm ? spread_to(job, c, own, load(job->pixels + at)) : own);
                    }
                }
            }
}

TWICE(spread_after_pool, scale, 1)

/* ---- GELU alone ---- */

static void activate_all(struct job *job, int64_t chunk) {
    const int64_t size = job->height * job->width * job->channels, to = first_image(job, chunk + 1) * size;
    for (int64_t i = first_image(job, chunk) * size; i < to; i += LANES) {
        const vector x = load_first(job->inputs + i, to - i);
        if (job->gradient)
            store_first(job->outputs + i, slope(job->table, x, load_first(job->gradient + i, to - i)), to - i);
        else
            store_first(job->outputs + i, activation(job->table, x), to - i);
    }
}

/* ---- What Python calls ---- */

static void take_chunks(void *argument) {
    struct job *job = argument;
    int64_t chunk;
    while ((chunk = take(&job->next, 1)) < job->chunks)
        job->work(job, chunk);
}

static void run(struct job *job, void (*work)(struct job *, int64_t), fork_join parallel, int64_t threads) {
    job->work = work;
    on_threads(parallel, threads, take_chunks, job, &job->next);
}

/* GELU of the inputs; with a gradient, that of the inputs. */
void gelu(fork_join parallel, int64_t threads, int64_t images, int64_t height, int64_t width, int64_t channels,
          int64_t chunks, const float *table, const element *inputs, const element *gradient, element *outputs) {
    struct job job = {.images = images, .height = height, .width = width, .channels = channels, .chunks = chunks,
                      .table = table, .inputs = inputs, .gradient = gradient, .outputs = outputs};
    run(&job, activate_all, parallel, threads);
}

static struct job new_job(int64_t images, int64_t height, int64_t width, int64_t channels, int64_t chunks,
                          int64_t pool) {
    const int64_t side = pool == NONE ? 1 : 2, rows = height / side, columns = width / side;
    return (struct job){.images = images, .height = height, .width = width, .channels = channels, .chunks = chunks,
                        .rows = rows, .columns = columns, .area = pool == FIRST ? rows * columns : height * width};
}

/* ReLU, then pool; with a gradient, that of the inputs. */
void relu_pool(fork_join parallel, int64_t threads, int64_t images, int64_t height, int64_t width, int64_t channels,
               int64_t chunks, element *inputs, uint8_t *winner, const element *gradient, element *outputs) {
    struct job job = new_job(images, height, width, channels, chunks, LAST);
    job.pixels = inputs, job.winner = winner, job.gradient = gradient, job.outputs = outputs;
    run(&job, gradient ? spread_after_pool : activate_and_pool, parallel, threads);
}

void norm_forward(fork_join parallel, int64_t threads, int64_t images, int64_t height, int64_t width, int64_t channels,
                  int64_t chunks, int64_t pool_place, float epsilon, const float *table, const float *weight,
                  const float *bias, const element *inputs, element *pixels, uint8_t *winner, float *partial,
                  float *mean, float *variance, float *scale, element *outputs) {
    struct job job = new_job(images, height, width, channels, chunks, pool_place);
    job.table = table, job.inputs = inputs, job.pixels = pixels, job.winner = winner, job.partial = partial;
    job.mean = mean, job.scale = scale, job.shift = bias, job.outputs = outputs;
    if (pool_place == FIRST || partial)
        run(&job, pool_place == FIRST ? pool : moments, parallel, threads);
    for (int64_t c = 0; partial && c < channels; c++) {
        double count = 0, average = 0, squares = 0;
        for (int64_t chunk = 0; chunk < chunks; chunk++) { /* Chan, Golub & LeVeque (1979) */
            const float *part = partial + chunk * 2 * channels + c;
            const double more = (first_image(&job, chunk + 1) - first_image(&job, chunk)) * job.area;
            const double gap = part[0] - average;
            average += gap * more / (count + more);
            squares += part[channels] + gap * gap * count * more / (count + more);
            count += more;
        }
        mean[c] = average;
        variance[c] = squares / count;
        scale[c] = weight[c] / __builtin_sqrt(squares / count + epsilon);
    }
    run(&job, pool_place == LAST ? activate_and_pool : activate, parallel, threads);
}

void norm_backward(fork_join parallel, int64_t threads, int64_t images, int64_t height, int64_t width, int64_t channels,
                   int64_t chunks, int64_t pool_place, float epsilon, const float *table, const float *bias,
                   element *pixels, uint8_t *winner, float *partial, const float *mean, const float *variance,
                   const float *scale, const element *gradient, float *of_weight, float *of_bias, element *of_inputs) {
    float slope_mean[WIDEST], slant[WIDEST];
    struct job job = new_job(images, height, width, channels, chunks, pool_place);
    job.table = table, job.pixels = pixels, job.winner = winner, job.partial = partial;
    job.mean = mean, job.scale = scale, job.shift = bias, job.gradient = gradient, job.outputs = of_inputs;
    job.slope_mean = slope_mean, job.slant = slant;
    run(&job, pool_place == LAST ? sum_pooled_slopes : sum_slopes, parallel, threads);
    const double count = (double)images * job.area;
    for (int64_t c = 0; c < channels; c++) {
        double sum = 0, product = 0;
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            sum += partial[chunk * 2 * channels + c];
            product += partial[chunk * 2 * channels + channels + c];
        }
        of_bias[c] = sum;
        of_weight[c] = product / __builtin_sqrt((double)variance[c] + epsilon);
        slope_mean[c] = sum / count;
        slant[c] = product / count / ((double)variance[c] + epsilon);
    }
    if (of_inputs) /* somebody wants it */
        run(&job, pool_place == NONE ? spread : pool_place == FIRST ? spread_before_pool : spread_after_pool, parallel,
            threads);
}
