/* 3x3 convolutions with stride 1 of bf16 images of few channels in channels-last order, on processors with AVX512-bf16.

   The nine products of an output with the pixels around it are summed one by one, in fp32: images of few channels leave
   most of what Winograd's algorithm or a matrix product computes at once empty. An image gets a frame of zeros, so that
   no pixel is a special case. Channels are taken in pairs: one instruction multiplies a pair with 16 filters. The
   gradient of the weights takes pairs of neighbouring pixels.

   Each output, and the gradient of each weight, is summed in one order: the number of threads changes no bit of it. */

#include "vectors.h"

#define PIXELS 16     /* of a line, at most, whose outputs are summed in registers */
#define PAIRS 24      /* of neighbours, at most, whose products with slopes are summed in registers */
#define CHUNKS 16     /* of the batch, whose gradients are summed apart */

struct job {
    int64_t images, height, width, inputs, outputs; /* inputs, outputs: channels */
    int64_t rows, columns;                          /* of an output image */
    int64_t lines, line;                            /* of a framed image, and numbers or pairs of a line */
    int64_t next;                                   /* piece of work that no thread has taken */
    int out_of_memory;                              /* the result is not complete */
    const bf16 *image, *gradient;
    const float *bias; /* null: none */
    bf16 *filters, *output;
    float *sums;
};

/* ---- Outputs ---- */

/* 16 filters from `output` on of a pair of channels, for a row and column of the filter, each in 32 bits: (outputs / 16,
   3, 3, inputs / 2, 16, 2). */
static inline bf16 *filters_at(const struct job *job, int64_t output, int64_t tap, int64_t input) {
    const int64_t inputs = round_up(job->inputs, 2);
    const int64_t pair = ((output / LANES * TAPS + tap) * inputs + input) / 2;
    return job->filters + (pair * LANES + output % LANES) * 2 + input % 2;
}

static inline bf16 rounded(float number) {
    return (bf16)_mm_extract_epi16((__m128i)_mm_cvtneps_pbh(_mm_set_ss(number)), 0);
}

/* Weights are (outputs, 3, 3, inputs), or with `reversed` (inputs, 3, 3, outputs), taps in reverse. */
static void arrange_filters(const struct job *job, const float *weight, int64_t reversed) {
    for (int64_t output = 0; output < job->outputs; output++)
        for (int64_t tap = 0; tap < TAPS; tap++)
            for (int64_t input = 0; input < job->inputs; input++)
                *filters_at(job, output, tap, input) =
                    rounded(reversed ? weight[(input * TAPS + TAPS - 1 - tap) * job->outputs + output]
                                     : weight[(output * TAPS + tap) * job->inputs + input]);
}

/* Write an image (height, width, inputs) into its frame (lines, line), with an even number of channels. */
static void frame(const struct job *job, int64_t image, bf16 *framed) {
    const int64_t channels = round_up(job->inputs, 2), inputs = job->inputs;
    const bf16 *from = job->image + image * job->height * job->width * inputs;
    for (int64_t y = 0; y < job->height; y++) {
        bf16 *to = framed + (y + 1) * job->line + channels;
        if (inputs == channels)
            memcpy(to, from, job->width * inputs * sizeof(bf16));
        else if (inputs == 3) /* of a constant size, copies are no calls */
            for (int64_t x = 0; x < job->width; x++)
                memcpy(to + x * 4, from + x * 3, 3 * sizeof(bf16));
        else
            for (int64_t x = 0; x < job->width; x++)
                memcpy(to + x * channels, from + x * inputs, inputs * sizeof(bf16));
        from += job->width * inputs;
    }
}

/* Store `count` numbers of the first `most` of a vector. */
static inline void store(bf16 *to, int64_t count, int most, __m512bh numbers) {
    if (count < most) /* masks are slow */
        _mm512_mask_storeu_epi16(to, first_32(count), (__m512i)numbers);
    else if (most == LANES)
        _mm256_storeu_si256((__m256i *)to, _mm512_castsi512_si256((__m512i)numbers));
    else
        _mm512_storeu_si512(to, (__m512i)numbers);
}

/* Outputs of `pixels` neighbours, whose windows begin at `from`, for `vectors` times 16 filters; the first `count` of
   them are written. */
