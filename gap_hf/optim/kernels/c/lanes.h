/* Vectors of LANES floats: 16 for AVX-512, 8 for AVX2, and 4 otherwise, which any compiler can do (build.py decides).

   They are the vector extensions of gcc and clang; intrinsics stand only where these have no operator. All functions
   take n <= LANES numbers from element k of an array on, and n is LANES but for the end of a tile: as they are inlined, the
   copies of LANES numbers become single instructions. */

#ifndef GAP_LANES_H
#define GAP_LANES_H

#include <stdint.h>
#include <string.h>

enum dtype { FLOAT32, BFLOAT16, FLOAT16, EIGHT_BIT }; /* EIGHT_BIT: eight_bit.h */

static int64_t size_of(int64_t dtype) { return dtype == FLOAT32 ? 4 : dtype == EIGHT_BIT ? 1 : 2; }

#ifndef LANES
#define LANES 4
#endif

#ifdef __SSE2__
#include <immintrin.h>
#endif
#include <math.h>

#define INLINE static inline __attribute__((always_inline))

typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t masks __attribute__((vector_size(4 * LANES))); /* of a comparison: all ones, or 0 */
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES)));
typedef uint8_t bytes __attribute__((vector_size(LANES)));

INLINE lanes broadcast(float x) { return x - (lanes){0}; }

INLINE lanes where(masks which, lanes yes, lanes no) {
#if LANES == 16 && defined(__AVX512F__)
  return (lanes)_mm512_mask_blend_ps(_mm512_test_epi32_mask((__m512i)which, (__m512i)which), (__m512)no, (__m512)yes);
#else
  return (lanes)(((masks)yes & which) | ((masks)no & ~which));
#endif
}

/* The first n of LANES. */
INLINE masks first_lanes(int64_t n) {
  masks index;
  for (int32_t l = 0; l < LANES; l++) index[l] = l;
  return index < (int32_t)n;
}

INLINE lanes root(lanes x) {
#if LANES == 16 && defined(__AVX512F__)
  return (lanes)_mm512_sqrt_ps((__m512)x);
#elif LANES == 8 && defined(__AVX__)
  return (lanes)_mm256_sqrt_ps((__m256)x);
#elif LANES == 4 && defined(__SSE__)
  return (lanes)_mm_sqrt_ps((__m128)x);
#else
  for (int l = 0; l < LANES; l++) x[l] = sqrtf(x[l]);
  return x;
#endif
}

/* The smaller of two numbers. */
INLINE words least(words x, uint32_t y) {
#if LANES == 16 && defined(__AVX512F__)
  return (words)_mm512_min_epu32((__m512i)x, (__m512i)((words){0} + y));
#elif LANES == 8 && defined(__AVX2__)
  return (words)_mm256_min_epu32((__m256i)x, (__m256i)((words){0} + y));
#else
  masks less = (masks)(x < y);
  return (x & (words)less) | (y & ~(words)less);
#endif
}

/* In a fixed order, so that the sum is the same everywhere. */
INLINE float sum_of(lanes x) {
  float sum = 0;
  for (int l = 0; l < LANES; l++) sum += x[l];
  return sum;
}

/* ---------------------------------------------------------------- bfloat16 and float16 */

/* Compilers take several instructions for what is one. */
INLINE words widened(halves x) {
#if LANES == 16 && defined(__AVX512F__)
  return (words)_mm512_cvtepu16_epi32((__m256i)x);
#elif LANES == 8 && defined(__AVX2__)
  return (words)_mm256_cvtepu16_epi32((__m128i)x);
#else
  return __builtin_convertvector(x, words);
#endif
}

INLINE halves upper_halves(words x) {
#if LANES == 16 && defined(__AVX512F__)
  return (halves)_mm512_cvtepi32_epi16((__m512i)(x >> 16));
#elif LANES == 8 && defined(__AVX2__)
  __m256i packed = _mm256_packus_epi32((__m256i)(x >> 16), _mm256_setzero_si256());
  return (halves)_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0xD8));
#else
  return __builtin_convertvector(x >> 16, halves);
#endif
}

INLINE lanes from_halves(halves x) { return (lanes)(widened(x) << 16); }

INLINE words if_nan(lanes x, words bits) { return (words)where(x == x, (lanes)bits, broadcast(NAN)); }

