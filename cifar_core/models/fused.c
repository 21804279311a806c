/* Max-pool, batch norm and GELU on bf16 images in channels-last order, forward and backward.

   A tensor is an array (images, height, width, channels). Images are divided into chunks, which threads take one
   after the other. Sums are kept per chunk and added in the order of the chunks, so the number of threads changes no
   bit of the result. Loops run over channels, so that the compiler turns them into vector instructions. */

#include <stdint.h>

#define WIDEST 1024 /* channels; `_CHANNELS` in fused.py */

typedef uint16_t bf16;
typedef void (*fork_join)(void (*)(void *), void *, unsigned, unsigned); /* GOMP_parallel of GCC's OpenMP */

struct job {
    int64_t images, height, width, channels; /* before the pool */
    int64_t rows, columns;                   /* after the pool */
    int64_t chunks, next;
    void (*work)(struct job *, int64_t chunk);
    const bf16 *unpooled, *gradient;
    bf16 *inputs, *outputs; /* inputs: of the norm */
    uint8_t *winner;        /* which pixel of its 2x2 block is the largest; null without a pool */
    float *partial;         /* (chunks, 2, channels); null where the statistics are given */
    const float *mean, *scale, *shift;
    bf16 *slopes;           /* gradient of the norm's output */
    const float *slope_mean, *slant;
};

static inline float widen(bf16 value) {
    union { uint32_t bits; float number; } wide = {(uint32_t)value << 16};
    return wide.number;
}

/* To the nearest, ties to even. NaN stays NaN, as all that comes from bf16 or from arithmetic has low bits of zero. */
static inline bf16 narrow(float value) {
    union { float number; uint32_t bits; } wide = {value};
    return (wide.bits + 0x7fff + ((wide.bits >> 16) & 1)) >> 16;
}

/* exp(-x^2 / 2), as a power of two times a polynomial; 0 where that is no normal number. */
static inline float bell(float x) {
    const float exponent = x * x * -0.72134752f; /* log2(e) / 2 */
    const float power = exponent < -126.0f ? -126.0f : exponent;
    union { float number; int32_t bits; } whole = {power + 12582912.0f}, result; /* 1.5 * 2^23: rounds */
    float rest = power - (whole.number - 12582912.0f);
    result.number = 1.0f + rest * (0.69314718f + rest * (0.24022651f + rest * (0.055503324f + rest * (0.0096181291f
        + rest * 0.0013333558f))));
    result.bits += (int32_t)((uint32_t)whole.bits << 23);
    return exponent < -126.0f ? 0.0f : result.number;
}

/* The standard normal distribution function (Abramowitz & Stegun 7.1.26); `density` is exp(-x^2 / 2).

   The sign is moved by bits, as compilers compute both sides of a branch. */
static inline float normal(float x, float density) {
    union { float number; uint32_t bits; } size = {x}, tail;
    const uint32_t sign = size.bits & 0x80000000;
    size.bits ^= sign;
    const float t = 1.0f / (1.0f + 0.23164190f * size.number); /* 0.3275911 / sqrt(2) */
    tail.number = 0.5f * density * t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f
        + t * 1.061405429f))));
    tail.bits ^= sign ^ 0x80000000; /* 1 - tail of positive numbers, tail of negative ones */
    return (sign ? 0.0f : 1.0f) + tail.number;
}

static inline float gelu(float x) { return x * normal(x, bell(x)); }

static inline float gelu_slope(float x) {
    float density = bell(x);
    return normal(x, density) + x * density * 0.39894228f; /* 1 / sqrt(2 pi) */
}

static int64_t first_image(const struct job *job, int64_t chunk) { return chunk * job->images / job->chunks; }

static void store(float *restrict partial, const float *restrict sum, const float *restrict other, int64_t channels) {
    for (int64_t c = 0; c < channels; c++) {
        partial[c] = sum[c];
        partial[channels + c] = other[c];
    }
}

