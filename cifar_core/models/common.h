/* Memory, threads and whole numbers: what all C files share. */

#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define TAPS 9 /* of a 3x3 filter */

typedef void (*fork_join)(void (*)(void *), void *, unsigned, unsigned); /* GOMP_parallel of GCC's OpenMP */

static inline int64_t round_up(int64_t number, int64_t step) { return (number + step - 1) / step * step; }
static inline int64_t smaller(int64_t one, int64_t other) { return one < other ? one : other; }
static inline int64_t larger(int64_t one, int64_t other) { return one > other ? one : other; }

/* Do the work of a job on all threads. They take pieces of it from `next` on. */
static inline void on_threads(fork_join parallel, int64_t threads, void (*work)(void *), void *job, int64_t *next) {
    *next = 0;
    if (threads > 1)
        parallel(work, job, threads, 0);
    else
        work(job);
}
static inline int64_t take(int64_t *next, int64_t count) { return __atomic_fetch_add(next, count, __ATOMIC_RELAXED); }

/* Null if there is no memory. */
static inline void *room(int64_t bytes) { return aligned_alloc(64, round_up(bytes, 64)); }
static inline void *zeros(int64_t bytes) {
    void *memory = room(bytes);
    return memory == NULL ? NULL : memset(memory, 0, round_up(bytes, 64));
}
