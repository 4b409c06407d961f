/* K first moments, and a second moment for each distinct beta2: Adam, and root-free AdamW where there is a batch size.
   Formulas: families/moments.py. */

#include <math.h>

#include "job.h"

struct adam_numbers {
  const int64_t *second; /* K: which second moment a candidate uses */
  const double *beta1;   /* K */
  const double *beta2;   /* U */
  double eps, keep;      /* keep: 1 - lr * decay where it is decoupled */
  double second_reset;
  double batch_size; /* of a root-free family, which has no roots and no bias corrections; 0 for Adam */
};

/* What a thread works out once per fragment: for the first pass 1 / sqrt(1 - beta2^t) of each second moment; for the
   second one lr / (1 - beta1^t) and 1 / sqrt(1 - beta2^t) of the candidate, or of all candidates (times their weights) and
   of all second moments; a step with constant weights needs all of these. */
static int64_t adam_sums(const struct job *job) { return job->K + job->seconds; }

static int64_t adam_known(const struct job *job) { return job->K + 2 * job->seconds; }

static int is_rootless(const struct job *job) { return ((const struct adam_numbers *)job->own)->batch_size != 0; }

static double adam_scale(const struct job *job, int64_t i, int64_t u) {
  const struct adam_numbers *own = job->own;
  return 1 / sqrt(1 - pow(own->beta2[u], step_of(job, i)));
}

/* The denominator of an element with second moment v. */
static inline float adam_denominator(float v, float scale, float eps, int rootless) {
  return (rootless ? v : sqrtf(v) * scale) + eps;
}

static float adam_rate(const struct job *job, int64_t i, int64_t j, double weight) {
  const struct adam_numbers *own = job->own;
  float rate = job->rate[j] * weight;
  return is_rootless(job) ? rate : rate / (1 - pow(own->beta1[j], step_of(job, i)));
}

static void adam_before_observe(const struct job *job, int64_t i, float *known) {
  for (int64_t u = 0; u < job->seconds; u++) known[u] = adam_scale(job, i, u);
}

static void adam_before_apply(const struct job *job, int64_t i, int64_t j, float *known) {
  const struct adam_numbers *own = job->own;
  known[0] = adam_rate(job, i, j, 1);
  known[1] = adam_scale(job, i, own->second[j]);
}

static void adam_before_mix(const struct job *job, int64_t i, const double *weights, float *known) {
  for (int64_t j = 0; j < job->K; j++) known[j] = adam_rate(job, i, j, weights[j]);
  for (int64_t u = 0; u < job->seconds; u++) known[job->K + u] = adam_scale(job, i, u);
}

/* x <- x + weight * (y - x), in the form that torch.lerp takes. */
static void lerp(float *restrict x, const float *restrict y, int64_t n, float weight) {
  if (weight < 0.5f)
    for (int64_t i = 0; i < n; i++) x[i] = x[i] + weight * (y[i] - x[i]);
  else
    for (int64_t i = 0; i < n; i++) x[i] = y[i] - (y[i] - x[i]) * (1 - weight);
}

/* Updates second moment u by n gradients from at, and returns it as it is stored. */
static const float *adam_second(const struct job *job, int64_t i, int64_t u, int64_t at, int64_t n, const float *g,
                                float *scratch) {
  const struct adam_numbers *own = job->own;
  void *stored = second_of(job, i, u) + at * size_of(job->second_dtype);
  float *restrict v = load(stored, job->second_dtype, n, scratch);
  float beta2 = own->beta2[u], rest = (1 - own->beta2[u]) * (is_rootless(job) ? own->batch_size : 1);
  for (int64_t k = 0; k < n; k++) v[k] = v[k] * beta2 + rest * g[k] * g[k];
  store(stored, job->second_dtype, n, v);
  return v;
}

/* The same for the first moment of candidate j. */
static const float *adam_first(const struct job *job, int64_t i, int64_t j, int64_t at, int64_t n, const float *g,
                               float *scratch) {
  const struct adam_numbers *own = job->own;
  if (!is_kept(job, j)) return g;
  void *stored = first_of(job, i, j) + at * size_of(job->first_dtype);
  float *m = load(stored, job->first_dtype, n, scratch);
  lerp(m, g, n, 1 - own->beta1[j]);
  store_first(job, stored, g, m, n, j, step_of(job, i));
  return m;
}

