/* Numbers in memory: float32, bfloat16 and float16, computed with as float. */

#ifndef GAP_NUMBERS_H
#define GAP_NUMBERS_H

#include <stdint.h>
#include <string.h>

enum dtype { FLOAT32, BFLOAT16, FLOAT16 };

static inline float from_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

static inline uint32_t to_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}

static inline uint16_t to_bfloat16(float x) { /* to the nearest, ties to even */
  uint32_t bits = to_bits(x);
  uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  return x != x ? 0x7FC0 : rounded;
}

/* The hash lowbias32 of Chris Wellons (public domain), as in rounding.py. */
static inline uint32_t hash(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7feb352dU;
  x ^= x >> 15;
  x *= 0x846ca68bU;
  return x ^ (x >> 16);
}

static inline uint16_t to_bfloat16_stochastic(float x, float grad, uint32_t old, uint32_t salt) {
  uint32_t noise = hash((to_bits(grad) ^ old) + salt) & 0xFFFF;
  uint32_t bits = to_bits(x);
  int finite = (bits & 0x7F800000U) != 0x7F800000U;
  return finite ? (bits + noise) >> 16 : to_bfloat16(x);
}

static int64_t size_of(int64_t dtype) { return dtype == FLOAT32 ? 4 : 2; }

/* n numbers as float: in place where they are, else converted into scratch. */
static float *load(void *from, int64_t dtype, int64_t n, float *scratch) {
  if (dtype == FLOAT32) return from;
  if (dtype == BFLOAT16) {
    const uint16_t *x = from;
    for (int64_t i = 0; i < n; i++) scratch[i] = from_bits((uint32_t)x[i] << 16);
  } else {
#ifdef __FLT16_MAX__
    const _Float16 *x = from;
    for (int64_t i = 0; i < n; i++) scratch[i] = x[i];
#endif
  }
  return scratch;
}

/* What load gave, back to where it came from; rounded like it, so that scratch holds the values as they are stored. */
static void store(void *to, int64_t dtype, int64_t n, float *scratch) {
  if (dtype == BFLOAT16) {
    uint16_t *x = to;
    for (int64_t i = 0; i < n; i++) {
      x[i] = to_bfloat16(scratch[i]);
      scratch[i] = from_bits((uint32_t)x[i] << 16);
    }
  } else if (dtype == FLOAT16) {
#ifdef __FLT16_MAX__
    _Float16 *x = to;
    for (int64_t i = 0; i < n; i++) scratch[i] = x[i] = scratch[i];
#endif
  }
}

static void scale(void *stored, int64_t dtype, int64_t n, float factor, float *scratch) {
  float *x = load(stored, dtype, n, scratch);
  for (int64_t i = 0; i < n; i++) x[i] *= factor;
  store(stored, dtype, n, x);
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