/* Mean and sum of squared deviations of each channel over the pixels of a chunk. */
static void moments(struct job *job, int64_t chunk) {
    const int64_t channels = job->channels, area = job->rows * job->columns;
    const int64_t from = first_image(job, chunk) * area, to = first_image(job, chunk + 1) * area;
    const bf16 *restrict first = job->inputs + from * channels;
    float sum[WIDEST] = {0}, squares[WIDEST] = {0};
    for (int64_t pixel = from; pixel < to; pixel++) {
        const bf16 *restrict input = job->inputs + pixel * channels;
        for (int64_t c = 0; c < channels; c++) {
            float deviation = widen(input[c]) - widen(first[c]);
            sum[c] += deviation;
            squares[c] += deviation * deviation;
        }
    }
    for (int64_t c = 0; c < channels; c++) {
        squares[c] -= sum[c] * sum[c] / (to - from);
        sum[c] = widen(first[c]) + sum[c] / (to - from);
    }
    store(job->partial + chunk * 2 * channels, sum, squares, channels);
}

static void pool_row(const bf16 *restrict upper, const bf16 *restrict lower, bf16 *restrict output,
                     uint8_t *restrict winner, int64_t columns, int64_t channels) {
    for (int64_t column = 0; column < columns; column++) {
        for (int64_t c = 0; c < channels; c++) {
            float largest = widen(upper[c]), next = widen(upper[channels + c]);
            int32_t place = 0;
            /* The first of equals wins, and NaN over all numbers, as in torch. */
            place = next > largest || next != next ? 1 : place;
            largest = next > largest || next != next ? next : largest;
            next = widen(lower[c]);
            place = next > largest || next != next ? 2 : place;
            largest = next > largest || next != next ? next : largest;
            next = widen(lower[channels + c]);
            place = next > largest || next != next ? 3 : place;
            largest = next > largest || next != next ? next : largest;
            union { float number; uint32_t bits; } wide = {largest};
            output[c] = wide.bits >> 16;
            winner[c] = place;
        }
        upper += 2 * channels, lower += 2 * channels, output += channels, winner += channels;
    }
}

static void pool(struct job *job, int64_t chunk) {
    const int64_t line = job->width * job->channels, short_line = job->columns * job->channels;
    for (int64_t image = first_image(job, chunk); image < first_image(job, chunk + 1); image++)
        for (int64_t row = 0; row < job->rows; row++) {
            const bf16 *upper = job->unpooled + (image * job->height + 2 * row) * line;
            const int64_t place = (image * job->rows + row) * short_line;
            pool_row(upper, upper + line, job->inputs + place, job->winner + place, job->columns, job->channels);
        }
    if (job->partial)
        moments(job, chunk);
}

static void activate(struct job *job, int64_t chunk) {
    const int64_t channels = job->channels, area = job->rows * job->columns;
    const float *restrict mean = job->mean, *restrict scale = job->scale, *restrict shift = job->shift;
    for (int64_t pixel = first_image(job, chunk) * area; pixel < first_image(job, chunk + 1) * area; pixel++) {
        const bf16 *restrict input = job->inputs + pixel * channels;
        bf16 *restrict output = job->outputs + pixel * channels;
        for (int64_t c = 0; c < channels; c++)
            output[c] = narrow(gelu((widen(input[c]) - mean[c]) * scale[c] + shift[c]));
    }
}

/* The gradient of the norm's output, and its sums over the pixels of a chunk, as it is and times the input's deviation. */
static void undo_gelu(struct job *job, int64_t chunk) {
    const int64_t channels = job->channels, area = job->rows * job->columns;
    const float *restrict mean = job->mean, *restrict scale = job->scale, *restrict shift = job->shift;
    float sum[WIDEST] = {0}, product[WIDEST] = {0};
    for (int64_t pixel = first_image(job, chunk) * area; pixel < first_image(job, chunk + 1) * area; pixel++) {
        const bf16 *restrict input = job->inputs + pixel * channels;
        const bf16 *restrict gradient = job->gradient + pixel * channels;
        bf16 *restrict slopes = job->slopes + pixel * channels;
        for (int64_t c = 0; c < channels; c++) {
            float deviation = widen(input[c]) - mean[c];
            float slope = widen(gradient[c]) * gelu_slope(deviation * scale[c] + shift[c]);
            slopes[c] = narrow(slope);
            sum[c] += slope;
            product[c] += slope * deviation;
        }
    }
    store(job->partial + chunk * 2 * channels, sum, product, channels);
}