static void adam_fetch_next(const struct job *job, int64_t i, int64_t next, int64_t end) {
  int64_t ahead = end - next < TILE ? end - next : TILE; /* none, if negative */
  fetch_ahead(grad_of(job, i) + next * size_of(job->value_dtype), ahead, job->value_dtype);
  for (int64_t u = 0; u < job->seconds; u++)
    fetch_ahead(second_of(job, i, u) + next * size_of(job->second_dtype), ahead, job->second_dtype);
}

/* Updates the moments of elements [begin, end) of fragment i; sums: K of g r m_j, then U of r. */
static void adam_observe(const struct job *job, int64_t i, int64_t begin, int64_t end, const float *scale,
                         double *sums) {
  const struct adam_numbers *own = job->own;
  float of_grad[TILE], of_value[TILE], of_first[TILE], of_second[TILE];
  int64_t U = job->seconds, wide = size_of(job->value_dtype);
  int rootless = is_rootless(job);
  float weighted[U][TILE];
  memset(sums, 0, adam_sums(job) * sizeof(double));
  for (int64_t at = begin; at < end; at += TILE) {
    int64_t n = end - at < TILE ? end - at : TILE;
    fetch_firsts_ahead(job, i, at, n);
    const float *g = filtered(job, value_of(job, i) + at * wide, grad_of(job, i) + at * wide, n, of_grad, of_value);
    for (int64_t u = 0; u < U; u++) {
      const float *v = adam_second(job, i, u, at, n, g, of_second);
      float eps = own->eps, total = 0, *restrict w = weighted[u];
#pragma omp simd reduction(+ : total)
      for (int64_t k = 0; k < n; k++) {
        float r = 1.0f / adam_denominator(v[k], scale[u], eps, rootless);
        total += r;
        w[k] = r * g[k];
      }
      sums[job->K + u] += total;
    }
    adam_fetch_next(job, i, at + TILE, end);
    for (int64_t j = 0; j < job->K; j++)
      sums[j] += dot(weighted[own->second[j]], adam_first(job, i, j, at, n, g, of_first), n);
  }
}

/* Scales the buffers of n elements from at, where a reset is due. */
static void adam_reset(const struct job *job, int64_t i, int64_t at, int64_t n, float *scratch) {
  const struct adam_numbers *own = job->own;
  scale_firsts(job, i, at, n, scratch);
  for (int64_t u = 0; u < job->seconds && own->second_reset != 1; u++)
    scale(second_of(job, i, u) + at * size_of(job->second_dtype), job->second_dtype, n, own->second_reset, scratch);
}

/* Steps elements [begin, end) of fragment i by candidate j; then scales the buffers, if a reset is due. */
static void adam_apply(const struct job *job, int64_t i, int64_t begin, int64_t end, int64_t j, const float *known,
                       int reset) {
  const struct adam_numbers *own = job->own;
  float of_value[APPLY_TILE], of_first[APPLY_TILE], of_second[APPLY_TILE], more[APPLY_TILE];
  char *value = value_of(job, i), *grad = grad_of(job, i), *second = second_of(job, i, own->second[j]);
  float keep = own->keep, eps = own->eps, rate = known[0], scale = known[1];
  int64_t wide = size_of(job->value_dtype);
  int rootless = is_rootless(job);
  for (int64_t at = begin; at < end; at += APPLY_TILE) {
    int64_t n = end - at < APPLY_TILE ? end - at : APPLY_TILE;
    void *stored = value + at * wide;
    const float *restrict m =
        is_kept(job, j) ? load(first_of(job, i, j) + at * size_of(job->first_dtype), job->first_dtype, n, of_first)
                        : filtered(job, stored, grad + at * wide, n, of_first, more);
    float *restrict p = load(stored, job->value_dtype, n, of_value);
    const float *restrict v = load(second + at * size_of(job->second_dtype), job->second_dtype, n, of_second);
    for (int64_t k = 0; k < n; k++) p[k] = p[k] * keep - rate * (m[k] / adam_denominator(v[k], scale, eps, rootless));
    store(stored, job->value_dtype, n, p);
    if (reset) adam_reset(job, i, at, n, of_first);
  }
}

/* p <- p * keep - total / denominator, total the sum of rate * m over the candidates with second moment u. Few loops:
   going through the arrays once more costs more than what is computed. */
