/* The fused CPU kernels: built once with the machine's C compiler and called through ctypes (fused_cpu.py).

   A job is a list of fragments with the same options and dtypes. They are cut into blocks of up to BLOCK elements, which
   are dealt to the threads. Two passes over the blocks:

     observe   updates the K first moments and the U second moments and takes the partial sums
     apply     steps the parameter by the chosen first moment

   Partial sums are accumulated in float within a tile, in double beyond, per block, and added up in the blocks' order:
   the result does not depend on the number of threads. gap_step does both passes and the choice for a few fragments at a time, which the second pass
   then finds in the cache. Everything is computed in float; bfloat16 and float16 are converted tile by tile.

   Formulas: gap_hf/optim/reference.py. Choice: gap_hf/optim/choice.py. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 4096
/* Elements of one array before the next array's turn in the first pass. Long tiles leave the memory idle while they are
   computed; in short ones loads meet stores that are still on their way at the same place of another page, which
   processors mistake for the same address (buffers of one parameter often lie so). 512, with the next arrays fetched
   ahead, was the best of 64 to 2048. The second pass goes through all arrays in one loop. */
#define TILE 512
#define APPLY_TILE 1024

enum family { ADAM, SGDM };
enum dtype { FLOAT32, BFLOAT16, FLOAT16 };

/* Mirrored by Job in fused_cpu.py. */
struct job {
  int64_t family, n, K, U, threads;
  int64_t value_dtype, first_dtype, second_dtype;
  int64_t stochastic;      /* round first moments to bfloat16 stochastically */
  char *const *table;      /* columns of n addresses: value, step, K first moments, U second moments, grad */
  const int64_t *numel;    /* n */
  const int64_t *second;   /* K: which second moment a candidate uses */
  const double *beta1;     /* K: beta1, or the momenta */
  const double *beta2;     /* U */
  const double *rate;      /* K: learning rate, with lr_modulation's gain */
  const double *gain;      /* K: factor of the score */
  double eps, keep, l2;    /* keep: 1 - lr * decay where it is decoupled; l2: the decay where it is not */
  double dampening;        /* SGDM */
  int64_t nesterov;        /* SGDM */
  int64_t maximize;        /* take the gradient with the other sign */
  double soft_reset, second_reset;
  int64_t wave, threshold; /* gap_step: elements that fit the cache; hysteresis */
  double J_ema;            /* gap_step_for_all */
};

/* ---------------------------------------------------------------- numbers in memory */

static inline float from_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

static inline uint32_t to_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}

static inline uint16_t to_bfloat16(float x) { /* to the nearest, ties to even */
  uint32_t bits = to_bits(x);
  uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  return x != x ? 0x7FC0 : rounded;
}

/* The hash lowbias32 of Chris Wellons (public domain), as in rounding.py. */
static inline uint32_t hash(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7feb352dU;
  x ^= x >> 15;
  x *= 0x846ca68bU;
  return x ^ (x >> 16);
}

static inline uint16_t to_bfloat16_stochastic(float x, float grad, uint32_t old, uint32_t salt) {
  uint32_t noise = hash((to_bits(grad) ^ old) + salt) & 0xFFFF;
  uint32_t bits = to_bits(x);
  int finite = (bits & 0x7F800000U) != 0x7F800000U;
  return finite ? (bits + noise) >> 16 : to_bfloat16(x);
}

static int64_t size_of(int64_t dtype) { return dtype == FLOAT32 ? 4 : 2; }

/* n numbers as float: in place where they are, else converted into scratch. */
static float *load(void *from, int64_t dtype, int64_t n, float *scratch) {
  if (dtype == FLOAT32) return from;
  if (dtype == BFLOAT16) {
    const uint16_t *x = from;
    for (int64_t i = 0; i < n; i++) scratch[i] = from_bits((uint32_t)x[i] << 16);
  } else {
#ifdef __FLT16_MAX__
    const _Float16 *x = from;
    for (int64_t i = 0; i < n; i++) scratch[i] = x[i];
#endif
  }
  return scratch;
}

