/* The tile instructions of AMX by those of AVX512-bf16, for tiles of 16 rows of 64 bytes. */

#include <immintrin.h>
#include <string.h>
#include <unistd.h>

#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#define _tile_loadd(tile, from, stride) memcpy(registers[tile], from, sizeof registers[tile])
#define _tile_stored(tile, to, stride) memcpy(to, registers[tile], sizeof registers[tile])
#define _tile_zero(tile) memset(registers[tile], 0, sizeof registers[tile])
#define _tile_dpbf16ps(sums, one, other) add_products(registers[sums], registers[one], registers[other])
#define _tile_loadconfig(from) ((void)(from))
#define _tile_storeconfig(to) memset(to, 0, 64)
#define _tile_release() ((void)0)
#define syscall(...) 0 /* Linux allows it */

static _Thread_local float registers[8][256];

static void add_products(float *sums, const float *one, const float *other) {
    for (int row = 0; row < 16; row++) {
        __m512 sum = _mm512_loadu_ps(sums + 16 * row);
        for (int i = 0; i < 16; i++)
            sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_ps(one[16 * row + i]),
                                   (__m512bh)_mm512_loadu_ps(other + 16 * i));
        _mm512_storeu_ps(sums + 16 * row, sum);
    }
}
