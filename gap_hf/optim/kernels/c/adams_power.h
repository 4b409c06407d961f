/* One step of Adams's power iteration, which finds the largest singular values of matrices, and the decay by them.

   Fragments are told as boxes (arithmetic/boxes.py). Both products are added up in double, always in the boxes' order:
   neither the number of threads nor the cut shows in u. */

#include <math.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "job.h"

#define ROWS 512 /* of a box, for one thread at a time */

/* Cases of a switch, for which the compiler knows the length of a row: in a loop over 16 numbers, counting takes longer
   than adding. */
#define LORA_RANKS(action) \
  case 8: { enum { WIDTH = 8 }; action; break; } \
  case 16: { enum { WIDTH = 16 }; action; break; } \
  case 32: { enum { WIDTH = 32 }; action; break; } \
  case 64: { enum { WIDTH = 64 }; action; break; }

/* A rectangle of a matrix: where its elements begin in the fragment, its size, and where its rows and columns are among
   those of the fragment's whole stack of matrices. */
struct box {
  int64_t at, height, width, row, column, matrix;
};

struct adams_numbers {
  const double *betas;                    /* K */
  double beta2, decay, vector_decay;      /* both times lr */
  int64_t inside;                         /* correct the moments for their bias before the angle is taken */
  const struct box *boxes;
  const int64_t *first_box;               /* n + 1; a fragment without boxes has no spectral decay */
  const int64_t *R, *C;                   /* n: rows and columns of a matrix of the stack */
  const int64_t *columns, *rows, *of_norm; /* n + 1: where a fragment's numbers begin in v, Wv and norm */
  double *v, *Wv, *norm;                  /* W'u, then scaled to length 1; W v; |W v| of each matrix */
};

/* n elements of a box from (r, c). */
static const float *adams_row(const struct job *job, int64_t i, const struct box *box, int64_t r, int64_t c, int64_t n,
                              float *scratch) {
  char *stored = value_of(job, i) + (box->at + r * box->width + c) * size_of(job->value_dtype);
  return load(stored, job->value_dtype, n, scratch);
}

/* Whether fragment i is a few boxes of one or two matrices, not of a large stack. */
static int adams_has_few_boxes(const struct adams_numbers *own, int64_t i) {
  return own->first_box[i + 1] - own->first_box[i] <= 4;
}

/* Adds to sums the first n columns of rows that lie apart by width, each times its u. */
static inline __attribute__((always_inline)) void left_rows(const float *restrict W, const float *restrict u,
                                                            int64_t rows, int64_t width, int64_t n,
                                                            double *restrict sums) {
  for (int64_t r = 0; r < rows; r++) {
    double factor = u[r * width];
    for (int64_t k = 0; k < n; k++) sums[k] += factor * W[r * width + k];
  }
}

/* Adds n columns of a box, from the one numbered c, to their sums in W'u. */
static void adams_left_tile(const struct job *job, int64_t i, const struct box *box, int64_t c, int64_t n,
                            double *sums) {
  const float *u = (float *)second_of(job, i, 1) + box->at;
  float scratch[TILE];
  if (job->value_dtype != FLOAT32) {
    for (int64_t r = 0; r < box->height; r++)
      left_rows(adams_row(job, i, box, r, c, n, scratch), u + r * box->width, 1, n, n, sums);
    return;
  }
  const float *W = adams_row(job, i, box, 0, c, n, NULL);
  switch (box->width) {
    LORA_RANKS(left_rows(W, u, box->height, WIDTH, WIDTH, sums))
    default: left_rows(W, u, box->height, box->width, n, sums);
  }
}