static inline __attribute__((always_inline)) void sum_windows(const struct job *job, const bf16 *from, int64_t output,
                                                              int64_t count, bf16 *to, const int pixels,
                                                              const int vectors) {
    const int64_t channels = round_up(job->inputs, 2), size = TAPS * channels * LANES;
    const bf16 *filters = filters_at(job, output, 0, 0);
    __m512 sum[PIXELS][2];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++) {
        const int64_t k = output + v * LANES;
        const __m512 bias = job->bias ? _mm512_maskz_loadu_ps(first_16(job->outputs - k), job->bias + k)
                                      : _mm512_setzero_ps();
#pragma GCC unroll 16
        for (int p = 0; p < pixels; p++)
            sum[p][v] = bias;
    }
    for (int row = 0; row < 3; row++) {
        const bf16 *eights[2] = {from + row * job->line, from + row * job->line + 8 * channels};
        __asm__("" : "+r"(eights[1])); /* else GCC wants a register for each of 16 pixels */
#pragma GCC unroll 1
        for (int64_t c = 0; c < 3 * channels; c += 2, filters += 2 * LANES) {
            __m512bh filter[2];
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++)
                filter[v] = (__m512bh)_mm512_load_si512(filters + v * size);
#pragma GCC unroll 16
            for (int p = 0; p < pixels; p++) {
                __m512bh pair = (__m512bh)_mm512_set1_epi32(*(const int32_t *)(eights[p / 8] + p % 8 * channels + c));
                if (vectors > 1)
                    __asm__("" : "+v"(pair)); /* else GCC reads it from memory twice, which is slower */
#pragma GCC unroll 2
                for (int v = 0; v < vectors; v++)
                    sum[p][v] = _mm512_dpbf16_ps(sum[p][v], pair, filter[v]);
            }
        }
    }
    const int64_t wanted = job->outputs - output;
#pragma GCC unroll 16
    for (int p = 0; p < pixels; p++)
        if (p < count)
            store(to + p * job->outputs + output, wanted, vectors * LANES,
                  _mm512_cvtne2ps_pbh(sum[p][vectors - 1], sum[p][0]));
}

/* Outputs of a line for `vectors` times 16 filters from `output` on. */
static inline __attribute__((always_inline)) void sum_line(const struct job *job, const bf16 *from, int64_t output,
                                                           bf16 *to, const int pixels, const int vectors) {
    for (int64_t x = 0; x < job->columns; x += pixels)
        sum_windows(job, from + x * round_up(job->inputs, 2), output, job->columns - x, to + x * job->outputs, pixels,
                    vectors);
}

static void convolve_images(void *argument) {
    struct job *job = argument;
    bf16 *framed = zeros(job->lines * job->line * sizeof(bf16));
    if (framed == NULL)
        job->out_of_memory = 1;
    for (int64_t image; !job->out_of_memory && (image = take(&job->next, 1)) < job->images;) {
        frame(job, image, framed);
        for (int64_t y = 0; y < job->rows; y++) {
            const bf16 *from = framed + y * job->line;
            bf16 *to = job->output + (image * job->rows + y) * job->columns * job->outputs;
            for (int64_t output = 0; output < job->outputs; output += 2 * LANES)
                if (job->outputs - output > LANES)
                    sum_line(job, from, output, to, PIXELS / 2, 2);
                else if (job->columns > PIXELS / 2)
                    sum_line(job, from, output, to, PIXELS, 1);
                else
                    sum_line(job, from, output, to, PIXELS / 2, 1);
        }
    }
    free(framed);
}

/* ---- Gradient of the weights ---- */

/* Write pairs of neighbours of an image (height, width, inputs) into its frame (lines, line, 2), a pair for each pixel
   and channel. */
static void frame_pairs(const struct job *job, int64_t image, int32_t *framed) {
    const int64_t inputs = job->inputs, used = smaller(job->width, job->columns + 1) * inputs;
    for (int64_t y = 0; y < smaller(job->height, job->rows + 1); y++) {
        const bf16 *from = job->image + (image * job->height + y) * job->width * inputs;
        int32_t *to = framed + (y + 1) * job->line;
        for (int64_t i = -inputs; i < used; i += LANES) {
            const __mmask16 there = i < 0 ? first_16(used - i) & ~first_16(-i) : first_16(used - i);
            const __m512i pixel = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(there, from + i));
            const __m512i next = _mm512_cvtepu16_epi32(
                _mm256_maskz_loadu_epi16(first_16(used - inputs - i), from + i + inputs));
            _mm512_mask_storeu_epi32(to + inputs + i, first_16(used - i),
                                     _mm512_or_si512(pixel, _mm512_slli_epi32(next, 16)));
        }
    }
}

