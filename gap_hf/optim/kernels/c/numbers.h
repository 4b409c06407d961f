/* Tiles of numbers, as float: for what is computed array by array. */

#ifndef GAP_NUMBERS_H
#define GAP_NUMBERS_H

#include "lanes.h"

/* n numbers as float: in place where they are, else converted into scratch. */
static float *load(void *from, int64_t dtype, int64_t n, float *scratch) {
  if (dtype == FLOAT32) return from;
  int64_t k = 0;
  for (; k + LANES <= n; k += LANES) put(scratch, FLOAT32, k, LANES, get(from, dtype, k, LANES));
  if (k < n) put(scratch, FLOAT32, k, n - k, get(from, dtype, k, n - k));
  return scratch;
}

/* What load gave, back to where it came from; rounded like it, so that scratch holds the values as they are stored. */
static void store(void *to, int64_t dtype, int64_t n, float *scratch) {
  if (dtype == FLOAT32) return;
  int64_t k = 0;
  for (; k + LANES <= n; k += LANES)
    put(scratch, FLOAT32, k, LANES, put(to, dtype, k, LANES, get(scratch, FLOAT32, k, LANES)));
  if (k < n) put(scratch, FLOAT32, k, n - k, put(to, dtype, k, n - k, get(scratch, FLOAT32, k, n - k)));
}

/* The same for bfloat16, rounded stochastically; grad is what entered the filter. */
INLINE void store_stochastic_some(void *to, int64_t k, int64_t n, const float *grad, float *scratch, double t, int64_t j) {
  lanes x = get(scratch, FLOAT32, k, n);
  words hash = hash_for(get(grad, FLOAT32, k, n), salt_of(t, j));
  put(scratch, FLOAT32, k, n, put_stochastic(to, k, n, x, hash, widened(get_halves(to, k, n)), j));
}

static void store_stochastic(void *to, int64_t n, const float *grad, float *scratch, double t, int64_t j) {
  int64_t k = 0;
  for (; k + LANES <= n; k += LANES) store_stochastic_some(to, k, LANES, grad, scratch, t, j);
  if (k < n) store_stochastic_some(to, k, n - k, grad, scratch, t, j);
}

static void scale(void *stored, int64_t dtype, int64_t n, float factor) {
  int64_t k = 0;
  for (; k + LANES <= n; k += LANES) put(stored, dtype, k, LANES, factor * get(stored, dtype, k, LANES));
  if (k < n) put(stored, dtype, k, n - k, factor * get(stored, dtype, k, n - k));
}

/* Of a tile: a few dozen float additions in each lane of a vector register, then double. */
static float dot(const float *restrict x, const float *restrict y, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) sum += x[i] * y[i];
  return sum;
}

static void fetch_ahead(const char *from, int64_t n, int64_t dtype) {
  for (int64_t byte = 0; byte < n * size_of(dtype); byte += 64) __builtin_prefetch(from + byte, 1);
}

#endif
