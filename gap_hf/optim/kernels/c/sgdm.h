/* The SGDM family: K momentum buffers. Formulas: families/sgdm.py. */

#include "job.h"

struct sgdm_numbers {
  const double *momentum; /* K */
  double dampening;
  int64_t nesterov;
};

static int64_t sgdm_sums(const struct job *job) { return job->K; }

static int64_t sgdm_known(const struct job *job) {
  (void)job;
  return 1;
}

static void sgdm_before_observe(const struct job *job, int64_t i, float *known) {
  (void)job, (void)i, (void)known;
}

static void sgdm_before_apply(const struct job *job, int64_t i, int64_t j, float *known) {
  (void)i;
  known[0] = job->rate[j];
}

/* Updates the buffers of elements [begin, end) of fragment i; sums: K of g buf_j. */
static void sgdm_observe(const struct job *job, int64_t i, int64_t begin, int64_t end, const float *known,
                         double *sums) {
  const struct sgdm_numbers *own = job->own;
  float of_grad[TILE], of_value[TILE], of_first[TILE];
  char *value = value_of(job, i), *grad = grad_of(job, i);
  double t = step_of(job, i);
  int64_t wide = size_of(job->value_dtype);
  (void)known;
  memset(sums, 0, job->K * sizeof(double));
  for (int64_t at = begin; at < end; at += TILE) {
    int64_t n = end - at < TILE ? end - at : TILE;
    for (int64_t j = 0; j < job->K; j++)
      fetch_ahead(first_of(job, i, j) + at * size_of(job->first_dtype), n, job->first_dtype);
    const float *g = filtered(job, value + at * wide, grad + at * wide, n, of_grad, of_value);
    int64_t next = at + TILE, ahead = end - next < TILE ? end - next : TILE; /* none, if negative */
    fetch_ahead(grad + next * wide, ahead, job->value_dtype);
    for (int64_t j = 0; j < job->K; j++) {
      void *stored = first_of(job, i, j) + at * size_of(job->first_dtype);
      float *m = load(stored, job->first_dtype, n, of_first);
      if (t == 1)
        memcpy(m, g, n * sizeof(float));
      else {
        float momentum = own->momentum[j], rest = 1 - own->dampening;
        for (int64_t k = 0; k < n; k++) m[k] = m[k] * momentum + rest * g[k];
      }
      store_first(job, stored, g, m, n, j, t);
      sums[j] += dot(g, m, n);
    }
  }
}

/* Steps elements [begin, end) of fragment i by candidate j; then scales the buffers, if a reset is due. */
static void sgdm_apply(const struct job *job, int64_t i, int64_t begin, int64_t end, int64_t j, const float *known,
                       int reset) {
  const struct sgdm_numbers *own = job->own;
  float of_grad[APPLY_TILE], of_value[APPLY_TILE], more[APPLY_TILE], of_first[APPLY_TILE];
  char *value = value_of(job, i), *grad = grad_of(job, i), *first = first_of(job, i, j);
  float rate = known[0], momentum = own->momentum[j];
  int64_t wide = size_of(job->value_dtype);
  for (int64_t at = begin; at < end; at += APPLY_TILE) {
    int64_t n = end - at < APPLY_TILE ? end - at : APPLY_TILE;
    void *stored = value + at * wide;
    float *restrict p = load(stored, job->value_dtype, n, of_value);
    const float *restrict m = load(first + at * size_of(job->first_dtype), job->first_dtype, n, of_first);
    if (own->nesterov) {
      const float *restrict g = filtered(job, stored, grad + at * wide, n, of_grad, more);
      for (int64_t k = 0; k < n; k++) p[k] = p[k] - rate * (g[k] + momentum * m[k]);
    } else
      for (int64_t k = 0; k < n; k++) p[k] = p[k] - rate * m[k];
    store(stored, job->value_dtype, n, p);
    for (int64_t c = 0; reset && c < job->K; c++)
      scale(first_of(job, i, c) + at * size_of(job->first_dtype), job->first_dtype, n, job->soft_reset, of_first);
  }
}

/* J of one parameter from its sums. */
static void sgdm_score(const struct job *job, const double *sums, int64_t numel, double *J) {
  for (int64_t j = 0; j < job->K; j++) J[j] = numel ? job->gain[j] * sums[j] : 0;
}