/* What load gave, back to where it came from; rounded like it, so that scratch holds the values as they are stored. */
static void store(void *to, int64_t dtype, int64_t n, float *scratch) {
  if (dtype == BFLOAT16) {
    uint16_t *x = to;
    for (int64_t i = 0; i < n; i++) {
      x[i] = to_bfloat16(scratch[i]);
      scratch[i] = from_bits((uint32_t)x[i] << 16);
    }
  } else if (dtype == FLOAT16) {
#ifdef __FLT16_MAX__
    _Float16 *x = to;
    for (int64_t i = 0; i < n; i++) scratch[i] = x[i] = scratch[i];
#endif
  }
}

/* ---------------------------------------------------------------- one tile */

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

/* x <- x + weight * (y - x), in the form that torch.lerp takes. */
static void lerp(float *restrict x, const float *restrict y, int64_t n, float weight) {
  if (weight < 0.5f)
    for (int64_t i = 0; i < n; i++) x[i] = x[i] + weight * (y[i] - x[i]);
  else
    for (int64_t i = 0; i < n; i++) x[i] = y[i] - (y[i] - x[i]) * (1 - weight);
}

/* Of a tile: a few dozen float additions in each lane of a vector register, then double. */
static float dot(const float *restrict x, const float *restrict y, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) sum += x[i] * y[i];
  return sum;
}

/* The first moment j, towards g; the values as they are stored, for the score. */
static const float *first_moment(const struct job *job, void *stored, const float *g, int64_t n, int64_t j, double t,
                                 float *scratch) {
  float *m = load(stored, job->first_dtype, n, scratch);
  if (job->family == ADAM)
    lerp(m, g, n, 1 - job->beta1[j]);
  else if (t == 1)
    memcpy(m, g, n * sizeof(float));
  else {
    float momentum = job->beta1[j], rest = 1 - job->dampening;
    for (int64_t i = 0; i < n; i++) m[i] = m[i] * momentum + rest * g[i];
  }
  if (job->stochastic) {
    uint16_t *x = stored;
    uint32_t salt = (uint32_t)(uint64_t)t * 0x9E3779B9U + (uint32_t)j * 0x85EBCA6BU;
    for (int64_t i = 0; i < n; i++) {
      x[i] = to_bfloat16_stochastic(m[i], g[i], x[i], salt);
      m[i] = from_bits((uint32_t)x[i] << 16);
    }
  } else
    store(stored, job->first_dtype, n, m);
  return m;
}

/* ---------------------------------------------------------------- one block of a fragment */

/* Columns of the table. */
static char *value_of(const struct job *job, int64_t i) { return job->table[i]; }
static double step_of(const struct job *job, int64_t i) { return *(double *)job->table[job->n + i]; }
static char *first_of(const struct job *job, int64_t i, int64_t j) { return job->table[(2 + j) * job->n + i]; }
static char *second_of(const struct job *job, int64_t i, int64_t u) {
  return job->table[(2 + job->K + u) * job->n + i];
}
static char *grad_of(const struct job *job, int64_t i) { return job->table[(2 + job->K + job->U) * job->n + i]; }

static void fetch_ahead(const char *from, int64_t n, int64_t dtype) {
  for (int64_t byte = 0; byte < n * size_of(dtype); byte += 64) __builtin_prefetch(from + byte, 1);
}

/* Updates the moments of elements [begin, end) of fragment i; sums: K of g r m_j (or g m_j), then U of r. correction: U,
   1 - beta2^t. */