/* The columns [low, high) of fragment i in W'u. */
static void adams_left_columns(const struct job *job, int64_t i, int64_t low, int64_t high) {
  const struct adams_numbers *own = job->own;
  double *out = own->v + own->columns[i];
  for (int64_t c = low; c < high; c++) out[c] = 0;
  for (const struct box *box = own->boxes + own->first_box[i]; box < own->boxes + own->first_box[i + 1]; box++) {
    int64_t from = box->column > low ? box->column : low;
    int64_t to = box->column + box->width < high ? box->column + box->width : high;
    for (int64_t c = from; c < to; c += TILE)
      adams_left_tile(job, i, box, c - box->column, to - c < TILE ? to - c : TILE, out + c);
  }
}

/* This work's share of W'u. */
int gap_adams_left(const struct job *job) {
  const struct adams_numbers *own = job->own;
#pragma omp parallel num_threads(job->threads)
  for (int64_t i = 0; i < job->n; i++) {
    int64_t columns = own->columns[i + 1] - own->columns[i];
    int64_t step = adams_has_few_boxes(own, i) ? TILE : columns + 1;
#pragma omp for schedule(dynamic) nowait
    for (int64_t low = 0; low < columns; low += step)
      adams_left_columns(job, i, low, columns - low < step ? columns : low + step);
  }
  return 0;
}

/* Scales the parts of a fragment's W'u to vectors v of length 1; those of 0 stay. */
static void adams_scale_to_length_1(double *v, int64_t columns, int64_t C) {
  for (double *end = v + columns; v < end; v += C) {
    double norm = 0;
    for (int64_t c = 0; c < C; c++) norm += v[c] * v[c];
    norm = sqrt(norm);
    for (int64_t c = 0; c < C && norm > 0; c++) v[c] /= norm;
  }
}

/* Adds to Wv the products of rows that lie apart by width with n numbers of v. */
static inline __attribute__((always_inline)) void right_rows(const float *restrict W, const double *restrict v,
                                                             int64_t rows, int64_t width, int64_t n,
                                                             double *restrict Wv) {
  for (int64_t r = 0; r < rows; r++) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t k = 0; k < n; k++) sum += W[r * width + k] * v[k];
    Wv[r] += sum;
  }
}

/* The rows [low, high) of one of fragment i's boxes in W v. */
static void adams_right_rows(const struct job *job, int64_t i, const struct box *box, int64_t low, int64_t high) {
  const struct adams_numbers *own = job->own;
  double *restrict Wv = own->Wv + own->rows[i] + box->row;
  float scratch[TILE];
  for (int64_t c = 0; c < box->width; c += TILE) {
    int64_t n = box->width - c < TILE ? box->width - c : TILE;
    const double *v = own->v + own->columns[i] + box->column + c;
    if (job->value_dtype != FLOAT32)
      for (int64_t r = low; r < high; r++)
        right_rows(adams_row(job, i, box, r, c, n, scratch), v, 1, n, n, Wv + r);
    else {
      const float *W = adams_row(job, i, box, low, c, n, NULL);
      switch (box->width) {
        LORA_RANKS(right_rows(W, v, high - low, WIDTH, WIDTH, Wv + low))
        default: right_rows(W, v, high - low, box->width, n, Wv + low);
      }
    }
  }
}

/* |W v| of each of fragment i's matrices. */
static void adams_lengths(const struct job *job, int64_t i) {
  const struct adams_numbers *own = job->own;
  const double *Wv = own->Wv + own->rows[i];
  for (int64_t m = own->of_norm[i]; m < own->of_norm[i + 1]; m++, Wv += own->R[i]) {
    double norm = 0;
    for (int64_t r = 0; r < own->R[i]; r++) norm += Wv[r] * Wv[r];
    own->norm[m] = sqrt(norm);
  }
}

/* Makes vectors v of length 1 of fragment i's W'u, and zeros of its W v. */
static void adams_between(const struct job *job, int64_t i) {
  const struct adams_numbers *own = job->own;
  adams_scale_to_length_1(own->v + own->columns[i], own->columns[i + 1] - own->columns[i], own->C[i]);
  for (int64_t r = own->rows[i]; r < own->rows[i + 1]; r++) own->Wv[r] = 0;
}

