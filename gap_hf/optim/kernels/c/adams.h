/* Adams: K first moments, a second moment and u, the left vector of the power iteration (adams_power.h). Formulas:
   families/adams.py. */

#include "adams_power.h"

static int64_t adams_sums(const struct job *job) { return 2 * job->K + 1; }

/* K rates, K factors of the moments before the angle, and those of the second moments. */
static int64_t adams_known(const struct job *job) { return 2 * job->K + 1; }

static void adams_before_observe(const struct job *job, int64_t i, float *known) {
  const struct adams_numbers *own = job->own;
  double t = step_of(job, i);
  for (int64_t j = 0; j < job->K; j++) known[job->K + j] = own->inside ? 1 / (1 - pow(own->betas[j], t)) : 1;
  known[2 * job->K] = 1 / (1 - pow(own->beta2, t));
}

static void adams_before_mix(const struct job *job, int64_t i, const double *weights, float *known) {
  const struct adams_numbers *own = job->own;
  adams_before_observe(job, i, known);
  for (int64_t j = 0; j < job->K; j++) {
    double outside = own->inside ? 1 : 1 - pow(own->betas[j], step_of(job, i));
    known[j] = job->rate[j] * weights[j] / outside;
  }
}

static void adams_before_apply(const struct job *job, int64_t i, int64_t j, float *known) {
  double weights[job->K];
  for (int64_t c = 0; c < job->K; c++) weights[c] = c == j;
  adams_before_mix(job, i, weights, known);
}

/* atan2(m, s) for s >= 0. The polynomial interpolates atan(x) / x in x^2 at Chebyshev's points of [0, 1]: its relative
   error is 1.2e-7 at most. Infinite / infinite is a right angle's half, as in C's own function; NaN stays. */
static inline float angle(float m, float s) {
  float a = fabsf(m), low = s < a ? s : a, high = s < a ? a : s;
  float x = low / (high == 0 ? 1 : high);
  x = low == high && high > 0 ? 1 : x;
  float y = x * x, r = -0.00170117011f;
  r = r * y + 0.0104876496f;
  r = r * y - 0.030351866f;
  r = r * y + 0.057089556f;
  r = r * y - 0.0834972486f;
  r = r * y + 0.109323412f;
  r = r * y - 0.142600164f;
  r = r * y + 0.199980751f;
  r = r * y - 0.333332777f;
  r = (r * y + 1) * x;
  r = s < a ? 1.57079633f - r : r;
  return copysignf(r, m);
}

/* Updates the second moments of n elements from at by their gradients; root: of them, corrected for their bias. */
static void adams_roots(const struct job *job, int64_t i, int64_t at, int64_t n, const float *restrict g,
                        float correction, float *restrict root) {
  const struct adams_numbers *own = job->own;
  float *restrict v = (float *)second_of(job, i, 0) + at, beta2 = own->beta2, rest = 1 - own->beta2;
  for (int64_t k = 0; k < n; k++) {
    v[k] = v[k] * beta2 + rest * g[k] * g[k];
    root[k] = sqrtf(v[k] * correction);
  }
}

static float *adams_first(const struct job *job, int64_t i, int64_t j, int64_t at, int64_t n, const float *restrict g) {
  const struct adams_numbers *own = job->own;
  float *restrict m = (float *)first_of(job, i, j) + at, rest = 1 - own->betas[j];
  for (int64_t k = 0; k < n; k++) m[k] += rest * (g[k] - m[k]);
  return m;
}

/* Updates the moments of elements [begin, end) of fragment i; sums: K of g theta_j, K of theta_j / m_j, and how many
   elements have had a gradient. */
