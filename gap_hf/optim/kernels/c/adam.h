/* K first moments, and a second moment for each distinct beta2: Adam, and root-free AdamW where there is a batch size.
   Formulas: families/moments.py. */

#include "adam_elements.h"

/* ---------------------------------------------------------------- elements [begin, end) of fragment i */

INLINE void adam_observe_as(const struct job *job, int64_t i, int64_t begin, int64_t end, const float *scale,
                            double *sums, struct adam_row *row) {
  adam_fill(job, i, 0, row);
  for (int64_t s = 0; s < row->is.K + row->is.U; s++) sums[s] = 0;
  for (int64_t at = begin; at < end; at += TILE) {
    int64_t stop = end - at < TILE ? end : at + TILE, k = at;
    EACH_FIRST row->dots[j] = broadcast(0);
    EACH_SECOND row->totals[u] = broadcast(0);
    for (; k + LANES <= stop; k += LANES) adam_observe_some(row, k, LANES, scale);
    if (k < stop) adam_observe_some(row, k, stop - k, scale);
    EACH_FIRST sums[j] += sum_of(row->dots[j]);
    EACH_SECOND sums[row->is.K + u] += sum_of(row->totals[u]);
  }
}

INLINE void adam_apply_as(const struct job *job, int64_t i, int64_t begin, int64_t end, int64_t j, const float *known,
                          struct adam_row *row) {
  adam_fill(job, i, j, row);
  int64_t k = begin;
  for (; k + LANES <= end; k += LANES) adam_apply_some(row, k, LANES, known);
  if (k < end) adam_apply_some(row, k, end - k, known);
}

INLINE void adam_mix_as(const struct job *job, int64_t i, int64_t begin, int64_t end, const float *known,
                        struct adam_row *row) {
  adam_fill(job, i, 0, row);
  int64_t k = begin;
  for (; k + LANES <= end; k += LANES) adam_mix_some(row, k, LANES, known);
  if (k < end) adam_mix_some(row, k, end - k, known);
}

INLINE void adam_step_as(const struct job *job, int64_t i, int64_t begin, int64_t end, const float *known,
                         struct adam_row *row) {
  adam_fill(job, i, 0, row);
  int64_t k = begin;
  for (; k + LANES <= end; k += LANES) adam_step_some(row, k, LANES, known);
  if (k < end) adam_step_some(row, k, end - k, known);
}

/* ---------------------------------------------------------------- the passes, in the form that suits the job */

static struct adam_kind adam_kind_of(const struct job *job) {
  const struct adam_numbers *own = job->own;
  int usual = job->seconds == 1 && !job->maximize && job->l2 == 0 && !is_rootless(job);
  for (int64_t j = 0; j < job->K; j++) usual = usual && is_kept(job, j) && (float)own->beta1[j] > 0.5f;
  return (struct adam_kind){usual,           job->K,           job->seconds,    job->value_dtype,
                            job->first_dtype, job->second_dtype, job->stochastic};
}

static int same_kind(struct adam_kind x, struct adam_kind y) {
  return x.usual == y.usual && x.K == y.K && x.U == y.U && x.value_dtype == y.value_dtype &&
         x.first_dtype == y.first_dtype && x.second_dtype == y.second_dtype && x.stochastic == y.stochastic;
}

/* The dtypes of values and moments, and whether first moments are rounded stochastically, that functions are written
   out for in the usual case; of the others only two candidates in float32, one of which may be the gradient itself. None
   if the compiler does not optimize (-O0), which makes nothing of constants. */
#ifdef __OPTIMIZE__
#define ADAM_USUAL(X, K)                                                                                               \
  X(1, K, FLOAT32, FLOAT32, FLOAT32, 0)                                                                                \
  X(1, K, FLOAT32, BFLOAT16, FLOAT32, 1)                                                                               \
  X(1, K, FLOAT32, EIGHT_BIT, FLOAT32, 1)                                                                              \
  X(1, K, BFLOAT16, BFLOAT16, BFLOAT16, 0)                                                                             \
  X(1, K, BFLOAT16, BFLOAT16, FLOAT32, 1)                                                                              \
  X(1, K, BFLOAT16, EIGHT_BIT, FLOAT32, 1)
#define ADAM_OTHER(X) X(0, 2, FLOAT32, FLOAT32, FLOAT32, 0)
#else
#define ADAM_USUAL(X, K)
#define ADAM_OTHER(X)
#endif

/* Calls what is written out for K candidates and these dtypes, with the kind as a constant, and returns. A caller
   defines ADAM_CALL(row). */