/* All of the power iteration, for fragments that are whole parameters: the second product finds them in the cache. */
int gap_adams_iterate(const struct job *job) {
  const struct adams_numbers *own = job->own;
#pragma omp parallel for num_threads(job->threads) schedule(dynamic)
  for (int64_t i = 0; i < job->n; i++) {
    adams_left_columns(job, i, 0, own->columns[i + 1] - own->columns[i]);
    adams_between(job, i);
    for (const struct box *box = own->boxes + own->first_box[i]; box < own->boxes + own->first_box[i + 1]; box++)
      adams_right_rows(job, i, box, 0, box->height);
    adams_lengths(job, i);
  }
  return 0;
}

/* Makes v of W'u, the sum of all shares; then this work's share of W v. */
int gap_adams_right(const struct job *job) {
  const struct adams_numbers *own = job->own;
#pragma omp parallel num_threads(job->threads)
  {
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < job->n; i++) adams_between(job, i);
    for (int64_t i = 0; i < job->n; i++) {
      const struct box *first = own->boxes + own->first_box[i], *last = own->boxes + own->first_box[i + 1];
      if (!adams_has_few_boxes(own, i)) {
#pragma omp for schedule(dynamic) nowait
        for (const struct box *box = first; box < last; box++) adams_right_rows(job, i, box, 0, box->height);
        continue;
      }
      for (const struct box *box = first; box < last; box++) {
#pragma omp for schedule(dynamic) nowait
        for (int64_t low = 0; low < box->height; low += ROWS)
          adams_right_rows(job, i, box, low, box->height - low < ROWS ? box->height : low + ROWS);
      }
    }
  }
  return 0;
}

/* The lengths of W v, the sum of all shares. */
int gap_adams_settle(const struct job *job) {
#pragma omp parallel for num_threads(job->threads) schedule(dynamic)
  for (int64_t i = 0; i < job->n; i++) adams_lengths(job, i);
  return 0;
}

/* The box that element at of fragment i is in: they lie one behind the other. */
static const struct box *adams_box_of(const struct adams_numbers *own, int64_t i, int64_t at) {
  int64_t low = own->first_box[i], high = own->first_box[i + 1];
  while (high - low > 1) {
    int64_t middle = (low + high) / 2;
    if (own->boxes[middle].at <= at)
      low = middle;
    else
      high = middle;
  }
  return own->boxes + low;
}

/* Sets n numbers to x. Nothing of them is read, so where possible they go to memory without being fetched first. */
static void fill(float *to, float x, int64_t n) {
  int64_t k = 0;
#ifdef __SSE2__
  for (; k < n && (uintptr_t)(to + k) % 16; k++) to[k] = x;
  for (; k + 4 <= n; k += 4) _mm_stream_ps(to + k, _mm_set1_ps(x));
#endif
  for (; k < n; k++) to[k] = x;
}

/* Decays n elements p from at of a matrix, and writes the new u where they are: row by row. That of zeros stays. */
static void adams_spectral_decay(const struct job *job, int64_t i, int64_t at, int64_t n, float *restrict p) {
  const struct adams_numbers *own = job->own;
  float *restrict left = (float *)second_of(job, i, 1) + at;
  double decay = own->decay * sqrt(own->R[i]);
  const struct box *box = adams_box_of(own, i, at);
  for (int64_t k = 0; k < n;) {
    if (at + k - box->at == box->height * box->width) box++;
    int64_t r = (at + k - box->at) / box->width, c = (at + k - box->at) % box->width;
    int64_t count = box->width - c < n - k ? box->width - c : n - k;
    double norm = own->norm[own->of_norm[i] + box->matrix], Wv = own->Wv[own->rows[i] + box->row + r];
    const double *restrict v = own->v + own->columns[i] + box->column + c;
    float u = Wv / norm, part = decay * Wv;
    if (norm > 0) {
      for (int64_t e = 0; e < count; e++) p[k + e] -= part * (float)v[e];
      fill(left + k, u, count);
    }
    k += count;
  }
}
