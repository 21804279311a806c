/* 3x3 convolutions of bf16 images in channels-last order, on AMX, the matrix unit of Intel's processors; also 1x1 ones,
   and both with stride 2.

   Outputs: a few images are copied into a row of places, with a zero before and after each of their lines. Pixel
   (y, x) of an image stands at place (y + 1) * pitch + x + 1, with pitch > width, so that each tap of a filter reads
   the row at a fixed distance from the output's own place y * pitch + x, and the zero that ends a line is the one
   before the next. The unit multiplies a tile of 16 places by 16 channels; outputs at places between the lines are
   dropped. A row is kept as (channels / 32, places, 32), so that every tile of it is one block of memory.

   With stride 2 the pixels with even and with odd coordinates are images of their own, four in all, so that
   neighbouring outputs still read neighbouring places. In the gradient of the inputs each of the four is a sum over
   some of the taps.

   Gradient of the weights: a tile holds one pixel of 32 images, whose products are added up at once. Pixels beyond the
   edge are left out.

   Each output, and the gradient of each weight, is summed in one order: the number of threads changes no bit of it. */

#include <sys/syscall.h>
#include <unistd.h>

#include "vectors.h"

#define TILE 16               /* rows of a tile; also its columns of fp32 */
#define DEPTH 32              /* columns of bf16 of a tile: products that one instruction adds up */
#define TILE_BF16 512         /* numbers of a tile of bf16 */
#define TILE_FP32 256         /* numbers of a tile of fp32 */
#define ROW_BYTES 32768       /* of a row that is convolved: it stays in the first cache */
#define LONG_ROW_BYTES 262144 /* where the weights do not stay in the second: they are read once for each row */
#define WEIGHT_BYTES 1572864  /* that stay in the second cache */
#define SEGMENT 8             /* pixels of a line whose pairs and slopes stay in the first cache */
#define IN_PANEL 256          /* channels of a panel of weights whose gradients stay in the second cache */
#define OUT_PANEL 128
#define SHARES 2              /* of the gradients of the weights, at least: panels, or parts of the images */

/* GCC does not know that the tile instructions read memory. */
#define MEMORY_IS_READ __asm__ volatile("" ::: "memory")

struct job {
    int64_t images, height, width, inputs, outputs; /* inputs, outputs: channels */
    int64_t rows, columns;                          /* of an output image */
    int64_t stride, side;                           /* side: of a filter, 3 or 1 */
    int64_t next;                                   /* image or panel that no thread has taken */
    int64_t pitch, part, distance;                  /* places of a line, of a part of an image, of an image */
    int64_t group;                                  /* images that are taken at once */
    int64_t in_panel, out_panel, shares;            /* channels; parts of the images */
    int64_t reversed, adds;                         /* reversed: gradient of the inputs; adds: to what is there */
    int out_of_memory;                              /* the result is not complete */
    struct pass *passes;
    const bf16 *image, *gradient;
    const float *weight, *bias; /* bias: null: none */
    bf16 *packed, *output;      /* packed: the weights */
    float *sums, *of_weight;
};

static inline int64_t over(int64_t number, int64_t divisor) { return (number + divisor - 1) / divisor; }
static inline int64_t taps_of(const struct job *job) { return job->side * job->side; }

/* Pixels between those of an image that filters read: those of 1x1 with stride 2 leave out three of four. */
static inline int64_t skip_of(const struct job *job) { return job->side > 1 ? 1 : job->stride; }

/* The pixel that a tap reads for output y, in one direction: (y + whole) * stride + part. */
struct shift {
    int64_t whole, part;
};

static inline struct shift shift_of(const struct job *job, int64_t tap) {
    const int64_t pixels = tap - job->side / 2, part = (pixels + job->stride) % job->stride;
    return (struct shift){(pixels - part) / job->stride, part};
}

struct configuration {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} __attribute__((aligned(64)));

/* Set up the tiles; keep the configuration of another library, which may rely on it later. */
static void use_tiles(struct configuration *before) {
    struct configuration ours = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) {
        ours.bytes[tile] = DEPTH * sizeof(bf16);
        ours.rows[tile] = TILE;
    }
    _tile_storeconfig(before);
    MEMORY_IS_READ;
    _tile_loadconfig(&ours);
}

static void restore_tiles(const struct configuration *before) {
    if (before->palette)
        _tile_loadconfig(before);
    else
        _tile_release();
}