/* Numbers of the pairs of 16 channels of slopes. */
static int64_t pairs_size(const struct job *job) { return job->rows * round_up(job->columns, 2) * LANES; }

/* Load 16 channels, of which `count` are there. */
static inline __m512i load(const bf16 *from, int64_t count) {
    return _mm512_cvtepu16_epi32(count < LANES ? _mm256_maskz_loadu_epi16(first_16(count), from) /* masks are slow */
                                               : _mm256_loadu_si256((const __m256i *)from));
}

/* Write the slopes of an image as pairs of neighbours: (outputs / 16, rows, columns / 2, 16, 2). */
static void pair_slopes(const struct job *job, int64_t image, bf16 *pairs) {
    const int64_t outputs = job->outputs, size = pairs_size(job);
    const bf16 *from = job->gradient + image * job->rows * job->columns * outputs;
    for (int64_t y = 0; y < job->rows; y++)
        for (int64_t x = 0; x < job->columns; x += 2, pairs += 2 * LANES) {
            const int both = x + 1 < job->columns;
            for (int64_t k = 0; k < outputs; k += LANES) {
                const __m512i one = load(from + k, outputs - k);
                const __m512i next = both ? load(from + outputs + k, outputs - k) : _mm512_setzero_si512();
                _mm512_store_si512(pairs + k / LANES * size, _mm512_or_si512(one, _mm512_slli_epi32(next, 16)));
            }
            from += (both + 1) * outputs;
        }
}

/* Add products of slopes with `count` pairs of a line from `first` on, and with those of all pixels, to the sums
   (count, 16). */
static inline __attribute__((always_inline)) void sum_pairs(const struct job *job, const int32_t *first,
                                                            const bf16 *slopes, float *sums, const int count) {
    __m512 sum[PAIRS];
#pragma GCC unroll 24
    for (int i = 0; i < count; i++)
        sum[i] = _mm512_load_ps(sums + i * LANES);
    for (int64_t y = 0; y < job->rows; y++, first += job->line)
        for (int64_t x = 0; x < job->columns; x += 2, slopes += 2 * LANES) {
            const int32_t *pairs = first + x * job->inputs;
            const __m512bh slope = (__m512bh)_mm512_load_si512(slopes);
#pragma GCC unroll 24
            for (int i = 0; i < count; i++)
                sum[i] = _mm512_dpbf16_ps(sum[i], (__m512bh)_mm512_set1_epi32(pairs[i]), slope);
        }
#pragma GCC unroll 24
    for (int i = 0; i < count; i++)
        _mm512_store_ps(sums + i * LANES, sum[i]);
}

/* Add the slopes of all pixels to the sums (16). */
static inline void sum_slopes(const struct job *job, const bf16 *slopes, float *sums) {
    const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
    __m512 sum = _mm512_load_ps(sums);
    for (int64_t pair = 0; pair < pairs_size(job) / (2 * LANES); pair++, slopes += 2 * LANES)
        sum = _mm512_dpbf16_ps(sum, ones, (__m512bh)_mm512_load_si512(slopes));
    _mm512_store_ps(sums, sum);
}

static void sum_image(const struct job *job, int64_t image, int32_t *framed, bf16 *slopes, float *sums) {
    frame_pairs(job, image, framed);
    pair_slopes(job, image, slopes);
    for (int64_t output = 0; output < job->outputs; output += LANES, sums += LANES, slopes += pairs_size(job)) {
        for (int64_t row = 0; row < 3; row++) {
            const int32_t *pairs = framed + row * job->line, *end = pairs + 3 * job->inputs;
            for (; end - pairs >= PAIRS; pairs += PAIRS, sums += PAIRS * LANES)
                sum_pairs(job, pairs, slopes, sums, PAIRS);
            for (; end - pairs >= 9; pairs += 9, sums += 9 * LANES)
                sum_pairs(job, pairs, slopes, sums, 9);
            for (; pairs < end; pairs += 3, sums += 3 * LANES)
                sum_pairs(job, pairs, slopes, sums, 3);
        }
        sum_slopes(job, slopes, sums);
    }
}