static void observe(const struct job *job, int64_t i, int64_t begin, int64_t end, const float *correction,
                    double *sums) {
  float of_grad[TILE], of_value[TILE], of_first[TILE], of_second[TILE];
  char *value = value_of(job, i), *grad = grad_of(job, i);
  double t = step_of(job, i);
  float weighted[job->U ? job->U : 1][TILE];
  memset(sums, 0, (job->K + job->U) * sizeof(double));
  int64_t wide = size_of(job->value_dtype);
  for (int64_t at = begin; at < end; at += TILE) {
    int64_t n = end - at < TILE ? end - at : TILE;
    for (int64_t j = 0; j < job->K; j++)
      fetch_ahead(first_of(job, i, j) + at * size_of(job->first_dtype), n, job->first_dtype);
    const float *g = filtered(job, value + at * wide, grad + at * wide, n, of_grad, of_value);
    for (int64_t u = 0; u < job->U; u++) {
      void *stored = second_of(job, i, u) + at * size_of(job->second_dtype);
      float *v = load(stored, job->second_dtype, n, of_second);
      float beta2 = job->beta2[u], rest = 1 - job->beta2[u];
      for (int64_t k = 0; k < n; k++) v[k] = v[k] * beta2 + rest * g[k] * g[k];
      store(stored, job->second_dtype, n, v);
      float eps = job->eps, *restrict w = weighted[u];
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
    for (int64_t u = 0; u < job->U; u++)
      fetch_ahead(second_of(job, i, u) + next * size_of(job->second_dtype), ahead, job->second_dtype);
    for (int64_t j = 0; j < job->K; j++) {
      void *stored = first_of(job, i, j) + at * size_of(job->first_dtype);
      const float *m = first_moment(job, stored, g, n, j, t, of_first);
      sums[j] += dot(job->U ? weighted[job->second[j]] : g, m, n);
    }
  }
}

static void scale(void *stored, int64_t dtype, int64_t n, float factor, float *scratch) {
  float *x = load(stored, dtype, n, scratch);
  for (int64_t i = 0; i < n; i++) x[i] *= factor;
  store(stored, dtype, n, x);
}

/* Steps elements [begin, end) of fragment i by candidate j; then scales the buffers, if a reset is due. rate and root:
   lr / (1 - beta1^t) and sqrt(1 - beta2^t) for Adam, lr and 1 for SGDM. */
static void apply(const struct job *job, int64_t i, int64_t begin, int64_t end, int64_t j, float rate, float root,
                  int reset) {
  float of_grad[APPLY_TILE], of_value[APPLY_TILE], more[APPLY_TILE], of_first[APPLY_TILE], of_second[APPLY_TILE];
  char *value = value_of(job, i), *grad = grad_of(job, i);
  float keep = job->keep, eps = job->eps;
  int64_t wide = size_of(job->value_dtype);
  for (int64_t at = begin; at < end; at += APPLY_TILE) {
    int64_t n = end - at < APPLY_TILE ? end - at : APPLY_TILE;
    void *stored = value + at * wide;
    float *restrict p = load(stored, job->value_dtype, n, of_value);
    const float *restrict m = load(first_of(job, i, j) + at * size_of(job->first_dtype), job->first_dtype, n, of_first);
    if (job->family == ADAM) {
      void *second = second_of(job, i, job->second[j]) + at * size_of(job->second_dtype);
      const float *restrict v = load(second, job->second_dtype, n, of_second);
      for (int64_t k = 0; k < n; k++) p[k] = p[k] * keep - rate * (m[k] / (sqrtf(v[k]) / root + eps));
    } else if (job->nesterov) {
      const float *restrict g = filtered(job, stored, grad + at * wide, n, of_grad, more);
      float momentum = job->beta1[j];
      for (int64_t k = 0; k < n; k++) p[k] = p[k] - rate * (g[k] + momentum * m[k]);
    } else
      for (int64_t k = 0; k < n; k++) p[k] = p[k] - rate * m[k];
    store(stored, job->value_dtype, n, p);
    if (!reset) continue;
    for (int64_t c = 0; c < job->K; c++)
      scale(first_of(job, i, c) + at * size_of(job->first_dtype), job->first_dtype, n, job->soft_reset, of_first);
    for (int64_t u = 0; u < job->U && job->second_reset != 1; u++)
      scale(second_of(job, i, u) + at * size_of(job->second_dtype), job->second_dtype, n, job->second_reset, of_second);
  }
}

/* ---------------------------------------------------------------- the choice: choice.py in C */

/* J of one parameter from its sums. */
static void score(const struct job *job, const double *sums, int64_t numel, double *J) {
  for (int64_t j = 0; j < job->K; j++) {
    J[j] = numel ? job->gain[j] * sums[j] : 0;
    if (job->U && numel) J[j] /= sqrt(sums[job->K + job->second[j]] / numel);
  }
}

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
  *choice = 0;
  while (averaged[*choice] < largest - 1e-6 * fabs(largest)) ++*choice;
  *negative = J[*choice] < 0 ? *negative + 1 : 0;
  int reset = *negative >= job->threshold;
  if (reset) *negative = 0;
  return reset;
}