/* Pieces of memory that come next. They are fetched step by step while products are added up. */
struct upcoming {
    const char *from, *piece;
    int64_t bytes, stride, pieces; /* of a piece, from one to the next, that are left */
    int64_t step;                  /* bytes */
};

static struct upcoming upcoming(const bf16 *from, int64_t numbers, int64_t stride, int64_t pieces, int64_t steps) {
    const int64_t bytes = larger(numbers, 0) * sizeof(bf16);
    return (struct upcoming){(const char *)from, (const char *)from, bytes, stride * sizeof(bf16), pieces,
                             round_up(bytes * pieces / steps + 1, 64)};
}

static inline void fetch(struct upcoming *memory) {
    for (int64_t line = 0; line < memory->step; line += 64)
        _mm_prefetch(memory->from + line, _MM_HINT_T1);
    memory->from += memory->step;
    if (memory->from >= memory->piece + memory->bytes) {
        if (memory->pieces > 1)
            memory->pieces--, memory->piece += memory->stride;
        memory->from = memory->piece;
    }
}

/* ---- Gradient of the weights ---- */

/* A line of pixels of some images: of each pixel some channels, of each image the same line. */
struct line {
    const bf16 *first;
    int64_t width, channels, pixel_size, image_size, images;
};

/* 32 channels of a pixel of two images, from the channel `c` on: of each eight the first four (half 0), or the others
   (1), as pairs of one and the next image. Zero stands for an image or a channel that is not there. */
static inline __m512i pair(const struct line *line, int64_t image, int64_t x, int64_t c, int64_t half) {
    const bf16 *pixel = line->first + image * line->image_size + x * line->pixel_size + c;
    const __mmask32 valid = first_32(line->channels - c);
    const __m512i one = _mm512_maskz_loadu_epi16(image < line->images ? valid : 0, pixel);
    const __m512i next = _mm512_maskz_loadu_epi16(image + 1 < line->images ? valid : 0, pixel + line->image_size);
    return half ? _mm512_unpackhi_epi16(one, next) : _mm512_unpacklo_epi16(one, next);
}

/* The next line of the same images, or of the images that follow, or nothing. */
static struct upcoming next_line(const struct line *line, int there, int64_t steps) {
    const int64_t numbers = line->width * line->pixel_size;
    return upcoming(line->first + numbers, there ? numbers : 0, line->image_size, line->images, steps);
}

/* Pixels of a line in the order in which they stand in tiles: with stride 2 those with even numbers come first. */
static inline int64_t pixels_of_part(const struct job *job) { return over(job->width, job->stride); }
static inline int64_t pairs_of_line(const struct job *job) { return job->stride * pixels_of_part(job); }

/* Tiles (channels / 16, pixels, group / 32, 16, 16, 2) of pairs of images. */
static void pair_line(const struct job *job, const struct line *line, bf16 *tiles) {
    const int64_t group = job->group, pixels = pairs_of_line(job);
    for (int64_t x = 0; x < line->width; x += skip_of(job))
        for (int64_t c = 0; c < line->channels; c += DEPTH)
            for (int64_t image = 0; image < group; image += 2) {
                const int64_t pixel = x % job->stride * pixels_of_part(job) + x / job->stride;
                bf16 *to = tiles + ((c / TILE * pixels + pixel) * group + image) * TILE;
                _mm512_store_si512(to, pair(line, image, x, c, 0));
                _mm512_store_si512(to + pixels * group * TILE, pair(line, image, x, c, 1));
            }
}

/* Tiles (channels / 16, width, group / 32, 16, 32) whose rows are channels. */
static void transpose_line(const struct line *line, int64_t group, bf16 *tiles) {
    for (int64_t x = 0; x < line->width; x++)
        for (int64_t c = 0; c < round_up(line->channels, DEPTH); c += TILE)
            for (int64_t image = 0; image < group; image += DEPTH) {
                __m512i v[16];
#pragma GCC unroll 16
                for (int i = 0; i < 16; i++)
                    v[i] = pair(line, image + 2 * i, x, c / DEPTH * DEPTH, c / TILE % 2);
                transpose(v);
#pragma GCC unroll 16
                for (int i = 0; i < 16; i++)
                    _mm512_store_si512(tiles + ((c / TILE * line->width + x) * group + image) * TILE + i * DEPTH, v[i]);
            }
}

