/* Root-free RMSProp: K momentum buffers and a mean square. Formulas: families/rf_rmsprop.py. */

#include "job.h"

struct rf_rmsprop_numbers {
  const double *momentum; /* K */
  double alpha, batch_size, eps, decay;
};

static int64_t rf_rmsprop_sums(const struct job *job) { return job->K + 1; }

static int64_t rf_rmsprop_known(const struct job *job) { return job->K; }

static void rf_rmsprop_before_observe(const struct job *job, int64_t i, float *known) {
  (void)job, (void)i, (void)known;
}

static void rf_rmsprop_before_apply(const struct job *job, int64_t i, int64_t j, float *known) {
  (void)i;
  known[0] = job->rate[j];
}

static void rf_rmsprop_before_mix(const struct job *job, int64_t i, const double *weights, float *known) {
  (void)i;
  for (int64_t j = 0; j < job->K; j++) known[j] = job->rate[j] * weights[j];
}

/* Updates the mean square by n gradients from at, and returns it as it is stored. */
static const float *rf_rmsprop_square(const struct job *job, int64_t i, int64_t at, int64_t n, const float *g,
                                      float *scratch) {
  const struct rf_rmsprop_numbers *own = job->own;
  void *stored = second_of(job, i, 0) + at * size_of(job->second_dtype);
  float *restrict v = load(stored, job->second_dtype, n, scratch);
  float alpha = own->alpha, rest = (1 - own->alpha) * own->batch_size;
  for (int64_t k = 0; k < n; k++) v[k] = v[k] * alpha + rest * g[k] * g[k];
  store(stored, job->second_dtype, n, v);
  return v;
}

/* The direction of n elements: d = g / (v + eps) + decay * p. */
static void rf_rmsprop_direct(const struct job *job, const float *restrict g, const float *restrict p,
                              const float *restrict v, int64_t n, float *restrict d) {
  const struct rf_rmsprop_numbers *own = job->own;
  float eps = own->eps, decay = own->decay;
  for (int64_t k = 0; k < n; k++) d[k] = g[k] / (v[k] + eps) + decay * p[k];
}

/* Updates the buffer of candidate j by n directions from at, and returns it as it is stored. */
static const float *rf_rmsprop_first(const struct job *job, int64_t i, int64_t j, int64_t at, int64_t n,
                                     const float *g, const float *restrict d, float *scratch) {
  const struct rf_rmsprop_numbers *own = job->own;
  if (!is_kept(job, j)) return d;
  void *stored = first_of(job, i, j) + at * size_of(job->first_dtype);
  float *m = load(stored, job->first_dtype, n, scratch), momentum = own->momentum[j];
  for (int64_t k = 0; k < n; k++) m[k] = m[k] * momentum + d[k];
  store_first(job, stored, g, m, n, j, step_of(job, i));
  return m;
}

static void rf_rmsprop_fetch_next(const struct job *job, int64_t i, int64_t next, int64_t end) {
  int64_t ahead = end - next < TILE ? end - next : TILE; /* none, if negative */
  fetch_ahead(grad_of(job, i) + next * size_of(job->value_dtype), ahead, job->value_dtype);
  fetch_ahead(second_of(job, i, 0) + next * size_of(job->second_dtype), ahead, job->second_dtype);
}

/* Updates the buffers of elements [begin, end) of fragment i; sums: K of (d / r) buf_j, then r = 1 / (v + eps). */
static void rf_rmsprop_observe(const struct job *job, int64_t i, int64_t begin, int64_t end, const float *known,
                               double *sums) {
  const struct rf_rmsprop_numbers *own = job->own;
  float of_grad[TILE], of_value[TILE], of_first[TILE], of_second[TILE], d[TILE], uphill[TILE], eps = own->eps;
  int64_t wide = size_of(job->value_dtype);
  (void)known;
  memset(sums, 0, rf_rmsprop_sums(job) * sizeof(double));
  for (int64_t at = begin; at < end; at += TILE) {
    int64_t n = end - at < TILE ? end - at : TILE;
    fetch_firsts_ahead(job, i, at, n);
    const float *g = filtered(job, NULL, grad_of(job, i) + at * wide, n, of_grad, NULL);
    const float *p = load(value_of(job, i) + at * wide, job->value_dtype, n, of_value);
    const float *v = rf_rmsprop_square(job, i, at, n, g, of_second);
    rf_rmsprop_direct(job, g, p, v, n, d);
    float total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t k = 0; k < n; k++) {
      total += 1.0f / (v[k] + eps);
      uphill[k] = d[k] * (v[k] + eps);
    }
    sums[job->K] += total;
    rf_rmsprop_fetch_next(job, i, at + TILE, end);
    for (int64_t j = 0; j < job->K; j++) sums[j] += dot(uphill, rf_rmsprop_first(job, i, j, at, n, g, d, of_first), n);
  }
}