static void adam_move(const struct job *job, int64_t u, float *restrict p, const float *const *m, const float *rate,
                      const float *restrict v, int64_t n, float keep, float scale, float *total) {
  const struct adam_numbers *own = job->own;
  float eps = own->eps;
  int rootless = is_rootless(job);
  int64_t of[job->K], count = 0;
  for (int64_t j = 0; j < job->K; j++)
    if (own->second[j] == u) of[count++] = j;
  const float *one = m[of[0]], *other = m[of[count - 1]];
  float first = rate[of[0]], last = rate[of[count - 1]];
  if (count == 1) {
    for (int64_t k = 0; k < n; k++) p[k] = p[k] * keep - first * one[k] / adam_denominator(v[k], scale, eps, rootless);
    return;
  }
  for (int64_t c = 1; c < count - 1; c++) {
    const float *next = m[of[c]];
    for (int64_t k = 0; k < n; k++) total[k] = first * one[k] + rate[of[c]] * next[k];
    one = total, first = 1;
  }
  for (int64_t k = 0; k < n; k++)
    p[k] = p[k] * keep - (first * one[k] + last * other[k]) / adam_denominator(v[k], scale, eps, rootless);
}

/* Steps elements [begin, end) of fragment i by the weighted sum of all candidates; then scales the buffers, if a reset is
   due. */
static void adam_mix(const struct job *job, int64_t i, int64_t begin, int64_t end, const float *known, int reset) {
  const struct adam_numbers *own = job->own;
  float of_value[TILE], of_grad[TILE], of_first[job->K][TILE], of_second[TILE], more[TILE];
  const float *m[job->K];
  int64_t wide = size_of(job->value_dtype);
  for (int64_t at = begin; at < end; at += TILE) {
    int64_t n = end - at < TILE ? end - at : TILE;
    void *stored = value_of(job, i) + at * wide;
    const float *g = NULL;
    for (int64_t j = 0; j < job->K; j++) {
      if (is_kept(job, j))
        m[j] = load(first_of(job, i, j) + at * size_of(job->first_dtype), job->first_dtype, n, of_first[j]);
      else
        m[j] = g = g ? g : filtered(job, stored, grad_of(job, i) + at * wide, n, of_grad, more);
    }
    float *p = load(stored, job->value_dtype, n, of_value), keep = own->keep;
    for (int64_t u = 0; u < job->seconds; u++, keep = 1) {
      void *v = second_of(job, i, u) + at * size_of(job->second_dtype);
      adam_move(job, u, p, m, known, load(v, job->second_dtype, n, of_second), n, keep, known[job->K + u], more);
    }
    store(stored, job->value_dtype, n, p);
    if (reset) adam_reset(job, i, at, n, of_first[0]);
  }
}

/* Updates the moments of elements [begin, end) of fragment i, and steps by the weighted sum of all candidates. */
static void adam_step_constant(const struct job *job, int64_t i, int64_t begin, int64_t end, const float *known) {
  const struct adam_numbers *own = job->own;
  float of_value[TILE], of_grad[TILE], of_first[job->K][TILE], of_second[TILE], more[TILE];
  const float *m[job->K];
  int64_t wide = size_of(job->value_dtype);
  for (int64_t at = begin; at < end; at += TILE) {
    int64_t n = end - at < TILE ? end - at : TILE;
    fetch_firsts_ahead(job, i, at, n);
    void *stored = value_of(job, i) + at * wide;
    const float *g = filtered(job, stored, grad_of(job, i) + at * wide, n, of_grad, more);
    for (int64_t j = 0; j < job->K; j++) m[j] = adam_first(job, i, j, at, n, g, of_first[j]);
    float *p = load(stored, job->value_dtype, n, of_value), keep = own->keep;
    for (int64_t u = 0; u < job->seconds; u++, keep = 1) {
      const float *v = adam_second(job, i, u, at, n, g, of_second);
      adam_move(job, u, p, m, known, v, n, keep, known[job->K + u], more);
    }
    store(stored, job->value_dtype, n, p);
    adam_fetch_next(job, i, at + TILE, end);
  }
}

/* J of one parameter from its sums. */
static void adam_score(const struct job *job, const double *sums, int64_t numel, double *J) {
  const struct adam_numbers *own = job->own;
  for (int64_t j = 0; j < job->K; j++)
    J[j] = numel ? job->gain[j] * sums[j] / sqrt(sums[job->K + own->second[j]] / numel) : 0;
}