/* Add the products of two rows of tiles of slopes with two of pairs to four tiles of sums. */
static inline void accumulate(const bf16 *slopes, const bf16 *more_slopes, const bf16 *pairs, const bf16 *more_pairs,
                              int64_t tiles, float *sums, struct upcoming *next, struct upcoming *next_slopes) {
    MEMORY_IS_READ;
    _tile_loadd(0, sums, 64);
    _tile_loadd(1, sums + TILE_FP32, 64);
    _tile_loadd(2, sums + 2 * TILE_FP32, 64);
    _tile_loadd(3, sums + 3 * TILE_FP32, 64);
    const char *next_sums = (const char *)(sums + 4 * TILE_FP32);
    for (int64_t i = 0; i < tiles; i++, slopes += TILE_BF16, more_slopes += TILE_BF16) {
        _tile_loadd(4, slopes, 64);
        _tile_loadd(6, pairs + i * TILE_BF16, 64);
        _tile_loadd(7, more_pairs + i * TILE_BF16, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, more_slopes, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        fetch(next);
        fetch(next_slopes);
        for (int64_t line = 0; line < 64 / SEGMENT; line++, next_sums += 64)
            _mm_prefetch(next_sums, _MM_HINT_T0);
    }
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + TILE_FP32, 64);
    _tile_stored(2, sums + 2 * TILE_FP32, 64);
    _tile_stored(3, sums + 3 * TILE_FP32, 64);
}

/* A panel of weights: channels of inputs and outputs, the first and their number. Its sums over a share of the images
   are (outputs / 32, inputs / 32, taps, 2, 2, 16, 16); their channels are halves as in `pair`. */
struct panel {
    int64_t in_from, in, out_from, out;
    float *sums; /* of the first share */
};

static inline int64_t panels_beside(const struct job *job) { return over(job->outputs, job->out_panel); }
static inline int64_t panels_of(const struct job *job) { return over(job->inputs, job->in_panel) * panels_beside(job); }
static inline int64_t panel_size(const struct job *job) { return taps_of(job) * job->in_panel * job->out_panel; }

static struct panel panel_of(const struct job *job, int64_t number) {
    struct panel panel = {.in_from = number / panels_beside(job) * job->in_panel,
                          .out_from = number % panels_beside(job) * job->out_panel,
                          .sums = job->sums + number * job->shares * panel_size(job)};
    panel.in = smaller(job->in_panel, round_up(job->inputs, DEPTH) - panel.in_from);
    panel.out = smaller(job->out_panel, round_up(job->outputs, DEPTH) - panel.out_from);
    return panel;
}

/* Add the sums of all shares to those of the first, and write them in order. */
static void write_panel(const struct job *job, struct panel panel) {
    for (int64_t share = 1; share < job->shares; share++)
        for (int64_t i = 0; i < taps_of(job) * panel.in * panel.out; i++)
            panel.sums[i] += panel.sums[share * panel_size(job) + i];
    const float *sums = panel.sums;
    const __m512i low = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    for (int64_t o = 0; o < panel.out; o += DEPTH)
        for (int64_t i = 0; i < panel.in; i += DEPTH)
            for (int64_t tap = 0; tap < taps_of(job); tap++, sums += 4 * TILE_FP32)
                for (int64_t row = 0; row < DEPTH; row++) {
                    const int64_t output = panel.out_from + o + row % TILE / 4 * 8 + row / TILE * 4 + row % 4;
                    const int64_t input = panel.in_from + i;
                    if (output >= job->outputs)
                        continue;
                    const float *from = sums + row / TILE * 2 * TILE_FP32 + row % TILE * TILE;
                    const __m512 even = _mm512_load_ps(from), odd = _mm512_load_ps(from + TILE_FP32);
                    float *to = job->of_weight + (output * taps_of(job) + tap) * job->inputs + input;
                    _mm512_mask_storeu_ps(to, first_16(job->inputs - input), _mm512_permutex2var_ps(even, low, odd));
                    _mm512_mask_storeu_ps(to + TILE, first_16(job->inputs - input - TILE),
                                          _mm512_permutex2var_ps(even, high, odd));
                }
}