/* A parameter's own choice. Where a score is not finite the previous one stands, and nothing is counted. */
static int choose_for_one(const struct job *job, const double *sums, int64_t numel, int64_t *choice,
                          int64_t *negative) {
  double J[job->K];
  score(job, sums, numel, J);
  return all_finite(J, job->K) ? choose(job, J, J, choice, negative) : 0;
}

/* One choice for all, from the scores of all parameters added up in J; their moving average J_bar in and out. */
static int choose_for_all(const struct job *job, const double *sums, double *J, double *J_bar, int64_t *choice,
                          int64_t *negative) {
  double one[job->K];
  for (int64_t j = 0; j < job->K; j++) J[j] = 0;
  for (int64_t i = 0; i < job->n; i++) {
    score(job, sums + i * (job->K + job->U), job->numel[i], one);
    for (int64_t j = 0; j < job->K; j++) J[j] += one[j];
  }
  if (!all_finite(J, job->K)) return 0;
  for (int64_t j = 0; j < job->K; j++) J_bar[j] = job->J_ema ? job->J_ema * J_bar[j] + (1 - job->J_ema) * J[j] : J[j];
  return choose(job, J, J_bar, choice, negative);
}

/* One more step for each of the n counters. */
void gap_tick(double *const *steps, int64_t n) {
  for (int64_t i = 0; i < n; i++) *steps[i] += 1;
}

/* ---------------------------------------------------------------- passes over all fragments */

/* The blocks of all fragments, in order. */
struct blocks {
  int64_t *first;    /* n + 1: a fragment's first block */
  int64_t *fragment; /* of each block */
};

static struct blocks cut(const struct job *job) {
  struct blocks blocks = {malloc((job->n + 1) * sizeof(int64_t)), NULL};
  int64_t count = 0;
  for (int64_t i = 0; i < job->n; i++) {
    blocks.first[i] = count;
    count += (job->numel[i] + BLOCK - 1) / BLOCK;
  }
  blocks.first[job->n] = count;
  blocks.fragment = malloc((count + 1) * sizeof(int64_t));
  for (int64_t i = 0; i < job->n; i++)
    for (int64_t b = blocks.first[i]; b < blocks.first[i + 1]; b++) blocks.fragment[b] = i;
  return blocks;
}

static void place(const struct job *job, const struct blocks *blocks, int64_t b, int64_t *i, int64_t *begin,
                  int64_t *end) {
  *i = blocks->fragment[b];
  *begin = (b - blocks->first[*i]) * BLOCK;
  *end = job->numel[*i] - *begin < BLOCK ? job->numel[*i] : *begin + BLOCK;
}

/* This thread's share of the blocks of fragments [from, to). The second pass takes them in reverse, beginning with those
   that the first one touched last. */
static void observe_share(const struct job *job, const struct blocks *blocks, int64_t from, int64_t to, int64_t thread,
                          int64_t threads, double *partial) {
  int64_t low = blocks->first[from], count = blocks->first[to] - low, known = -1, i, begin, end;
  float correction[job->U ? job->U : 1];
  for (int64_t b = low + count * thread / threads; b < low + count * (thread + 1) / threads; b++) {
    place(job, blocks, b, &i, &begin, &end);
    for (int64_t u = 0; i != known && u < job->U; u++) correction[u] = 1 - pow(job->beta2[u], step_of(job, i));
    known = i;
    observe(job, i, begin, end, correction, partial + b * (job->K + job->U));
  }
}

static void apply_share(const struct job *job, const struct blocks *blocks, int64_t from, int64_t to, int64_t thread,
                        int64_t threads, const int64_t *choice, const uint8_t *reset) {
  int64_t low = blocks->first[from], count = blocks->first[to] - low, known = -1, i, begin, end;
  float rate = 0, root = 1;
  for (int64_t b = low + count * (thread + 1) / threads - 1; b >= low + count * thread / threads; b--) {
    place(job, blocks, b, &i, &begin, &end);
    int64_t j = choice[i];
    if (i != known) rate = job->rate[j];
    if (i != known && job->family == ADAM) {
      rate /= 1 - pow(job->beta1[j], step_of(job, i));
      root = sqrt(1 - pow(job->beta2[job->second[j]], step_of(job, i)));
    }
    known = i;
    apply(job, i, begin, end, j, rate, root, reset[i]);
  }
}

