/* Adai: K first moments, K products of inertia, and a second moment. Formulas: families/adai.py.

   The first round is an observe of its own, which only updates the second moments. Where no scores are wanted, the second
   round's work is done together with the step, by step_constant. */

#include <float.h>
#include <math.h>

#include "job.h"

struct adai_numbers {
  const double *beta0; /* K */
  double beta2, eps, dampening, keep; /* keep: 1 - lr * decay where it is decoupled */
  int64_t round;
  double mean; /* of all bias-corrected second moments; known from the second round on */
};

static int64_t adai_round(const struct job *job) { return ((const struct adai_numbers *)job->own)->round; }

static int64_t adai_sums(const struct job *job) { return adai_round(job) ? 2 * job->K : 1; }

static int64_t adai_known(const struct job *job) { return job->K + 1; }

static float *product_of(const struct job *job, int64_t i, int64_t j, int64_t at) {
  return (float *)second_of(job, i, j) + at;
}

static float *square_of(const struct job *job, int64_t i, int64_t at) {
  return (float *)second_of(job, i, job->K) + at;
}

/* By what a second moment is divided: in the first round for its bias, in the second by the mean, too. */
static float adai_scale(const struct job *job, int64_t i) {
  const struct adai_numbers *own = job->own;
  double correction = 1 - pow(own->beta2, step_of(job, i));
  return own->round ? fmax(correction * own->mean, FLT_MIN) : correction;
}

static void adai_before_observe(const struct job *job, int64_t i, float *known) { known[job->K] = adai_scale(job, i); }

static void adai_before_apply(const struct job *job, int64_t i, int64_t j, float *known) {
  (void)i;
  known[0] = job->rate[j];
}

static void adai_before_mix(const struct job *job, int64_t i, const double *weights, float *known) {
  for (int64_t j = 0; j < job->K; j++) known[j] = job->rate[j] * weights[j];
  known[job->K] = adai_scale(job, i);
}

/* The ratios of n second moments to the mean, to the power of 1 / (3 - 2 d). */
static void adai_ratios(const struct job *job, const float *restrict v, int64_t n, float scale, float *restrict ratio) {
  const struct adai_numbers *own = job->own;
  if (own->dampening == 1)
    for (int64_t k = 0; k < n; k++) ratio[k] = v[k] / scale;
  else {
    float power = 1 / (3 - 2 * own->dampening);
    for (int64_t k = 0; k < n; k++) ratio[k] = powf(v[k] / scale, power);
  }
}

/* Updates the buffers of candidate j by n gradients, and notes the weights (1 - beta1)^d. */
static void adai_update(const struct job *job, int64_t j, const float *restrict ratio, const float *restrict g,
                        float *restrict m, float *restrict P, int64_t n, float *restrict weight) {
  const struct adai_numbers *own = job->own;
  float beta0 = own->beta0[j], least = own->eps, d = own->dampening;
  for (int64_t k = 0; k < n; k++) {
    float rest = beta0 * ratio[k];
    rest = rest > 1 ? 1 : rest; /* 1 - beta1 */
    weight[k] = rest < least ? least : rest;
    P[k] *= 1 - weight[k];
  }
  if (d != 1) {
    for (int64_t k = 0; k < n; k++) m[k] *= 1 - weight[k];
    for (int64_t k = 0; k < n; k++) m[k] += powf(weight[k], d) * g[k];
  } else
    for (int64_t k = 0; k < n; k++) m[k] = m[k] * (1 - weight[k]) + weight[k] * g[k];
}

/* The sum of the squared norms of n filters, (1 - beta1)^(2 d) / (1 - beta1^2); rest: 1 - beta1. */
static double adai_norms(const struct job *job, const float *restrict rest, int64_t n) {
  const struct adai_numbers *own = job->own;
  float power = 2 * own->dampening - 1, total = 0;
  if (power == 1) {
#pragma omp simd reduction(+ : total)
    for (int64_t k = 0; k < n; k++) total += rest[k] / (2 - rest[k]);
  } else
    for (int64_t k = 0; k < n; k++) total += powf(rest[k], power) / (2 - rest[k]);
  return total;
}

/* Updates the second moments of elements [begin, end) of fragment i; sums: that of the bias-corrected moments. It is added
   up in double throughout: the mean enters every element, whose bits must not depend on how parameters are cut. */
