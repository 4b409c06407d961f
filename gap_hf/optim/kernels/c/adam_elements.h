/* Adam's arithmetic on a few elements, and what it reads. */

#ifndef GAP_ADAM_ELEMENTS_H
#define GAP_ADAM_ELEMENTS_H

#include "eight_bit.h"
#include "job.h"

struct adam_numbers {
  const int64_t *second; /* K: which second moment a candidate uses */
  const double *beta1;   /* K */
  const double *beta2;   /* U */
  double eps, keep;      /* keep: 1 - lr * decay where it is decoupled */
  double second_reset;
  double batch_size;       /* of a root-free family, which has no roots and no bias corrections; 0 for Adam */
  const int64_t *exponent; /* K: of moments in 8 bits; NULL if a candidate can't be stored so */
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

static uint32_t adam_lift(const struct job *job, int64_t j) {
  const struct adam_numbers *own = job->own;
  return own->exponent ? (uint32_t)(63 + own->exponent[j]) << 23 : 0;
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

/* ---------------------------------------------------------------- one fragment */

/* What a function is written out for: usual is the usual case, with Adam's roots, gradients as they are, and moments of
   their own that remember more than the gradient (beta1 > 0.5); U is 1 there. Everything else takes a little longer. */
struct adam_kind {
  int64_t usual, K, U, value_dtype, first_dtype, second_dtype, stochastic;
};

/* Some candidates' arrays of a fragment, and all that is the same for its elements: a copy for each call, which no
   store can change for all that the compiler knows. */
struct adam_row {
  struct adam_kind is;
  char **first, **second;      /* K, NULL where the moment is the gradient itself; U */
  int64_t *of;                 /* K: which second moment */
  float *beta1, *beta2, *rest; /* K; U; U: the factor on g^2 */
  uint32_t *salt;              /* K */
  uint32_t *lift;              /* K: from the floors of second moments to the candidate's, in 8 bits */
  lanes *m, *v;                /* K; U: room for moments */
  lanes *dots, *totals;        /* K; U: and for sums of g r m and of r */
  words *floor;                /* U: room for the floors of second moments before they move */
  char *value, *grad;
  int maximize, rootless, follows;
  float l2, eps, keep;
};

#define UNROLL _Pragma("GCC unroll 4")
#define EACH_FIRST UNROLL for (int64_t j = 0; j < row->is.K; j++)
#define EACH_SECOND UNROLL for (int64_t u = 0; u < row->is.U; u++)

INLINE void adam_fill(const struct job *job, int64_t i, int64_t from, struct adam_row *row) {
  const struct adam_numbers *own = job->own;
  int64_t low = row->is.U == 1 ? own->second[from] : 0;
  row->value = value_of(job, i), row->grad = grad_of(job, i);
  row->maximize = !row->is.usual && job->maximize, row->rootless = !row->is.usual && is_rootless(job);
  row->follows = job->follows;
  row->l2 = row->is.usual ? 0 : job->l2, row->eps = own->eps, row->keep = own->keep;
  EACH_FIRST {
    row->first[j] = is_kept(job, from + j) ? first_of(job, i, from + j) : NULL;
    row->of[j] = row->is.U == 1 ? 0 : own->second[from + j];
    row->beta1[j] = own->beta1[from + j];
    row->salt[j] = salt_of(step_of(job, i), from + j);
    row->lift[j] = adam_lift(job, from + j);
  }
  EACH_SECOND {
    row->second[u] = second_of(job, i, low + u);
    row->beta2[u] = own->beta2[low + u];
    row->rest[u] = (1 - own->beta2[low + u]) * (row->rootless ? own->batch_size : 1);
  }
}

/* Declares row, with room for k candidates and u second moments. If these are literals, it stays in registers: an array
   whose size is a variable does not, even where the compiler knows the variable. */
#define ADAM_ROW(row, kind, k, u)                                                                                      \
  char *row##_first[k], *row##_second[u];                                                                              \
  int64_t row##_of[k];                                                                                                 \
  float row##_beta1[k], row##_beta2[u], row##_rest[u];                                                                 \
  uint32_t row##_salt[k], row##_lift[k];                                                                               \
  lanes row##_m[k], row##_v[u], row##_dots[k], row##_totals[u];                                                        \
  words row##_floor[u];                                                                                                \
  struct adam_row row = {.is = kind, .first = row##_first, .second = row##_second, .of = row##_of,                     \
                         .beta1 = row##_beta1, .beta2 = row##_beta2, .rest = row##_rest, .salt = row##_salt,           \
                         .lift = row##_lift, .m = row##_m, .v = row##_v, .dots = row##_dots, .totals = row##_totals,   \
                         .floor = row##_floor}

/* ---------------------------------------------------------------- n elements from k on */

/* The processor itself fetches ahead, but not across the ends of pages; of several arrays at once that counts. */
INLINE void adam_fetch_ahead(const struct adam_row *row, int64_t k) {
  int64_t next = k + TILE;
  __builtin_prefetch(row->grad + next * size_of(row->is.value_dtype));
  if (row->follows) __builtin_prefetch(row->value + next * size_of(row->is.value_dtype), 1, 2);
  EACH_SECOND __builtin_prefetch(row->second[u] + next * size_of(row->is.second_dtype), 1);
  EACH_FIRST if (row->is.usual || row->first[j])
      __builtin_prefetch(row->first[j] + next * size_of(row->is.first_dtype), 1);
}

/* The same in the second pass, unless it follows the first one and finds all this in the cache. */
INLINE void adam_fetch_to_apply(const struct adam_row *row, int64_t k) {
  int64_t next = k + APPLY_TILE;
  if (row->follows) return;
  __builtin_prefetch(row->value + next * size_of(row->is.value_dtype), 1);
  EACH_SECOND __builtin_prefetch(row->second[u] + next * size_of(row->is.second_dtype));
  EACH_FIRST __builtin_prefetch(row->is.usual || row->first[j] ? row->first[j] + next * size_of(row->is.first_dtype)
                                                               : row->grad + next * size_of(row->is.value_dtype));
}

/* The gradient that enters the filter. */
INLINE lanes adam_grad(const struct adam_row *row, int64_t k, int64_t n) {
  lanes g = get(row->grad, row->is.value_dtype, k, n);
  if (row->maximize) g = -g;
  return row->l2 == 0 ? g : g + row->l2 * get(row->value, row->is.value_dtype, k, n);
}

INLINE lanes adam_denominator(const struct adam_row *row, lanes v, float scale) {
  return (row->rootless ? v : root(v) * scale) + row->eps;
}

INLINE lanes adam_second(const struct adam_row *row, int64_t u, int64_t k, int64_t n) {
  return get(row->second[u], row->is.second_dtype, k, n);
}

/* v: the second moments that belong to it. */
INLINE lanes adam_first(const struct adam_row *row, int64_t j, int64_t k, int64_t n, lanes v) {
  if (row->is.first_dtype == EIGHT_BIT)
    return decoded(get_codes(row->first[j], k, n), floors_of(v) + row->lift[j]) + nan_of(v);
  return get(row->first[j], row->is.first_dtype, k, n);
}

/* m + w (g - m), in the form that torch.lerp takes. */
INLINE lanes adam_filtered(const struct adam_row *row, int64_t j, lanes m, lanes g) {
  float beta1 = row->beta1[j];
  return row->is.usual || beta1 > 0.5f ? m + (1 - beta1) * (g - m) : g - beta1 * (g - m);
}

/* Updates the first moment of candidate j, and returns it as it is stored, but in 8 bits as it was before rounding, and
   without the NaN that its second moment stands for. */
INLINE lanes adam_update_first(const struct adam_row *row, int64_t j, int64_t k, int64_t n, lanes g, words hash) {
  if (row->is.first_dtype == EIGHT_BIT) {
    int64_t u = row->is.U == 1 ? 0 : row->of[j];
    words code = get_codes(row->first[j], k, n);
    lanes m = adam_filtered(row, j, decoded(code, row->floor[u] + row->lift[j]), g);
    put_codes(row->first[j], k, n, encoded(m, floors_of(row->v[u]) + row->lift[j], noise_for(hash, code, j, 19)));
    return m;
  }
  if (row->is.stochastic) {
    words old = widened(get_halves(row->first[j], k, n));
    return put_stochastic(row->first[j], k, n, adam_filtered(row, j, (lanes)(old << 16), g), hash, old, j);
  }
  lanes m = get(row->first[j], row->is.first_dtype, k, n);
  return put(row->first[j], row->is.first_dtype, k, n, adam_filtered(row, j, m, g));
}

/* Updates all moments by the gradients g, and leaves them in m and v. */
INLINE void adam_update(const struct adam_row *row, int64_t k, int64_t n, lanes g) {
  words hash = {0};
  EACH_SECOND {
    lanes v = adam_second(row, u, k, n);
    if (row->is.first_dtype == EIGHT_BIT) row->floor[u] = floors_of(v);
    v = v * row->beta2[u] + row->rest[u] * g * g;
    row->v[u] = put(row->second[u], row->is.second_dtype, k, n, v);
  }
  EACH_FIRST {
    if (row->is.stochastic && j % 2 == 0) hash = hash_for(g, row->salt[j]);
    row->m[j] = row->is.usual || row->first[j] ? adam_update_first(row, j, k, n, g, hash) : g;
  }
}

INLINE void adam_observe_some(const struct adam_row *row, int64_t k, int64_t n, const float *scale) {
  lanes g = adam_grad(row, k, n);
  adam_fetch_ahead(row, k);
  adam_update(row, k, n, g);
  EACH_SECOND {
    lanes r = 1.0f / adam_denominator(row, row->v[u], scale[u]);
    if (n < LANES) r = where(first_lanes(n), r, broadcast(0)); /* the others would be 1 / eps, or infinite */
    row->totals[u] += r;
    row->v[u] = row->is.first_dtype == EIGHT_BIT ? r * g + nan_of(row->v[u]) : r * g;
  }
  EACH_FIRST row->dots[j] += row->v[row->is.U == 1 ? 0 : row->of[j]] * row->m[j];
}

/* p <- p * keep - total / denominator, total the sum of rate * m over the candidates with second moment u. */
INLINE void adam_move(const struct adam_row *row, int64_t k, int64_t n, const float *known) {
  lanes p = get(row->value, row->is.value_dtype, k, n) * row->keep;
  EACH_SECOND {
    lanes total = broadcast(0);
    EACH_FIRST if (row->is.U == 1 || row->of[j] == u) total += known[j] * row->m[j];
    p -= total / adam_denominator(row, row->v[u], known[row->is.K + u]);
  }
  put(row->value, row->is.value_dtype, k, n, p);
}

INLINE void adam_mix_some(const struct adam_row *row, int64_t k, int64_t n, const float *known) {
  adam_fetch_to_apply(row, k);
  EACH_SECOND row->v[u] = adam_second(row, u, k, n);
  EACH_FIRST row->m[j] = row->first[j] ? adam_first(row, j, k, n, row->v[row->is.U == 1 ? 0 : row->of[j]])
                                       : adam_grad(row, k, n);
  adam_move(row, k, n, known);
}

INLINE void adam_step_some(const struct adam_row *row, int64_t k, int64_t n, const float *known) {
  adam_fetch_ahead(row, k);
  adam_update(row, k, n, adam_grad(row, k, n));
  if (row->is.first_dtype == EIGHT_BIT) {
    EACH_FIRST if (row->first[j]) row->m[j] = adam_first(row, j, k, n, row->v[row->is.U == 1 ? 0 : row->of[j]]);
  }
  adam_move(row, k, n, known);
}

INLINE void adam_apply_some(const struct adam_row *row, int64_t k, int64_t n, const float *known) {
  adam_fetch_to_apply(row, k);
  lanes p = get(row->value, row->is.value_dtype, k, n), v = adam_second(row, 0, k, n);
  lanes m = row->is.usual || row->first[0] ? adam_first(row, 0, k, n, v) : adam_grad(row, k, n);
  p = p * row->keep - known[0] * (m / adam_denominator(row, v, known[1]));
  put(row->value, row->is.value_dtype, k, n, p);
}

#endif