/* Add up a line of slopes for all weights of a panel. `pairs` has three lines; line y of the images is number y % 3. */
static void sum_line(const struct job *job, int64_t y, int64_t in, int64_t out, const bf16 *slopes, const bf16 *pairs,
                     float *sums, struct upcoming *next, struct upcoming *next_slopes) {
    const int64_t tile = job->group * TILE, slope_tiles = job->columns * tile, pair_tiles = pairs_of_line(job) * tile;
    for (int64_t segment = 0; segment < job->columns; segment += SEGMENT) {
        float *to = sums;
        for (int64_t o = 0; o < out / TILE; o += 2)
            for (int64_t i = 0; i < in / TILE; i += 2)
                for (int64_t tap = 0; tap < taps_of(job); tap++, to += 4 * TILE_FP32) {
                    const struct shift down = shift_of(job, tap / job->side), right = shift_of(job, tap % job->side);
                    const int64_t line = (y + down.whole) * job->stride + down.part;
                    const int64_t from = larger(segment, -right.whole);
                    const int64_t beyond = over(job->width - right.part, job->stride) - right.whole;
                    const int64_t end = smaller(smaller(segment + SEGMENT, job->columns), beyond);
                    if (line < 0 || line >= job->height || from >= end)
                        continue;
                    const int64_t first = right.part * pixels_of_part(job) + right.whole + from;
                    const bf16 *slope = slopes + o * slope_tiles + from * tile;
                    const bf16 *pair = pairs + (line % 3 * (in / TILE) + i) * pair_tiles + first * tile;
                    accumulate(slope, slope + slope_tiles, pair, pair + pair_tiles,
                               (end - from) * job->group / DEPTH, to, next, next_slopes);
                }
    }
}

static void sum_panel(struct job *job, struct panel panel, int64_t share) {
    const int64_t in = panel.in, out = panel.out, groups = over(job->images, job->group);
    const int64_t from = share * groups / job->shares * job->group;
    const int64_t to = smaller((share + 1) * groups / job->shares * job->group, job->images);
    float *sums = panel.sums + share * panel_size(job);
    const int64_t pair_size = pairs_of_line(job) * job->group * in, slope_size = job->columns * job->group * out;
    const int64_t reach = job->side / 2; /* of a filter, in lines */
    bf16 *pairs = zeros(3 * pair_size * sizeof(bf16)), *slopes = zeros(slope_size * sizeof(bf16));
    if (pairs == NULL || slopes == NULL) {
        job->out_of_memory = 1;
        goto end;
    }
    struct line line = {.width = job->width, .channels = smaller(in, job->inputs - panel.in_from),
                        .pixel_size = job->inputs, .image_size = job->height * job->width * job->inputs};
    struct line slope_line = {.width = job->columns, .channels = smaller(out, job->outputs - panel.out_from),
                              .pixel_size = job->outputs, .image_size = job->rows * job->columns * job->outputs};
    for (int64_t image = from; image < to; image += job->group) {
        const bf16 *images = job->image + image * line.image_size + panel.in_from;
        const bf16 *gradients = job->gradient + image * slope_line.image_size + panel.out_from;
        line.images = slope_line.images = smaller(job->group, to - image);
        for (int64_t y = 0, ready = 0; y < job->rows; y++) {
            const int64_t first = y * job->stride - reach, end = smaller(first + job->side, job->height);
            for (ready = larger(ready, first); ready < end; ready++) {
                line.first = images + ready * line.width * line.pixel_size;
                pair_line(job, &line, pairs + ready % 3 * pair_size);
            }
            slope_line.first = gradients + y * slope_line.width * slope_line.pixel_size;
            transpose_line(&slope_line, job->group, slopes);
            const int64_t steps = in / DEPTH * (out / DEPTH) * taps_of(job) * job->columns * job->group / DEPTH;
            struct upcoming next = next_line(&line, ready < job->height, steps);
            struct upcoming next_slopes = next_line(&slope_line, y + 1 < job->rows, steps);
            sum_line(job, y, in, out, slopes, pairs, sums, &next, &next_slopes);
        }
    }
end:
    free(pairs);
    free(slopes);
}

static void sum_panels(void *argument) {
    struct job *job = argument;
    struct configuration before;
    use_tiles(&before);
    int64_t taken;
    while ((taken = take(&job->next, 1)) < panels_of(job) * job->shares)
        sum_panel(job, panel_of(job, taken / job->shares), taken % job->shares);
    restore_tiles(&before);
}

static void write_panels(void *argument) {
    struct job *job = argument;
    int64_t taken;
    while ((taken = take(&job->next, 1)) < panels_of(job))
        write_panel(job, panel_of(job, taken));
}

/* ---- The work, on all threads ---- */

/* What Python calls: 0, or 1 if there is too little memory.

   image: (images, height, width, inputs), gradient: (images, rows, columns, outputs), of_weight: (outputs, side, side,
   inputs). */