/* Steps elements [begin, end) of fragment i by candidates [from, to), each at its rate in known; then scales the buffers,
   if a reset is due. */
static void rf_rmsprop_steps(const struct job *job, int64_t i, int64_t begin, int64_t end, int64_t from, int64_t to,
                             const float *known, int reset) {
  float of_grad[APPLY_TILE], of_value[APPLY_TILE], of_first[APPLY_TILE], of_second[APPLY_TILE], d[APPLY_TILE];
  int64_t wide = size_of(job->value_dtype);
  int direct = 0;
  for (int64_t j = from; j < to; j++) direct |= !is_kept(job, j);
  for (int64_t at = begin; at < end; at += APPLY_TILE) {
    int64_t n = end - at < APPLY_TILE ? end - at : APPLY_TILE;
    void *stored = value_of(job, i) + at * wide;
    float *restrict p = load(stored, job->value_dtype, n, of_value);
    if (direct) {
      const float *g = filtered(job, NULL, grad_of(job, i) + at * wide, n, of_grad, NULL);
      void *square = second_of(job, i, 0) + at * size_of(job->second_dtype);
      rf_rmsprop_direct(job, g, p, load(square, job->second_dtype, n, of_second), n, d);
    }
    for (int64_t j = from; j < to; j++) {
      char *first = is_kept(job, j) ? first_of(job, i, j) + at * size_of(job->first_dtype) : NULL;
      const float *restrict m = first ? load(first, job->first_dtype, n, of_first) : d;
      float rate = known[j - from];
      for (int64_t k = 0; k < n; k++) p[k] = p[k] - rate * m[k];
    }
    store(stored, job->value_dtype, n, p);
    if (reset) scale_firsts(job, i, at, n);
  }
}

static void rf_rmsprop_apply(const struct job *job, int64_t i, int64_t begin, int64_t end, int64_t j,
                             const float *known, int reset) {
  rf_rmsprop_steps(job, i, begin, end, j, j + 1, known, reset);
}

static void rf_rmsprop_mix(const struct job *job, int64_t i, int64_t begin, int64_t end, const float *known,
                           int reset) {
  rf_rmsprop_steps(job, i, begin, end, 0, job->K, known, reset);
}

/* Updates the buffers of elements [begin, end) of fragment i, and steps by the weighted sum of all candidates. */
static void rf_rmsprop_step_constant(const struct job *job, int64_t i, int64_t begin, int64_t end,
                                     const float *known) {
  float of_grad[TILE], of_value[TILE], of_first[TILE], of_second[TILE], d[TILE];
  int64_t wide = size_of(job->value_dtype);
  for (int64_t at = begin; at < end; at += TILE) {
    int64_t n = end - at < TILE ? end - at : TILE;
    fetch_firsts_ahead(job, i, at, n);
    void *stored = value_of(job, i) + at * wide;
    const float *g = filtered(job, NULL, grad_of(job, i) + at * wide, n, of_grad, NULL);
    float *restrict p = load(stored, job->value_dtype, n, of_value);
    rf_rmsprop_direct(job, g, p, rf_rmsprop_square(job, i, at, n, g, of_second), n, d);
    for (int64_t j = 0; j < job->K; j++) {
      const float *restrict m = rf_rmsprop_first(job, i, j, at, n, g, d, of_first);
      for (int64_t k = 0; k < n; k++) p[k] = p[k] - known[j] * m[k];
    }
    store(stored, job->value_dtype, n, p);
    rf_rmsprop_fetch_next(job, i, at + TILE, end);
  }
}

/* J of one parameter from its sums. */
static void rf_rmsprop_score(const struct job *job, const double *sums, int64_t numel, double *J) {
  for (int64_t j = 0; j < job->K; j++) J[j] = numel ? job->gain[j] * sums[j] / sqrt(sums[job->K] / numel) : 0;
}