#define ADAM_TRY(usual, K, value, first, second, stochastic)                                                           \
  {                                                                                                                    \
    const struct adam_kind as = {usual, K, 1, value, first, second, stochastic};                                       \
    if (same_kind(kind, as)) {                                                                                         \
      ADAM_ROW(row, as, K, 1);                                                                                         \
      ADAM_CALL(&row);                                                                                                 \
      return;                                                                                                          \
    }                                                                                                                  \
  }

/* Updates the moments; sums: K of g r m_j, then U of r. */
static void adam_observe(const struct job *job, int64_t i, int64_t begin, int64_t end, const float *scale,
                         double *sums) {
  struct adam_kind kind = adam_kind_of(job);
#define ADAM_CALL(row) adam_observe_as(job, i, begin, end, scale, sums, row)
  ADAM_USUAL(ADAM_TRY, 1)
  ADAM_USUAL(ADAM_TRY, 2)
  ADAM_USUAL(ADAM_TRY, 3)
  ADAM_OTHER(ADAM_TRY)
  ADAM_ROW(any, kind, kind.K, kind.U);
  ADAM_CALL(&any);
#undef ADAM_CALL
}

/* Scales the buffers, where a reset is due. */
static void adam_reset(const struct job *job, int64_t i, int64_t begin, int64_t n) {
  const struct adam_numbers *own = job->own;
  if (job->first_dtype != EIGHT_BIT) scale_firsts(job, i, begin, n);
  for (int64_t j = 0; j < job->K && job->first_dtype == EIGHT_BIT; j++)
    if (is_kept(job, j))
      scale_codes(first_of(job, i, j) + begin, second_of(job, i, own->second[j]) + begin * size_of(job->second_dtype),
                  job->second_dtype, n, adam_lift(job, j), job->soft_reset, own->second_reset);
  for (int64_t u = 0; u < job->seconds && own->second_reset != 1; u++)
    scale(second_of(job, i, u) + begin * size_of(job->second_dtype), job->second_dtype, n, own->second_reset);
}

/* Steps by candidate j. */
static void adam_apply_one(const struct job *job, int64_t i, int64_t begin, int64_t end, int64_t j,
                           const float *known) {
  struct adam_kind kind = adam_kind_of(job);
  kind.K = kind.U = 1;
#define ADAM_CALL(row) adam_apply_as(job, i, begin, end, j, known, row)
  ADAM_USUAL(ADAM_TRY, 1)
  ADAM_ROW(any, kind, kind.K, kind.U);
  ADAM_CALL(&any);
#undef ADAM_CALL
}

/* The same; then scales the buffers, if a reset is due. */
static void adam_apply(const struct job *job, int64_t i, int64_t begin, int64_t end, int64_t j, const float *known,
                       int reset) {
  adam_apply_one(job, i, begin, end, j, known);
  if (reset) adam_reset(job, i, begin, end - begin);
}

/* Steps by the weighted sum of all candidates. */
static void adam_mix_all(const struct job *job, int64_t i, int64_t begin, int64_t end, const float *known) {
  struct adam_kind kind = adam_kind_of(job);
#define ADAM_CALL(row) adam_mix_as(job, i, begin, end, known, row)
  ADAM_USUAL(ADAM_TRY, 2)
  ADAM_OTHER(ADAM_TRY)
  ADAM_ROW(any, kind, kind.K, kind.U);
  ADAM_CALL(&any);
#undef ADAM_CALL
}

/* The same; then scales the buffers, if a reset is due. */
static void adam_mix(const struct job *job, int64_t i, int64_t begin, int64_t end, const float *known, int reset) {
  adam_mix_all(job, i, begin, end, known);
  if (reset) adam_reset(job, i, begin, end - begin);
}

/* Updates the moments, and steps by the weighted sum of all candidates. */
static void adam_step_constant(const struct job *job, int64_t i, int64_t begin, int64_t end, const float *known) {
  struct adam_kind kind = adam_kind_of(job);
#define ADAM_CALL(row) adam_step_as(job, i, begin, end, known, row)
  ADAM_USUAL(ADAM_TRY, 1)
  ADAM_USUAL(ADAM_TRY, 2)
  ADAM_OTHER(ADAM_TRY)
  ADAM_ROW(any, kind, kind.K, kind.U);
  ADAM_CALL(&any);
#undef ADAM_CALL
}

/* J of one parameter from its sums. */
static void adam_score(const struct job *job, const double *sums, int64_t numel, double *J) {
  const struct adam_numbers *own = job->own;
  for (int64_t j = 0; j < job->K; j++)
    J[j] = numel ? job->gain[j] * sums[j] / sqrt(sums[job->K + own->second[j]] / numel) : 0;
}