int strided_gradient_of_weight(fork_join parallel, int64_t threads, int64_t images, int64_t height, int64_t width,
                               int64_t inputs, int64_t outputs, int64_t rows, int64_t columns, int64_t stride,
                               int64_t side, const bf16 *image, const bf16 *gradient, float *of_weight) {
    struct job job = {.images = images, .height = height, .width = width, .inputs = inputs, .outputs = outputs,
                      .rows = rows, .columns = columns, .stride = stride, .side = side};
    job.group = larger(1, SEGMENT / columns) * DEPTH;
    job.image = image, job.gradient = gradient, job.of_weight = of_weight;
    job.in_panel = smaller(round_up(inputs, DEPTH), IN_PANEL);
    job.out_panel = smaller(round_up(outputs, DEPTH), OUT_PANEL);
    job.shares = larger(1, smaller(SHARES / panels_of(&job), over(images, job.group))); /* for any number of threads */
    while (panels_of(&job) * job.shares < threads && larger(job.in_panel, job.out_panel) > DEPTH) {
        int64_t *panel = job.out_panel >= job.in_panel ? &job.out_panel : &job.in_panel;
        *panel = round_up(*panel / 2, DEPTH);
    }
    job.sums = zeros(panels_of(&job) * job.shares * panel_size(&job) * sizeof(float));
    job.out_of_memory = job.sums == NULL;
    if (!job.out_of_memory) {
        on_threads(parallel, threads, sum_panels, &job, &job.next);
        on_threads(parallel, threads, write_panels, &job, &job.next);
    }
    free(job.sums);
    return job.out_of_memory;
}

/* The same with stride 1 and filters of 3x3 pixels. */
int gradient_of_weight(fork_join parallel, int64_t threads, int64_t images, int64_t height, int64_t width,
                       int64_t inputs, int64_t outputs, int64_t rows, int64_t columns, const bf16 *image,
                       const bf16 *gradient, float *of_weight) {
    return strided_gradient_of_weight(parallel, threads, images, height, width, inputs, outputs, rows, columns, 1, 3,
                                      image, gradient, of_weight);
}

/* ---- Outputs ---- */

struct tile {
    int64_t place;
    int32_t pixel[TILE]; /* of the output image; -1: none */
};

/* Outputs that are sums over the same taps: all, or in the gradient of the inputs every `step`th of a line. */
struct pass {
    int64_t step, top, left; /* top, left: of the first */
    int64_t taps, tap[TAPS]; /* which ones */
    int64_t from[TAPS];      /* where they read, in places from the output's own */
    int64_t tiles;           /* that cover the outputs of an image */
    struct tile *tile;
};

static inline int64_t parts_of(const struct job *job) { return job->reversed ? 1 : job->stride; } /* of a side */
static inline int64_t step_of(const struct job *job) { return job->reversed ? job->stride : 1; }

static void cover(const struct job *job, struct pass *pass) {
    const int64_t rows = over(job->rows - pass->top, pass->step), columns = over(job->columns - pass->left, pass->step);
    int64_t covered = 0;
    for (int64_t y = 0; y < rows; y++)
        for (int64_t x = 0; x < columns; x++) {
            const int64_t place = y * job->pitch + x;
            if (place < covered)
                continue;
            struct tile *tile = &pass->tile[pass->tiles++];
            tile->place = place;
            covered = place + TILE;
            for (int64_t i = 0; i < TILE; i++) {
                const int64_t row = (place + i) / job->pitch, column = (place + i) % job->pitch;
                const int64_t y = pass->top + row * pass->step, x = pass->left + column * pass->step;
                tile->pixel[i] = row < rows && column < columns ? (int32_t)(y * job->columns + x) : -1;
            }
        }
}

/* Set up a pass for each place of an output within a step. The tiles have room for each output. */
static void plan(const struct job *job, struct tile *tile) {
    const int64_t step = step_of(job), sign = job->reversed ? -1 : 1;
    for (int64_t i = 0; i < step * step; i++) {
        struct pass *pass = &job->passes[i];
        *pass = (struct pass){.step = step, .top = i / step, .left = i % step, .tile = tile};
        for (int64_t tap = 0; tap < taps_of(job); tap++) {
            const struct shift down = shift_of(job, tap / job->side), right = shift_of(job, tap % job->side);
            if (job->reversed && (down.part != pass->top || right.part != pass->left))
                continue;
            const int64_t part = job->reversed ? 0 : down.part * job->stride + right.part;
            const int64_t lines = 1 + sign * down.whole, places = 1 + sign * right.whole;
            pass->from[pass->taps] = part * job->part + lines * job->pitch + places;
            pass->tap[pass->taps++] = tap;
        }
        if (pass->taps)
            cover(job, pass);
        tile += pass->tiles;
    }
}