static void adams_observe(const struct job *job, int64_t i, int64_t begin, int64_t end, const float *known,
                          double *sums) {
  float of_grad[TILE], root[TILE];
  int64_t wide = size_of(job->value_dtype), K = job->K;
  memset(sums, 0, adams_sums(job) * sizeof(double));
  for (int64_t at = begin; at < end; at += TILE) {
    int64_t n = end - at < TILE ? end - at : TILE;
    const float *restrict g = filtered(job, NULL, grad_of(job, i) + at * wide, n, of_grad, NULL);
    adams_roots(job, i, at, n, g, known[2 * K], root);
    float live = 0;
#pragma omp simd reduction(+ : live)
    for (int64_t k = 0; k < n; k++) live += root[k] > 0 ? 1.0f : 0.0f;
    sums[2 * K] += live;
    for (int64_t j = 0; j < K; j++) {
      const float *restrict m = adams_first(job, i, j, at, n, g);
      float factor = known[K + j], uphill = 0, slopes = 0;
#pragma omp simd reduction(+ : uphill, slopes)
      for (int64_t k = 0; k < n; k++) {
        float moment = m[k] * factor, theta = angle(moment, root[k]);
        float slope = moment == 0 ? 1 / root[k] : theta / moment;
        uphill += g[k] * theta;
        slopes += root[k] > 0 ? slope : 0;
      }
      sums[j] += uphill;
      sums[K + j] += slopes;
    }
  }
}

/* Decays n elements from at, and steps them by candidates [from, to), each at its rate. */
static void adams_move(const struct job *job, int64_t i, int64_t at, int64_t n, int64_t from, int64_t to,
                       const float *restrict root, const float *known) {
  const struct adams_numbers *own = job->own;
  float of_value[APPLY_TILE];
  void *stored = value_of(job, i) + at * size_of(job->value_dtype);
  float *restrict p = load(stored, job->value_dtype, n, of_value);
  if (own->first_box[i] < own->first_box[i + 1])
    adams_spectral_decay(job, i, at, n, p);
  else {
    float keep = 1 - own->vector_decay;
    for (int64_t k = 0; k < n; k++) p[k] *= keep;
  }
  for (int64_t j = from; j < to; j++) {
    const float *restrict m = (float *)first_of(job, i, j) + at;
    float rate = known[j], factor = known[job->K + j];
    if (rate != 0)
      for (int64_t k = 0; k < n; k++) p[k] -= rate * angle(m[k] * factor, root[k]);
  }
  store(stored, job->value_dtype, n, p);
}

static void adams_steps(const struct job *job, int64_t i, int64_t begin, int64_t end, int64_t from, int64_t to,
                        const float *known, int reset) {
  float root[APPLY_TILE], correction = known[2 * job->K];
  for (int64_t at = begin; at < end; at += APPLY_TILE) {
    int64_t n = end - at < APPLY_TILE ? end - at : APPLY_TILE;
    const float *restrict v = (float *)second_of(job, i, 0) + at;
    for (int64_t k = 0; k < n; k++) root[k] = sqrtf(v[k] * correction);
    adams_move(job, i, at, n, from, to, root, known);
    if (reset) scale_firsts(job, i, at, n);
  }
}

static void adams_apply(const struct job *job, int64_t i, int64_t begin, int64_t end, int64_t j, const float *known,
                        int reset) {
  adams_steps(job, i, begin, end, j, j + 1, known, reset);
}

static void adams_mix(const struct job *job, int64_t i, int64_t begin, int64_t end, const float *known, int reset) {
  adams_steps(job, i, begin, end, 0, job->K, known, reset);
}

/* All of a step, once the power iteration is done. */
static void adams_step_constant(const struct job *job, int64_t i, int64_t begin, int64_t end, const float *known) {
  float of_grad[TILE], root[TILE];
  int64_t wide = size_of(job->value_dtype);
  for (int64_t at = begin; at < end; at += TILE) {
    int64_t n = end - at < TILE ? end - at : TILE;
    const float *g = filtered(job, NULL, grad_of(job, i) + at * wide, n, of_grad, NULL);
    adams_roots(job, i, at, n, g, known[2 * job->K], root);
    for (int64_t j = 0; j < job->K; j++) adams_first(job, i, j, at, n, g);
    adams_move(job, i, at, n, 0, job->K, root, known);
  }
}

/* J of one parameter from its sums. */
static void adams_score(const struct job *job, const double *sums, int64_t numel, double *J) {
  int64_t K = job->K;
  (void)numel;
  for (int64_t j = 0; j < K; j++)
    J[j] = sums[2 * K] > 0 ? job->gain[j] * sums[j] / sqrt(sums[K + j] / sums[2 * K]) : 0;
}