/* Sums of a chunk are (outputs / 16, 9 inputs + 1, 16): of each tap and channel, then of the slopes. */
static int64_t sums_of_filter(const struct job *job) { return TAPS * job->inputs + 1; }
static int64_t sums_size(const struct job *job) { return round_up(job->outputs, LANES) * sums_of_filter(job); }

static void sum_chunks(void *argument) {
    struct job *job = argument;
    int32_t *framed = zeros(job->lines * job->line * sizeof(int32_t));
    bf16 *slopes = zeros(round_up(job->outputs, LANES) / LANES * pairs_size(job) * sizeof(bf16));
    if (framed == NULL || slopes == NULL)
        job->out_of_memory = 1;
    for (int64_t chunk; !job->out_of_memory && (chunk = take(&job->next, 1)) < CHUNKS;)
        for (int64_t image = chunk * job->images / CHUNKS; image < (chunk + 1) * job->images / CHUNKS; image++)
            sum_image(job, image, framed, slopes, job->sums + chunk * sums_size(job));
    free(slopes);
    free(framed);
}

/* Add up the chunks, and write the gradients (outputs, 3, 3, inputs) and (outputs). */
static void add_chunks(const struct job *job, float *of_weight, float *of_bias) {
    const int64_t size = sums_size(job), count = sums_of_filter(job);
    for (int64_t chunk = 1; chunk < CHUNKS; chunk++)
        for (int64_t i = 0; i < size; i += LANES)
            _mm512_store_ps(job->sums + i, _mm512_add_ps(_mm512_load_ps(job->sums + i),
                                                         _mm512_load_ps(job->sums + chunk * size + i)));
    for (int64_t output = 0; output < job->outputs; output++) {
        const float *sums = job->sums + output / LANES * count * LANES + output % LANES;
        for (int64_t i = 0; i < count - 1; i++)
            *of_weight++ = sums[i * LANES];
        if (of_bias)
            of_bias[output] = sums[(count - 1) * LANES];
    }
}

/* ---- What Python calls: 0, or 1 if there is too little memory ---- */

/* image: (images, height, width, inputs), output: (images, rows, columns, outputs), the first ones of a convolution
   with a zero around each image; weight: (outputs, 3, 3, inputs), bias: (outputs) or null. With `reversed` the images
   are the gradient of a convolution's output, and its weight is (inputs, 3, 3, outputs). */
int convolve(fork_join parallel, int64_t threads, int64_t images, int64_t height, int64_t width, int64_t inputs,
             int64_t outputs, int64_t rows, int64_t columns, int64_t reversed, const bf16 *image, const float *weight,
             const float *bias, bf16 *output) {
    struct job job = {.images = images, .height = height, .width = width, .inputs = inputs, .outputs = outputs,
                      .rows = rows, .columns = columns, .image = image, .bias = bias, .output = output};
    const int64_t channels = round_up(inputs, 2);
    job.lines = larger(height, rows) + 2;
    job.line = (larger(width, round_up(columns, PIXELS)) + 2) * channels;
    job.filters = zeros(TAPS * channels * round_up(outputs, 2 * LANES) * sizeof(bf16));
    job.out_of_memory = job.filters == NULL;
    if (!job.out_of_memory) {
        arrange_filters(&job, weight, reversed);
        on_threads(parallel, threads, convolve_images, &job, &job.next);
    }
    free(job.filters);
    return job.out_of_memory;
}

/* image: (images, height, width, inputs), gradient: (images, rows, columns, outputs), of_weight: (outputs, 3, 3,
   inputs), of_bias: (outputs) or null. */
int gradient_of_weight(fork_join parallel, int64_t threads, int64_t images, int64_t height, int64_t width,
                       int64_t inputs, int64_t outputs, int64_t rows, int64_t columns, const bf16 *image,
                       const bf16 *gradient, float *of_weight, float *of_bias) {
    struct job job = {.images = images, .height = height, .width = width, .inputs = inputs, .outputs = outputs,
                      .rows = rows, .columns = columns, .image = image, .gradient = gradient};
    job.lines = rows + 2;
    job.line = (round_up(columns, 2) + 2) * inputs;
    job.sums = zeros(CHUNKS * sums_size(&job) * sizeof(float));
    job.out_of_memory = job.sums == NULL;
    if (!job.out_of_memory) {
        on_threads(parallel, threads, sum_chunks, &job, &job.next);
        add_chunks(&job, of_weight, of_bias);
    }
    free(job.sums);
    return job.out_of_memory;
}