static void add_up(const struct job *job, const struct blocks *blocks, const double *partial, int64_t i, double *sums) {
  int64_t S = job->K + job->U;
  for (int64_t s = 0; s < S; s++) {
    sums[s] = 0;
    for (int64_t b = blocks->first[i]; b < blocks->first[i + 1]; b++) sums[s] += partial[b * S + s];
  }
}

#define THIS_THREAD omp_get_thread_num(), omp_get_num_threads()
int omp_get_thread_num(void);
int omp_get_num_threads(void);

/* The first pass; sums: n rows of K + U. */
void gap_observe(const struct job *job, double *sums) {
  struct blocks blocks = cut(job);
  double *partial = malloc((blocks.first[job->n] * (job->K + job->U) + 1) * sizeof(double));
#pragma omp parallel num_threads(job->threads)
  observe_share(job, &blocks, 0, job->n, THIS_THREAD, partial);
  for (int64_t i = 0; i < job->n; i++) add_up(job, &blocks, partial, i, sums + i * (job->K + job->U));
  free(partial);
  free(blocks.first);
  free(blocks.fragment);
}

/* The second pass; choice and reset: n each. */
void gap_apply(const struct job *job, const int64_t *choice, const uint8_t *reset) {
  struct blocks blocks = cut(job);
#pragma omp parallel num_threads(job->threads)
  apply_share(job, &blocks, 0, job->n, THIS_THREAD, choice, reset);
  free(blocks.first);
  free(blocks.fragment);
}

/* Both passes with a choice per fragment between them, wave by wave. sums: n rows of K + U; choice, negative (in and
   out) and reset: n each. */
void gap_step(const struct job *job, double *sums, int64_t *choice, int64_t *negative, uint8_t *reset) {
  struct blocks blocks = cut(job);
  int64_t S = job->K + job->U;
  double *partial = malloc((blocks.first[job->n] * S + 1) * sizeof(double));
#pragma omp parallel num_threads(job->threads)
  for (int64_t from = 0, to; from < job->n; from = to) {
    int64_t elements = job->numel[from];
    for (to = from + 1; to < job->n && elements + job->numel[to] <= job->wave; to++) elements += job->numel[to];
    observe_share(job, &blocks, from, to, THIS_THREAD, partial);
#pragma omp barrier
#pragma omp single
    for (int64_t i = from; i < to; i++) {
      add_up(job, &blocks, partial, i, sums + i * S);
      reset[i] = choose_for_one(job, sums + i * S, job->numel[i], choice + i, negative + i);
    }
    apply_share(job, &blocks, from, to, THIS_THREAD, choice, reset);
  }
  free(partial);
  free(blocks.first);
  free(blocks.fragment);
}

/* Both passes with one choice for all between them. sums: n rows of K + U; J: K; J_bar (K), choice and negative in and
   out; reset out. */
void gap_step_for_all(const struct job *job, double *sums, double *J, double *J_bar, int64_t *choice, int64_t *negative,
                      uint8_t *reset) {
  struct blocks blocks = cut(job);
  int64_t S = job->K + job->U, *choices = malloc((job->n + 1) * sizeof(int64_t));
  uint8_t *resets = malloc(job->n + 1);
  double *partial = malloc((blocks.first[job->n] * S + 1) * sizeof(double));
#pragma omp parallel num_threads(job->threads)
  {
    observe_share(job, &blocks, 0, job->n, THIS_THREAD, partial);
#pragma omp barrier
#pragma omp single
    {
      for (int64_t i = 0; i < job->n; i++) add_up(job, &blocks, partial, i, sums + i * S);
      *reset = choose_for_all(job, sums, J, J_bar, choice, negative);
      for (int64_t i = 0; i < job->n; i++) choices[i] = *choice, resets[i] = *reset;
    }
    apply_share(job, &blocks, 0, job->n, THIS_THREAD, choices, resets);
  }
  free(partial);
  free(choices);
  free(resets);
  free(blocks.first);
  free(blocks.fragment);
}

int gap_has_float16(void) {
#ifdef __FLT16_MAX__
  return 1;
#else
  return 0;
#endif
}