/* The gradient of the inputs of the norm, which is written over the slopes. */
static void spread(struct job *job, int64_t chunk) {
    const int64_t channels = job->channels, area = job->rows * job->columns;
    const float *restrict mean = job->mean, *restrict scale = job->scale;
    const float *restrict centre = job->slope_mean, *restrict slant = job->slant;
    for (int64_t pixel = first_image(job, chunk) * area; pixel < first_image(job, chunk + 1) * area; pixel++) {
        const bf16 *restrict input = job->inputs + pixel * channels;
        bf16 *restrict slopes = job->slopes + pixel * channels;
        for (int64_t c = 0; c < channels; c++)
            slopes[c] = narrow(scale[c] * (widen(slopes[c]) - centre[c] - (widen(input[c]) - mean[c]) * slant[c]));
    }
}

static void scatter(const bf16 *restrict input, const bf16 *restrict slopes, const uint8_t *restrict winner,
                    bf16 *restrict upper, bf16 *restrict lower, const float *restrict mean, const float *restrict scale,
                    const float *restrict centre, const float *restrict slant, int64_t channels) {
    for (int64_t c = 0; c < channels; c++) {
        bf16 value = narrow(scale[c] * (widen(slopes[c]) - centre[c] - (widen(input[c]) - mean[c]) * slant[c]));
        upper[c] = winner[c] == 0 ? value : 0;
        upper[channels + c] = winner[c] == 1 ? value : 0;
        lower[c] = winner[c] == 2 ? value : 0;
        lower[channels + c] = winner[c] == 3 ? value : 0;
    }
}

static void clear(bf16 *from, bf16 *to) {
    while (from < to)
        *from++ = 0;
}

/* The gradient of the inputs of the pool: zero of pixels that are not the largest, or that it left out. */
static void spread_pooled(struct job *job, int64_t chunk) {
    const int64_t channels = job->channels, line = job->width * channels;
    for (int64_t image = first_image(job, chunk); image < first_image(job, chunk + 1); image++) {
        bf16 *output = job->outputs + image * job->height * line;
        for (int64_t row = 0; row < job->rows; row++) {
            bf16 *upper = output + 2 * row * line;
            for (int64_t column = 0; column < job->columns; column++) {
                const int64_t place = ((image * job->rows + row) * job->columns + column) * channels;
                scatter(job->inputs + place, job->slopes + place, job->winner + place, upper + 2 * column * channels,
                        upper + line + 2 * column * channels, job->mean, job->scale, job->slope_mean, job->slant, channels);
            }
            clear(upper + 2 * job->columns * channels, upper + line);
            clear(upper + line + 2 * job->columns * channels, upper + 2 * line);
        }
        clear(output + 2 * job->rows * line, output + job->height * line);
    }
}

/* GELU alone. */
static void activate_all(struct job *job, int64_t chunk) {
    const int64_t size = job->height * job->width * job->channels;
    const bf16 *restrict input = job->inputs;
    bf16 *restrict output = job->outputs;
    for (int64_t i = first_image(job, chunk) * size; i < first_image(job, chunk + 1) * size; i++)
        output[i] = narrow(gelu(widen(input[i])));
}

static void undo_gelu_of_all(struct job *job, int64_t chunk) {
    const int64_t size = job->height * job->width * job->channels;
    const bf16 *restrict input = job->inputs, *restrict gradient = job->gradient;
    bf16 *restrict output = job->outputs;
    for (int64_t i = first_image(job, chunk) * size; i < first_image(job, chunk + 1) * size; i++)
        output[i] = narrow(widen(gradient[i]) * gelu_slope(widen(input[i])));
}

static void take_chunks(void *argument) {
    struct job *job = argument;
    int64_t chunk;
    while ((chunk = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED)) < job->chunks)
        job->work(job, chunk);
}

