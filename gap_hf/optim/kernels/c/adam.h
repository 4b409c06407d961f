/* The Adam family: K first moments, and a second moment for each distinct beta2. Formulas: families/adam.py. */

#include <math.h>

#include "job.h"

struct adam_numbers {
  const int64_t *second; /* K: which second moment a candidate uses */
  const double *beta1;   /* K */
  const double *beta2;   /* U */
  double eps, keep;      /* keep: 1 - lr * decay where it is decoupled */
  double second_reset;
};

/* What a thread works out once per fragment: for the first pass 1 - beta2^t of each second moment, for the second one
   lr / (1 - beta1^t) and sqrt(1 - beta2^t) of the candidate. */
#define ADAM_U(job) ((job)->buffers - (job)->K)

static int64_t adam_sums(const struct job *job) { return job->buffers; }

static int64_t adam_known(const struct job *job) { return ADAM_U(job) > 2 ? ADAM_U(job) : 2; }

static void adam_before_observe(const struct job *job, int64_t i, float *known) {
  const struct adam_numbers *own = job->own;
  for (int64_t u = 0; u < ADAM_U(job); u++) known[u] = 1 - pow(own->beta2[u], step_of(job, i));
}

static void adam_before_apply(const struct job *job, int64_t i, int64_t j, float *known) {
  const struct adam_numbers *own = job->own;
  float rate = job->rate[j];
  rate /= 1 - pow(own->beta1[j], step_of(job, i));
  known[0] = rate;
  known[1] = sqrt(1 - pow(own->beta2[own->second[j]], step_of(job, i)));
}

/* x <- x + weight * (y - x), in the form that torch.lerp takes. */
static void lerp(float *restrict x, const float *restrict y, int64_t n, float weight) {
  if (weight < 0.5f)
    for (int64_t i = 0; i < n; i++) x[i] = x[i] + weight * (y[i] - x[i]);
  else
    for (int64_t i = 0; i < n; i++) x[i] = y[i] - (y[i] - x[i]) * (1 - weight);
}

/* Updates the moments of elements [begin, end) of fragment i; sums: K of g r m_j, then U of r. */
static void adam_observe(const struct job *job, int64_t i, int64_t begin, int64_t end, const float *correction,
                         double *sums) {
  const struct adam_numbers *own = job->own;
  float of_grad[TILE], of_value[TILE], of_first[TILE], of_second[TILE];
  char *value = value_of(job, i), *grad = grad_of(job, i);
  double t = step_of(job, i);
  int64_t U = ADAM_U(job), wide = size_of(job->value_dtype);
  float weighted[U][TILE];
  memset(sums, 0, job->buffers * sizeof(double));
  for (int64_t at = begin; at < end; at += TILE) {
    int64_t n = end - at < TILE ? end - at : TILE;
    for (int64_t j = 0; j < job->K; j++)
      fetch_ahead(first_of(job, i, j) + at * size_of(job->first_dtype), n, job->first_dtype);
    const float *g = filtered(job, value + at * wide, grad + at * wide, n, of_grad, of_value);
    for (int64_t u = 0; u < U; u++) {
      void *stored = second_of(job, i, u) + at * size_of(job->second_dtype);
      float *v = load(stored, job->second_dtype, n, of_second);
      float beta2 = own->beta2[u], rest = 1 - own->beta2[u];
      for (int64_t k = 0; k < n; k++) v[k] = v[k] * beta2 + rest * g[k] * g[k];
      store(stored, job->second_dtype, n, v);
      float eps = own->eps, *restrict w = weighted[u];
      float total = 0;
#pragma omp simd reduction(+ : total)
      for (int64_t k = 0; k < n; k++) {
        float r = 1.0f / (sqrtf(v[k] / correction[u]) + eps);
        total += r;
        w[k] = r * g[k];
      }
      sums[job->K + u] += total;
    }
    int64_t next = at + TILE, ahead = end - next < TILE ? end - next : TILE; /* none, if negative */
    fetch_ahead(grad + next * wide, ahead, job->value_dtype);
    for (int64_t u = 0; u < U; u++)
      fetch_ahead(second_of(job, i, u) + next * size_of(job->second_dtype), ahead, job->second_dtype);
    for (int64_t j = 0; j < job->K; j++) {
      void *stored = first_of(job, i, j) + at * size_of(job->first_dtype);
      float *m = load(stored, job->first_dtype, n, of_first);
      lerp(m, g, n, 1 - own->beta1[j]);
      store_first(job, stored, g, m, n, j, t);
      sums[j] += dot(weighted[own->second[j]], m, n);
    }
  }
}

/* Steps elements [begin, end) of fragment i by candidate j; then scales the buffers, if a reset is due. */
static void adam_apply(const struct job *job, int64_t i, int64_t begin, int64_t end, int64_t j, const float *known,
                       int reset) {
  const struct adam_numbers *own = job->own;
  float of_value[APPLY_TILE], of_first[APPLY_TILE], of_second[APPLY_TILE];
  char *value = value_of(job, i), *first = first_of(job, i, j), *second = second_of(job, i, own->second[j]);
  float keep = own->keep, eps = own->eps, rate = known[0], root = known[1];
  for (int64_t at = begin; at < end; at += APPLY_TILE) {
    int64_t n = end - at < APPLY_TILE ? end - at : APPLY_TILE;
    void *stored = value + at * size_of(job->value_dtype);
    float *restrict p = load(stored, job->value_dtype, n, of_value);
    const float *restrict m = load(first + at * size_of(job->first_dtype), job->first_dtype, n, of_first);
    const float *restrict v = load(second + at * size_of(job->second_dtype), job->second_dtype, n, of_second);
    for (int64_t k = 0; k < n; k++) p[k] = p[k] * keep - rate * (m[k] / (sqrtf(v[k]) / root + eps));
    store(stored, job->value_dtype, n, p);
    if (!reset) continue;
    for (int64_t c = 0; c < job->K; c++)
      scale(first_of(job, i, c) + at * size_of(job->first_dtype), job->first_dtype, n, job->soft_reset, of_first);
    for (int64_t u = 0; u < ADAM_U(job) && own->second_reset != 1; u++)
      scale(second_of(job, i, u) + at * size_of(job->second_dtype), job->second_dtype, n, own->second_reset, of_second);
  }
}

/* J of one parameter from its sums. */
static void adam_score(const struct job *job, const double *sums, int64_t numel, double *J) {
  const struct adam_numbers *own = job->own;
  for (int64_t j = 0; j < job->K; j++)
    J[j] = numel ? job->gain[j] * sums[j] / sqrt(sums[job->K + own->second[j]] / numel) : 0;
}