INLINE halves to_nearest(lanes x) { /* ties to even */
  words bits = (words)x;
  return upper_halves(if_nan(x, bits + 0x7FFF + ((bits >> 16) & 1)));
}

/* The hash lowbias32 of Chris Wellons (public domain), as in rounding.py. */
INLINE words hash_of(words x) {
  x ^= x >> 16;
  x *= 0x7feb352dU;
  x ^= x >> 15;
  x *= 0x846ca68bU;
  return x ^ (x >> 16);
}

/* Two candidates share a hash of what enters the filter, of which each has a half. */
INLINE uint32_t salt_of(double t, int64_t j) {
  return (uint32_t)(uint64_t)t * 0x9E3779B9U + (uint32_t)(j / 2) * 0x85EBCA6BU;
}

INLINE words hash_for(lanes grad, uint32_t salt) { return hash_of((words)grad + salt); }

/* As many bits of noise for candidate j; old: the bits that were stored before. */
INLINE words noise_for(words hash, words old, int64_t j, int bits) {
  return ((j % 2 ? hash >> (32 - bits) : hash) + old * 0x9E3BU) & ((1U << bits) - 1);
}

/* The bits of x plus noise, to be cut off; a NaN stays one. */
INLINE words stirred(lanes x, words noise) {
#if LANES == 16 && defined(__AVX512F__)
  __mmask16 numbers = _mm512_cmp_ps_mask((__m512)x, (__m512)x, _CMP_ORD_Q);
  return (words)_mm512_mask_add_epi32((__m512i)x, numbers, (__m512i)x, (__m512i)noise);
#else
  return (words)where(x == x, (lanes)((words)x + noise), x);
#endif
}

#ifdef __FLT16_MAX__
INLINE lanes from_float16(halves x) {
#if LANES == 16 && defined(__AVX512F__)
  return (lanes)_mm512_cvtph_ps((__m256i)x);
#elif LANES == 8 && defined(__F16C__)
  return (lanes)_mm256_cvtph_ps((__m128i)x);
#else
  lanes y;
  for (int l = 0; l < LANES; l++) {
    _Float16 one;
    uint16_t stored = x[l];
    memcpy(&one, &stored, 2);
    y[l] = one;
  }
  return y;
#endif
}

INLINE halves to_float16(lanes x) {
#if LANES == 16 && defined(__AVX512F__)
  return (halves)_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT);
#elif LANES == 8 && defined(__F16C__)
  return (halves)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT);
#else
  halves y;
  for (int l = 0; l < LANES; l++) {
    _Float16 one = x[l];
    uint16_t stored;
    memcpy(&stored, &one, 2);
    y[l] = stored;
  }
  return y;
#endif
}
#endif

/* ---------------------------------------------------------------- memory */

INLINE halves get_halves(const void *from, int64_t k, int64_t n) {
  halves x = {0};
  memcpy(&x, (const uint16_t *)from + k, n * 2);
  return x;
}

INLINE lanes get(const void *from, int64_t dtype, int64_t k, int64_t n) {
  if (dtype == FLOAT32) {
    lanes x = {0};
    memcpy(&x, (const float *)from + k, n * 4);
    return x;
  }
#ifdef __FLT16_MAX__
  if (dtype == FLOAT16) return from_float16(get_halves(from, k, n));
#endif
  return from_halves(get_halves(from, k, n));
}

/* Stores x, rounded to the nearest, and returns it as it is stored. */
INLINE lanes put(void *to, int64_t dtype, int64_t k, int64_t n, lanes x) {
  if (dtype == FLOAT32) {
    memcpy((float *)to + k, &x, n * 4);
    return x;
  }
  halves stored;
#ifdef __FLT16_MAX__
  if (dtype == FLOAT16) {
    stored = to_float16(x);
    memcpy((uint16_t *)to + k, &stored, n * 2);
    return from_float16(stored);
  }
#endif
  stored = to_nearest(x);
  memcpy((uint16_t *)to + k, &stored, n * 2);
  return from_halves(stored);
}

/* The same for bfloat16, rounded stochastically; old: the bits that were stored. */
INLINE lanes put_stochastic(void *to, int64_t k, int64_t n, lanes x, words hash, words old, int64_t j) {
  words bits = stirred(x, noise_for(hash, old, j, 16));
  halves stored = upper_halves(bits);
  memcpy((uint16_t *)to + k, &stored, n * 2);
  return (lanes)(bits & 0xFFFF0000U);
}

#endif
