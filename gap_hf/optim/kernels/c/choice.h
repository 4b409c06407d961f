/* The choice by the best score, with hysteresis: choice.py in C, for steps that are one call. */

#ifndef GAP_CHOICE_H
#define GAP_CHOICE_H

#include <math.h>

#include "job.h"

static int all_finite(const double *J, int64_t K) {
  for (int64_t j = 0; j < K; j++)
    if (!isfinite(J[j])) return 0;
  return 1;
}

/* By averaged, counting by J, all finite: choice and count of negative steps in and out. Returns whether a reset is
   due. */
static int choose(const struct job *job, const double *J, const double *averaged, int64_t *choice, int64_t *negative) {
  double largest = averaged[0];
  for (int64_t j = 1; j < job->K; j++) largest = averaged[j] > largest ? averaged[j] : largest;
  volatile double slack = job->tie * fabs(largest); /* rounded as in Python, not fused with the subtraction */
  *choice = 0;
  while (averaged[*choice] < largest - slack) ++*choice;
  *negative = J[*choice] < 0 ? *negative + 1 : 0;
  int reset = *negative >= job->threshold;
  if (reset) *negative = 0;
  return reset;
}

/* A parameter's own choice. Where a score is not finite the previous one stands, and nothing is counted. */
static int choose_for_one(const struct job *job, const double *J, int64_t *choice, int64_t *negative) {
  return all_finite(J, job->K) ? choose(job, J, J, choice, negative) : 0;
}

/* One choice for all, from their scores added up in J; the moving average J_bar in and out. */
static int choose_for_all(const struct job *job, const double *J, double *J_bar, int64_t *choice, int64_t *negative) {
  if (!all_finite(J, job->K)) return 0;
  for (int64_t j = 0; j < job->K; j++) J_bar[j] = job->J_ema ? job->J_ema * J_bar[j] + (1 - job->J_ema) * J[j] : J[j];
  return choose(job, J, J_bar, choice, negative);
}

#endif
