/* The SGDM family: K momentum buffers. Formulas: families/sgdm.py. */

#include "job.h"

struct sgdm_numbers {
  const double *momentum; /* K */
  double dampening;
  int64_t nesterov;
};

static int64_t sgdm_sums(const struct job *job) { return job->K; }

static int64_t sgdm_known(const struct job *job) { return job->K; }

static void sgdm_before_observe(const struct job *job, int64_t i, float *known) {
  (void)job, (void)i, (void)known;
}

static void sgdm_before_apply(const struct job *job, int64_t i, int64_t j, float *known) {
  (void)i;
  known[0] = job->rate[j];
}

static void sgdm_before_mix(const struct job *job, int64_t i, const double *weights, float *known) {
  (void)i;
  for (int64_t j = 0; j < job->K; j++) known[j] = job->rate[j] * weights[j];
}

/* What the buffer of a candidate without momentum would hold after this step. */
static const float *undelayed(const struct job *job, int64_t i, const float *g, int64_t n, float *scratch) {
  const struct sgdm_numbers *own = job->own;
  if (own->dampening == 0 || step_of(job, i) == 1) return g;
  float rest = 1 - own->dampening;
  for (int64_t k = 0; k < n; k++) scratch[k] = rest * g[k];
  return scratch;
}

/* Updates the buffer of candidate j by n gradients from at, and returns it as it is stored. */
static const float *sgdm_first(const struct job *job, int64_t i, int64_t j, int64_t at, int64_t n, const float *g,
                               float *scratch) {
  const struct sgdm_numbers *own = job->own;
  if (!is_kept(job, j)) return undelayed(job, i, g, n, scratch);
  void *stored = first_of(job, i, j) + at * size_of(job->first_dtype);
  float *m = load(stored, job->first_dtype, n, scratch);
  double t = step_of(job, i);
  if (t == 1)
    memcpy(m, g, n * sizeof(float));
  else {
    float momentum = own->momentum[j], rest = 1 - own->dampening;
    for (int64_t k = 0; k < n; k++) m[k] = m[k] * momentum + rest * g[k];
  }
  store_first(job, stored, g, m, n, j, t);
  return m;
}

/* Updates the buffers of elements [begin, end) of fragment i; sums: K of g buf_j. */
static void sgdm_observe(const struct job *job, int64_t i, int64_t begin, int64_t end, const float *known,
                         double *sums) {
  float of_grad[TILE], of_value[TILE], of_first[TILE];
  int64_t wide = size_of(job->value_dtype);
  (void)known;
  memset(sums, 0, job->K * sizeof(double));
  for (int64_t at = begin; at < end; at += TILE) {
    int64_t n = end - at < TILE ? end - at : TILE;
    fetch_firsts_ahead(job, i, at, n);
    const float *g = filtered(job, value_of(job, i) + at * wide, grad_of(job, i) + at * wide, n, of_grad, of_value);
    int64_t next = at + TILE, ahead = end - next < TILE ? end - next : TILE; /* none, if negative */
    fetch_ahead(grad_of(job, i) + next * wide, ahead, job->value_dtype);
    for (int64_t j = 0; j < job->K; j++) sums[j] += dot(g, sgdm_first(job, i, j, at, n, g, of_first), n);
  }
}

/* p <- p - rate * m or, with nesterov, p - rate * (g + momentum * m). */
static void sgdm_move(const struct job *job, int64_t j, float *restrict p, const float *restrict m,
                      const float *restrict g, int64_t n, float rate) {
  const struct sgdm_numbers *own = job->own;
  float momentum = own->momentum[j];
  if (own->nesterov)
    for (int64_t k = 0; k < n; k++) p[k] = p[k] - rate * (g[k] + momentum * m[k]);
  else
    for (int64_t k = 0; k < n; k++) p[k] = p[k] - rate * m[k];
}

/* Steps elements [begin, end) of fragment i by candidates [from, to), each at its rate in known; then scales the buffers,
   if a reset is due. */
static void sgdm_steps(const struct job *job, int64_t i, int64_t begin, int64_t end, int64_t from, int64_t to,
                       const float *known, int reset) {
  const struct sgdm_numbers *own = job->own;
  float of_grad[APPLY_TILE], of_value[APPLY_TILE], more[APPLY_TILE], of_first[APPLY_TILE];
  char *value = value_of(job, i), *grad = grad_of(job, i);
  int64_t wide = size_of(job->value_dtype);
  int needs_grad = own->nesterov != 0;
  for (int64_t j = from; j < to; j++) needs_grad |= !is_kept(job, j);
  for (int64_t at = begin; at < end; at += APPLY_TILE) {
    int64_t n = end - at < APPLY_TILE ? end - at : APPLY_TILE;
    void *stored = value + at * wide;
    /* with an L2 term it depends on the values, so it must be had before they move */
    const float *g = needs_grad ? filtered(job, stored, grad + at * wide, n, of_grad, more) : NULL;
    float *p = load(stored, job->value_dtype, n, of_value);
    for (int64_t j = from; j < to; j++) {
      void *m = is_kept(job, j) ? first_of(job, i, j) + at * size_of(job->first_dtype) : NULL;
      sgdm_move(job, j, p, m ? load(m, job->first_dtype, n, of_first) : undelayed(job, i, g, n, of_first), g, n,
                known[j - from]);
    }
    store(stored, job->value_dtype, n, p);
    if (reset) scale_firsts(job, i, at, n);
  }
}

static void sgdm_apply(const struct job *job, int64_t i, int64_t begin, int64_t end, int64_t j, const float *known,
                       int reset) {
  sgdm_steps(job, i, begin, end, j, j + 1, known, reset);
}

static void sgdm_mix(const struct job *job, int64_t i, int64_t begin, int64_t end, const float *known, int reset) {
  sgdm_steps(job, i, begin, end, 0, job->K, known, reset);
}

/* Updates the buffers of elements [begin, end) of fragment i, and steps by the weighted sum of all candidates. */
static void sgdm_step_constant(const struct job *job, int64_t i, int64_t begin, int64_t end, const float *known) {
  float of_grad[TILE], of_value[TILE], of_first[TILE], more[TILE];
  int64_t wide = size_of(job->value_dtype);
  for (int64_t at = begin; at < end; at += TILE) {
    int64_t n = end - at < TILE ? end - at : TILE;
    void *stored = value_of(job, i) + at * wide;
    fetch_firsts_ahead(job, i, at, n);
    const float *g = filtered(job, stored, grad_of(job, i) + at * wide, n, of_grad, more);
    float *p = load(stored, job->value_dtype, n, of_value);
    for (int64_t j = 0; j < job->K; j++)
      sgdm_move(job, j, p, sgdm_first(job, i, j, at, n, g, of_first), g, n, known[j]);
    store(stored, job->value_dtype, n, p);
  }
}

/* J of one parameter from its sums. */
static void sgdm_score(const struct job *job, const double *sums, int64_t numel, double *J) {
  for (int64_t j = 0; j < job->K; j++) J[j] = numel ? job->gain[j] * sums[j] : 0;
}