static void adai_observe_squares(const struct job *job, int64_t i, int64_t begin, int64_t end, float correction,
                                 double *sums) {
  const struct adai_numbers *own = job->own;
  float of_grad[TILE], of_value[TILE], beta2 = own->beta2, rest = 1 - own->beta2;
  int64_t wide = size_of(job->value_dtype);
  double total = 0;
  for (int64_t at = begin; at < end; at += TILE) {
    int64_t n = end - at < TILE ? end - at : TILE;
    const float *g = filtered(job, value_of(job, i) + at * wide, grad_of(job, i) + at * wide, n, of_grad, of_value);
    float *restrict v = square_of(job, i, at);
    for (int64_t k = 0; k < n; k++) v[k] = v[k] * beta2 + rest * g[k] * g[k];
#pragma omp simd reduction(+ : total)
    for (int64_t k = 0; k < n; k++) total += v[k];
  }
  sums[0] = total / correction;
}

/* The first round, or the second: then the moments are updated, and sums are K of g m_j and K of the filters' squared
   norms. */
static void adai_observe(const struct job *job, int64_t i, int64_t begin, int64_t end, const float *known,
                         double *sums) {
  float of_grad[TILE], of_value[TILE], ratio[TILE], rest[TILE], scale = known[job->K];
  int64_t wide = size_of(job->value_dtype);
  if (!adai_round(job)) {
    adai_observe_squares(job, i, begin, end, scale, sums);
    return;
  }
  memset(sums, 0, adai_sums(job) * sizeof(double));
  for (int64_t at = begin; at < end; at += TILE) {
    int64_t n = end - at < TILE ? end - at : TILE;
    const float *g = filtered(job, value_of(job, i) + at * wide, grad_of(job, i) + at * wide, n, of_grad, of_value);
    adai_ratios(job, square_of(job, i, at), n, scale, ratio);
    for (int64_t j = 0; j < job->K; j++) {
      float *m = (float *)first_of(job, i, j) + at;
      adai_update(job, j, ratio, g, m, product_of(job, i, j, at), n, rest);
      sums[j] += dot(g, m, n);
      sums[job->K + j] += adai_norms(job, rest, n);
    }
  }
}

/* Steps n elements by candidates [from, to), each at its rate. */
static void adai_move(const struct job *job, int64_t i, int64_t at, int64_t n, int64_t from, int64_t to,
                      const float *rates) {
  const struct adai_numbers *own = job->own;
  float of_value[APPLY_TILE], keep = own->keep;
  void *stored = value_of(job, i) + at * size_of(job->value_dtype);
  float *restrict p = load(stored, job->value_dtype, n, of_value);
  for (int64_t j = from; j < to; j++, keep = 1) {
    const float *restrict m = (float *)first_of(job, i, j) + at, *restrict P = product_of(job, i, j, at);
    float rate = rates[j - from];
    for (int64_t k = 0; k < n; k++) p[k] = p[k] * keep - rate * (m[k] / (1 - P[k]));
  }
  store(stored, job->value_dtype, n, p);
}

static void adai_steps(const struct job *job, int64_t i, int64_t begin, int64_t end, int64_t from, int64_t to,
                       const float *rates, int reset) {
  for (int64_t at = begin; at < end; at += APPLY_TILE) {
    int64_t n = end - at < APPLY_TILE ? end - at : APPLY_TILE;
    adai_move(job, i, at, n, from, to, rates);
    if (reset) scale_firsts(job, i, at, n);
  }
}

static void adai_apply(const struct job *job, int64_t i, int64_t begin, int64_t end, int64_t j, const float *known,
                       int reset) {
  adai_steps(job, i, begin, end, j, j + 1, known, reset);
}

static void adai_mix(const struct job *job, int64_t i, int64_t begin, int64_t end, const float *known, int reset) {
  adai_steps(job, i, begin, end, 0, job->K, known, reset);
}

/* The second round and the step, for elements [begin, end) of fragment i. */
static void adai_step_constant(const struct job *job, int64_t i, int64_t begin, int64_t end, const float *known) {
  float of_grad[TILE], of_value[TILE], ratio[TILE], rest[TILE];
  int64_t wide = size_of(job->value_dtype);
  for (int64_t at = begin; at < end; at += TILE) {
    int64_t n = end - at < TILE ? end - at : TILE;
    const float *g = filtered(job, value_of(job, i) + at * wide, grad_of(job, i) + at * wide, n, of_grad, of_value);
    adai_ratios(job, square_of(job, i, at), n, known[job->K], ratio);
    for (int64_t j = 0; j < job->K; j++)
      adai_update(job, j, ratio, g, (float *)first_of(job, i, j) + at, product_of(job, i, j, at), n, rest);
    adai_move(job, i, at, n, 0, job->K, known);
  }
}

/* J of one parameter from its sums. */
static void adai_score(const struct job *job, const double *sums, int64_t numel, double *J) {
  for (int64_t j = 0; j < job->K; j++) J[j] = numel ? sums[j] / sqrt(sums[job->K + j] / numel) : 0;
}
