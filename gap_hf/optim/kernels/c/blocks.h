/* Fragments cut into blocks of up to BLOCK elements, which are dealt to the threads. */

#ifndef GAP_BLOCKS_H
#define GAP_BLOCKS_H

#include <stdlib.h>

#include "job.h"

struct blocks {
  int64_t *first;    /* n + 1: a fragment's first block */
  int64_t *fragment; /* of each block */
  double *partial;   /* sums of each block */
};

static void free_blocks(struct blocks *blocks) {
  free(blocks->first);
  free(blocks->fragment);
  free(blocks->partial);
}

/* Returns whether there was memory for them; sums is how many are taken of each block. */
static int cut(const struct job *job, int64_t sums, struct blocks *blocks) {
  *blocks = (struct blocks){malloc((job->n + 1) * sizeof(int64_t)), NULL, NULL};
  if (!blocks->first) return 0;
  int64_t count = 0;
  for (int64_t i = 0; i < job->n; i++) {
    blocks->first[i] = count;
    count += (job->numel[i] + BLOCK - 1) / BLOCK;
  }
  blocks->first[job->n] = count;
  blocks->fragment = malloc((count + 1) * sizeof(int64_t));
  blocks->partial = malloc((count * sums + 1) * sizeof(double));
  if (!blocks->fragment || !blocks->partial) {
    free_blocks(blocks);
    return 0;
  }
  for (int64_t i = 0; i < job->n; i++)
    for (int64_t b = blocks->first[i]; b < blocks->first[i + 1]; b++) blocks->fragment[b] = i;
  return 1;
}

static void place(const struct job *job, const struct blocks *blocks, int64_t b, int64_t *i, int64_t *begin,
                  int64_t *end) {
  *i = blocks->fragment[b];
  *begin = (b - blocks->first[*i]) * BLOCK;
  *end = job->numel[*i] - *begin < BLOCK ? job->numel[*i] : *begin + BLOCK;
}

/* Whether fragment i is so large that threads which take whole fragments would not finish together. */
static int is_shared(const struct job *job, const struct blocks *blocks, int64_t i) {
  int64_t mine = blocks->first[i + 1] - blocks->first[i];
  return mine > 1 && mine * job->threads * 8 > blocks->first[job->n];
}

/* The sums of fragment i: always in the order of its blocks. */
static void add_up(const struct blocks *blocks, int64_t count, int64_t i, double *sums) {
  for (int64_t s = 0; s < count; s++) {
    sums[s] = 0;
    for (int64_t b = blocks->first[i]; b < blocks->first[i + 1]; b++) sums[s] += blocks->partial[b * count + s];
  }
}

#endif
