/* What a call is told: a list of fragments with the same options and dtypes. */

#ifndef GAP_JOB_H
#define GAP_JOB_H

#include "numbers.h"

#define BLOCK 4096
/* Elements of one array before the next array's turn in the first pass. Long tiles leave the memory idle while they are
   computed; in short ones loads meet stores that are still on their way at the same place of another page, which
   processors mistake for the same address (buffers of one parameter often lie so). 512, with the next arrays fetched
   ahead, was the best of 64 to 2048. The second pass goes through all arrays in one loop. */
#define TILE 512
#define APPLY_TILE 1024
#define CACHED (1 << 19) /* elements whose arrays, some 10 MB, stay in the last cache from one pass to the next */

/* Mirrored by Job in fused_cpu.py. */
struct job {
  int64_t n, K, firsts, seconds, threads; /* K candidates, of which some have a first moment; the other buffers */
  int64_t value_dtype, first_dtype, second_dtype; /* of the values and gradients, the first moments, the other buffers */
  int64_t stochastic;      /* round first moments to bfloat16 stochastically */
  char *const *table;      /* columns of n addresses: value, step, first moments, the other buffers, grad */
  const int64_t *first;    /* K: a candidate's place among the first moments, -1 where it is the gradient itself */
  const int64_t *numel;    /* n */
  const double *rate;      /* K: learning rate, with lr_modulation's gain */
  const double *gain;      /* K: factor of the score */
  const double *constant;  /* K: weights of a mix, where scores say nothing or are not asked */
  int64_t mixes;           /* whether the choice is one of weights */
  double l2, soft_reset;   /* l2: the decay where it is not decoupled */
  int64_t maximize;        /* take the gradient with the other sign */
  int64_t threshold;       /* hysteresis */
  double J_ema, tie;       /* step_for_all; how close to the largest score counts as equal, relatively */
  const void *own;         /* the family's numbers */
  int64_t follows;         /* whether the second pass over a fragment follows while it is in the cache */
};

static char *value_of(const struct job *job, int64_t i) { return job->table[i]; }
static double step_of(const struct job *job, int64_t i) { return *(double *)job->table[job->n + i]; }
static int is_kept(const struct job *job, int64_t j) { return job->first[j] >= 0; }
static char *first_of(const struct job *job, int64_t i, int64_t j) {
  return job->table[(2 + job->first[j]) * job->n + i];
}
static char *second_of(const struct job *job, int64_t i, int64_t u) {
  return job->table[(2 + job->firsts + u) * job->n + i];
}
static char *grad_of(const struct job *job, int64_t i) {
  return job->table[(2 + job->firsts + job->seconds) * job->n + i];
}

/* The gradient that enters the filter. */
static const float *filtered(const struct job *job, void *value, void *grad, int64_t n, float *scratch, float *more) {
  const float *g = load(grad, job->value_dtype, n, scratch);
  if (job->maximize) {
    for (int64_t i = 0; i < n; i++) scratch[i] = -g[i];
    g = scratch;
  }
  if (job->l2 == 0) return g;
  const float *p = load(value, job->value_dtype, n, more);
  float l2 = job->l2;
  for (int64_t i = 0; i < n; i++) scratch[i] = g[i] + l2 * p[i];
  return scratch;
}

/* The new first moment j back to where it is stored, so that m holds the values as they are stored. */
static void store_first(const struct job *job, void *stored, const float *g, float *m, int64_t n, int64_t j, double t) {
  if (job->stochastic)
    store_stochastic(stored, n, g, m, t, j);
  else
    store(stored, job->first_dtype, n, m);
}

/* Scales the first moments of n elements from at. */
static void scale_firsts(const struct job *job, int64_t i, int64_t at, int64_t n) {
  for (int64_t c = 0; c < job->K; c++)
    if (is_kept(job, c))
      scale(first_of(job, i, c) + at * size_of(job->first_dtype), job->first_dtype, n, job->soft_reset);
}

static void fetch_firsts_ahead(const struct job *job, int64_t i, int64_t at, int64_t n) {
  for (int64_t j = 0; j < job->K; j++)
    if (is_kept(job, j)) fetch_ahead(first_of(job, i, j) + at * size_of(job->first_dtype), n, job->first_dtype);
}

#endif