/* Copy images (images, height, width, inputs) into the row. */
static void fill_row(const bf16 *image, int64_t images, const struct job *job, bf16 *row, int64_t places) {
    const int64_t parts = parts_of(job), skip = smaller(parts, skip_of(job));
    for (int64_t i = 0; i < images; i++)
        for (int64_t y = 0; y < job->height; y += skip)
            for (int64_t left = 0; left < parts; left += skip) {
                const bf16 *line = image + (i * job->height + y) * job->width * job->inputs;
                const int64_t part = y % parts * parts + left;
                bf16 *place = row + (i * job->distance + part * job->part + (y / parts + 1) * job->pitch + 1) * DEPTH;
                for (int64_t x = left; x < job->width; x += parts, place += DEPTH)
                    for (int64_t c = 0; c < job->inputs; c += DEPTH) {
                        const __mmask32 valid = first_32(job->inputs - c);
                        const __m512i pixel = _mm512_maskz_loadu_epi16(valid, line + x * job->inputs + c);
                        _mm512_store_si512(place + c * places, pixel);
                    }
            }
}

/* Sums of two tiles of places and two tiles of channels, and where they belong. */
struct block {
    float sums[4 * TILE_FP32] __attribute__((aligned(64)));
    const int32_t *pixels[2]; /* of each tile of places; null: there is no such tile */
    bf16 *output[2];          /* first of the 32 channels, of the first pixel of the image */
    __mmask32 valid;          /* channels */
    __m512 bias[2];
    int64_t adds;             /* to the output that is there */
};

