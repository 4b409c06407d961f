/* First moments in 8 bits, with exponents counted from those of the second moments: arithmetic/eight_bit.py. */

#ifndef GAP_EIGHT_BIT_H
#define GAP_EIGHT_BIT_H

#include "lanes.h"

INLINE words get_codes(const void *from, int64_t k, int64_t n) {
  bytes x = {0};
  memcpy(&x, (const uint8_t *)from + k, n);
#if LANES == 16 && defined(__AVX512F__)
  return (words)_mm512_cvtepu8_epi32((__m128i)x);
#elif LANES == 8 && defined(__AVX2__)
  return (words)_mm256_cvtepu8_epi32(_mm_set_epi64x(0, (int64_t)x));
#else
  return __builtin_convertvector(x, words);
#endif
}

INLINE void put_codes(void *to, int64_t k, int64_t n, words code) {
#if LANES == 16 && defined(__AVX512F__)
  bytes x = (bytes)_mm512_cvtepi32_epi8((__m512i)code);
#elif LANES == 8 && defined(__AVX2__)
  halves wide = upper_halves(code << 16);
  bytes x = (bytes)_mm_cvtsi128_si64(_mm_packus_epi16((__m128i)wide, (__m128i)wide));
#else
  bytes x = __builtin_convertvector(code, bytes);
#endif
  memcpy((uint8_t *)to + k, &x, n);
}

/* The bits of the floors for second moments v; those of a candidate are higher by its lift, 63 + its exponent. */
INLINE words floors_of(lanes v) { return ((words)v + (1U << 23)) >> 1 & 0x7F800000U; }

/* A number is the difference of two floats of its sign, of which the smaller is the floor. Zero loses its sign, which
   makes no difference to what is added to it. */
INLINE lanes decoded(words code, words floor) {
  words zero = floor | (code << 24 & 0x80000000U);
  return (lanes)(((code & 127) << 19) + zero) - (lanes)zero;
}

/* The codes of m, with 19 bits of noise. */
INLINE words encoded(lanes m, words floor, words noise) {
  words zero = floor | ((words)m & 0x80000000U);
  words size = least(((words)(m + (lanes)zero) - zero + noise) >> 19, 127);
  return size | ((words)m >> 24 & 128);
}

/* What is added to a decoded moment, so that it is NaN where its second moment is not finite: else 0. */
INLINE lanes nan_of(lanes v) { return v * 0.0f; }

INLINE void scale_codes_some(char *code, char *second, int64_t dtype, int64_t k, int64_t n, uint32_t lift, float factor,
                             float then) {
  lanes v = get(second, dtype, k, n);
  words old = get_codes(code, k, n), half_a_step = (words){0} + (1U << 18);
  words new = encoded(decoded(old, floors_of(v) + lift) * factor, floors_of(v * then) + lift, half_a_step);
  put_codes(code, k, n, (new & 127) | (old & 128));
}

/* Multiplies moments by factor; then is what their second moments will be multiplied by after that. */
static void scale_codes(char *code, char *second, int64_t dtype, int64_t n, uint32_t lift, float factor, float then) {
  int64_t k = 0;
  for (; k + LANES <= n; k += LANES) scale_codes_some(code, second, dtype, k, LANES, lift, factor, then);
  if (k < n) scale_codes_some(code, second, dtype, k, n - k, lift, factor, then);
}

#endif