static void run(struct job *job, void (*work)(struct job *, int64_t), fork_join parallel, int threads) {
    job->work = work;
    job->next = 0;
    if (threads > 1)
        parallel(take_chunks, job, threads, 0);
    else
        take_chunks(job);
}

void gelu_forward(fork_join parallel, int64_t threads, int64_t images, int64_t height, int64_t width, int64_t channels,
                  int64_t chunks, bf16 *inputs, bf16 *outputs) {
    struct job job = {.images = images, .height = height, .width = width, .channels = channels, .chunks = chunks,
                      .inputs = inputs, .outputs = outputs};
    run(&job, activate_all, parallel, threads);
}

void gelu_backward(fork_join parallel, int64_t threads, int64_t images, int64_t height, int64_t width, int64_t channels,
                   int64_t chunks, bf16 *inputs, const bf16 *gradient, bf16 *of_inputs) {
    struct job job = {.images = images, .height = height, .width = width, .channels = channels, .chunks = chunks,
                      .inputs = inputs, .gradient = gradient, .outputs = of_inputs};
    run(&job, undo_gelu_of_all, parallel, threads);
}

void norm_gelu_forward(fork_join parallel, int64_t threads, int64_t images, int64_t height, int64_t width, int64_t channels,
             int64_t chunks, float epsilon, const float *weight, const float *bias, bf16 *unpooled, bf16 *inputs,
             uint8_t *winner, float *partial, float *mean, float *variance, float *scale, bf16 *outputs) {
    struct job job = {.images = images, .height = height, .width = width, .channels = channels, .chunks = chunks,
                      .rows = winner ? height / 2 : height, .columns = winner ? width / 2 : width,
                      .unpooled = unpooled, .inputs = inputs, .winner = winner, .partial = partial,
                      .mean = mean, .scale = scale, .shift = bias, .outputs = outputs};
    if (winner || partial)
        run(&job, winner ? pool : moments, parallel, threads);
    const double area = job.rows * job.columns;
    for (int64_t c = 0; partial && c < channels; c++) {
        double count = 0, average = 0, squares = 0;
        for (int64_t chunk = 0; chunk < chunks; chunk++) { /* Chan, Golub & LeVeque (1979) */
            const float *part = partial + chunk * 2 * channels + c;
            const double more = (first_image(&job, chunk + 1) - first_image(&job, chunk)) * area;
            const double gap = part[0] - average;
            average += gap * more / (count + more);
            squares += part[channels] + gap * gap * count * more / (count + more);
            count += more;
        }
        mean[c] = average;
        variance[c] = squares / count;
        scale[c] = weight[c] / __builtin_sqrt(squares / count + epsilon);
    }
    run(&job, activate, parallel, threads);
}

void norm_gelu_backward(fork_join parallel, int64_t threads, int64_t images, int64_t height, int64_t width, int64_t channels,
              int64_t chunks, float epsilon, const float *bias, bf16 *inputs, uint8_t *winner, float *partial,
              const float *mean, const float *variance, const float *scale, const bf16 *gradient, float *of_weight,
              float *of_bias, bf16 *slopes, bf16 *of_inputs) {
    float centre[WIDEST], slant[WIDEST];
    struct job job = {.images = images, .height = height, .width = width, .channels = channels, .chunks = chunks,
                      .rows = winner ? height / 2 : height, .columns = winner ? width / 2 : width,
                      .inputs = inputs, .winner = winner, .partial = partial, .mean = mean, .scale = scale,
                      .shift = bias, .gradient = gradient, .slopes = slopes, .slope_mean = centre, .slant = slant,
                      .outputs = of_inputs};
    run(&job, undo_gelu, parallel, threads);
    const double count = (double)images * job.rows * job.columns;
    for (int64_t c = 0; c < channels; c++) {
        double sum = 0, product = 0;
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            sum += partial[chunk * 2 * channels + c];
            product += partial[chunk * 2 * channels + channels + c];
        }
        of_bias[c] = sum;
        of_weight[c] = product / __builtin_sqrt((double)variance[c] + epsilon);
        centre[c] = sum / count;
        slant[c] = product / count / ((double)variance[c] + epsilon);
    }
    run(&job, winner ? spread_pooled : spread, parallel, threads);
}
