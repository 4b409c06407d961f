/* The choice, with hysteresis: choice.py and the rules Best and Mix in C, for steps that are one call. */

#ifndef GAP_CHOICE_H
#define GAP_CHOICE_H

#include <math.h>

#include "job.h"

static int all_finite(const double *J, int64_t K) {
  for (int64_t j = 0; j < K; j++)
    if (!isfinite(J[j])) return 0;
  return 1;
}

static double largest_of(const double *x, int64_t K) {
  double largest = x[0];
  for (int64_t j = 1; j < K; j++) largest = x[j] > largest ? x[j] : largest;
  return largest;
}

/* The candidate with the largest score, the first of them in a tie. */
static int64_t best(const struct job *job, const double *scores) {
  double largest = largest_of(scores, job->K);
  volatile double slack = job->tie * fabs(largest); /* rounded as in Python, not fused with the subtraction */
  int64_t j = 0;
  while (scores[j] < largest - slack) j++;
  return j;
}

/* Weights proportional to the positive scores; the constant ones if there are none. */
static void weigh(const struct job *job, const double *scores, double *weights) {
  double largest = largest_of(scores, job->K), total = 0;
  for (int64_t j = 0; j < job->K; j++) {
    weights[j] = scores[j] > 0 ? scores[j] / largest : 0;
    total += weights[j];
  }
  for (int64_t j = 0; j < job->K; j++) weights[j] = largest > 0 ? weights[j] / total : job->constant[j];
}

/* By averaged, counting by J, all finite: choice, weights (K, of a mix) and count of negative steps in and out. Returns
   whether a reset is due. */
static int choose(const struct job *job, const double *J, const double *averaged, int64_t *choice, double *weights,
                  int64_t *negative) {
  double applied = 0;
  if (job->mixes) {
    weigh(job, averaged, weights);
    *choice = best(job, largest_of(averaged, job->K) > 0 ? averaged : weights);
    for (int64_t j = 0; j < job->K; j++) applied += weights[j] * J[j];
  } else {
    *choice = best(job, averaged);
    applied = J[*choice];
  }
  *negative = applied < 0 ? *negative + 1 : 0;
  int reset = *negative >= job->threshold;
  if (reset) *negative = 0;
  return reset;
}

/* A parameter's own choice. Where a score is not finite the previous one stands, and nothing is counted. */
static int choose_for_one(const struct job *job, const double *J, int64_t *choice, double *weights, int64_t *negative) {
  return all_finite(J, job->K) ? choose(job, J, J, choice, weights, negative) : 0;
}

/* One choice for all, from their scores added up in J; the moving average J_bar in and out. */
static int choose_for_all(const struct job *job, const double *J, double *J_bar, int64_t *choice, double *weights,
                          int64_t *negative) {
  if (!all_finite(J, job->K)) return 0;
  for (int64_t j = 0; j < job->K; j++) J_bar[j] = job->J_ema ? job->J_ema * J_bar[j] + (1 - job->J_ema) * J[j] : J[j];
  return choose(job, J, J_bar, choice, weights, negative);
}

#endif