/* Write a quarter of a tile of places. */
static inline void write_rows(const struct block *block, int64_t quarter, int64_t outputs) {
    const int64_t tile = quarter / 4, first = quarter % 4 * 4;
    const float *sums = block->sums + 2 * TILE_FP32 * tile + first * TILE;
    if (block->pixels[tile] == NULL)
        return;
    for (int64_t i = 0; i < 4; i++, sums += TILE) {
        const int32_t pixel = block->pixels[tile][first + i];
        if (pixel < 0)
            continue;
        bf16 *output = block->output[tile] + pixel * outputs;
        __m512 low = _mm512_add_ps(_mm512_load_ps(sums), block->bias[0]);
        __m512 high = _mm512_add_ps(_mm512_load_ps(sums + TILE_FP32), block->bias[1]);
        if (block->adds) {
            const __m512i there = _mm512_maskz_loadu_epi16(block->valid, output);
            low = _mm512_add_ps(low, widened(_mm512_castsi512_si256(there)));
            high = _mm512_add_ps(high, widened(_mm512_extracti64x4_epi64(there, 1)));
        }
        _mm512_mask_storeu_epi16(output, block->valid, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
}

/* Sum a block, and write the one before it, which waits for the unit no more. */
static inline void multiply(const struct pass *pass, const bf16 *const start[2], int64_t places, int64_t depths,
                            const bf16 *weights, struct block *block, const struct block *before, int64_t outputs,
                            struct upcoming *next) {
    const int two = block->pixels[1] != NULL;
    MEMORY_IS_READ;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t i = 0, quarter = 0; i < pass->taps; i++) {
        int64_t place = pass->from[i] * DEPTH;
        const bf16 *weight = weights + pass->tap[i] * depths * 2 * TILE_BF16;
        for (int64_t depth = 0; depth < depths; depth++, place += places * DEPTH, weight += 2 * TILE_BF16) {
            _tile_loadd(4, start[0] + place, 64);
            _tile_loadd(6, weight, 64);
            _tile_loadd(7, weight + TILE_BF16, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            if (two) {
                _tile_loadd(5, start[1] + place, 64);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
        }
        for (const int64_t end = i + 1 < pass->taps ? smaller(i + 1, 8) : 8; quarter < end; quarter++)
            write_rows(before, quarter, outputs);
        fetch(next);
    }
    _tile_stored(0, block->sums, 64);
    _tile_stored(1, block->sums + TILE_FP32, 64);
    _tile_stored(2, block->sums + 2 * TILE_FP32, 64);
    _tile_stored(3, block->sums + 3 * TILE_FP32, 64);
}

static void convolve_with(struct job *job, bf16 *row, int64_t places) {
    const int64_t inputs = round_up(job->inputs, DEPTH), area = job->rows * job->columns;
    const int64_t image_size = job->height * job->width * job->inputs, passes = step_of(job) * step_of(job);
    struct block blocks[2] = {0}, *block = &blocks[0], *before = &blocks[1];
    blocks[0].adds = blocks[1].adds = job->adds;
    struct configuration configuration;
    use_tiles(&configuration);
    int64_t following;
    for (int64_t first = take(&job->next, job->group); first < job->images; first = following) {
        const int64_t images = smaller(job->group, job->images - first);
        following = take(&job->next, job->group);
        const int64_t coming = smaller(job->group, job->images - following);
        int64_t steps = 1;
        for (int64_t i = 0; i < passes; i++)
            steps += over(images * job->passes[i].tiles, 2) * job->passes[i].taps * over(job->outputs, DEPTH);
        struct upcoming next = upcoming(job->image + following * image_size, coming * image_size, 0, 1, steps);
        fill_row(job->image + first * image_size, images, job, row, places);
        for (int64_t work = 0; work < over(job->outputs, DEPTH) * passes; work++) {
            const int64_t channel = work / passes * DEPTH;
            const struct pass *pass = &job->passes[work % passes];
            const int64_t count = images * pass->tiles;
            const bf16 *weights = job->packed + channel * taps_of(job) * inputs;
            for (int64_t i = 0; i < count; i += 2) {
                const bf16 *start[2];
                for (int64_t j = 0; j < 2; j++) { /* the last one may have no second */
                    const int64_t number = smaller(i + j, count - 1), image = number / pass->tiles;
                    const struct tile *tile = &pass->tile[number % pass->tiles];
                    start[j] = row + (image * job->distance + tile->place) * DEPTH;
                    block->pixels[j] = i + j < count ? tile->pixel : NULL;
                    block->output[j] = job->output + (first + image) * area * job->outputs + channel;
                }
                block->valid = first_32(job->outputs - channel);
                for (int64_t j = 0; j < 2; j++) {
                    const int64_t from = channel + j * TILE;
                    block->bias[j] = job->bias ? _mm512_maskz_loadu_ps(first_16(job->outputs - from), job->bias + from)
                                               : _mm512_setzero_ps();
                }
                multiply(pass, start, places, inputs / DEPTH, weights, block, before, job->outputs, &next);
                struct block *written = before;
                before = block;
                block = written;
            }
        }
    }
    for (int64_t quarter = 0; quarter < 8; quarter++)
        write_rows(before, quarter, job->outputs);
    restore_tiles(&configuration);
}

static void convolve_groups(void *argument) {
    struct job *job = argument;
    const int64_t places = job->group * job->distance + 3 * job->pitch + 3 * TILE;
    bf16 *row = zeros(places * round_up(job->inputs, DEPTH) * sizeof(bf16));
    if (row != NULL)
        convolve_with(job, row, places);
    else
        job->out_of_memory = 1;
    free(row);
}

/* ---- Weights ---- */

/* Weights (outputs, taps, inputs) as tiles (outputs / 32, taps, inputs / 32, 2, 16, 16, 2) of pairs of inputs. */
static void pack(void *argument) {
    struct job *job = argument;
    const int64_t taps = taps_of(job), inputs = job->inputs;
    for (int64_t block; (block = take(&job->next, DEPTH)) < job->outputs;) {
        bf16 *packed = job->packed + block * taps * round_up(inputs, DEPTH);
        for (int64_t tap = 0; tap < taps; tap++)
            for (int64_t input = 0; input < inputs; input += DEPTH)
                for (int64_t half = 0; half < 2; half++, packed += TILE_BF16) {
                    __m512i v[16];
#pragma GCC unroll 16
                    for (int64_t i = 0; i < 16; i++) {
                        const int64_t output = block + half * TILE + i;
                        const float *from = job->weight + (output * taps + tap) * inputs + input;
                        const int64_t count = output < job->outputs ? inputs - input : 0;
                        const __m512 low = _mm512_maskz_loadu_ps(first_16(count), from);
                        const __m512 high = _mm512_maskz_loadu_ps(first_16(count - TILE), from + TILE);
                        v[i] = (__m512i)_mm512_cvtne2ps_pbh(high, low);
                    }
                    transpose(v);
#pragma GCC unroll 16
                    for (int64_t i = 0; i < 16; i++)
                        _mm512_store_si512(packed + i * DEPTH, v[i]);
                }
    }
}

static inline __m512i rounded(const float *from, int64_t count) {
    return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(first_16(count), from)));
}

/* The same of weights (inputs, taps, outputs), for the gradient of the inputs. */
static void pack_reversed(void *argument) {
    struct job *job = argument;
    const int64_t taps = taps_of(job), outputs = job->outputs;
    for (int64_t block; (block = take(&job->next, DEPTH)) < outputs;) {
        bf16 *packed = job->packed + block * taps * round_up(job->inputs, DEPTH);
        for (int64_t tap = 0; tap < taps; tap++)
            for (int64_t input = 0; input < job->inputs; input += DEPTH)
                for (int64_t half = 0; half < 2; half++)
                    for (int64_t i = input; i < input + DEPTH; i += 2, packed += DEPTH) {
                        const int64_t output = block + half * TILE;
                        const float *from = job->weight + (i * taps + tap) * outputs + output;
                        const __m512i one = rounded(from, i < job->inputs ? outputs - output : 0);
                        const __m512i next = rounded(from + taps * outputs, i + 1 < job->inputs ? outputs - output : 0);
                        _mm512_store_si512(packed, _mm512_or_si512(one, _mm512_slli_epi32(next, 16)));
                    }
    }
}

/* What Python calls, as above.

   image: (images, height, width, inputs), output: (images, rows, columns, outputs), the first ones of a convolution
   with a zero around each image; weight: (outputs, side, side, inputs), bias: (outputs) or null. With `reversed` the
   images are the gradient of a convolution's output, and its weight is (inputs, side, side, outputs). With `adds` the
   result is added to `output`; else 1x1 filters with stride 2 may not be reversed, as they leave out pixels. */
int strided_convolve(fork_join parallel, int64_t threads, int64_t images, int64_t height, int64_t width, int64_t inputs,
                     int64_t outputs, int64_t rows, int64_t columns, int64_t stride, int64_t side, int64_t reversed,
                     int64_t adds, const bf16 *image, const float *weight, const float *bias, bf16 *output) {
    struct pass passes[4];
    struct job job = {.images = images, .height = height, .width = width, .inputs = inputs, .outputs = outputs,
                      .rows = rows, .columns = columns, .stride = stride, .side = side, .reversed = reversed,
                      .adds = adds, .passes = passes, .image = image, .weight = weight, .bias = bias,
                      .output = output};
    const int64_t parts = parts_of(&job), step = step_of(&job);
    job.pitch = larger(over(width, parts), over(columns, step)) + 1;
    job.part = (larger(over(height, parts), over(rows, step)) + 1) * job.pitch;
    job.distance = parts * parts * job.part;
    const int64_t weight_bytes = round_up(inputs, DEPTH) * round_up(outputs, DEPTH) * taps_of(&job) * sizeof(bf16);
    const int64_t row_bytes = weight_bytes > WEIGHT_BYTES ? LONG_ROW_BYTES : ROW_BYTES;
    const int64_t most = row_bytes / (job.distance * round_up(inputs, DEPTH) * sizeof(bf16));
    job.group = larger(1, smaller(most, over(images, 2 * threads))); /* each thread gets some */
    struct tile *tiles = room(rows * columns * sizeof(struct tile));
    job.packed = room(weight_bytes);
    job.out_of_memory = tiles == NULL || job.packed == NULL;
    if (!job.out_of_memory) {
        plan(&job, tiles);
        on_threads(parallel, threads, reversed ? pack_reversed : pack, &job, &job.next);
        on_threads(parallel, threads, convolve_groups, &job, &job.next);
    }
    free(job.packed);
    free(tiles);
    return job.out_of_memory;
}

/* The same with stride 1 and filters of 3x3 pixels. */
int convolve(fork_join parallel, int64_t threads, int64_t images, int64_t height, int64_t width, int64_t inputs,
             int64_t outputs, int64_t rows, int64_t columns, int64_t reversed, const bf16 *image, const float *weight,
             const float *bias, bf16 *output) {
    return strided_convolve(parallel, threads, images, height, width, inputs, outputs, rows, columns, 1, 3, reversed, 0,
                            image, weight, bias, output);
}

/* Linux lets a process use the tiles once it has asked (Documentation/arch/x86/xstate.rst); 0: it may. */
int allow_tiles(void) { return (int)syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */); }
