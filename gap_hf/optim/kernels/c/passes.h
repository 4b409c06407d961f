/* The passes over all fragments of a family: included once for each, with FAMILY(name) and EXPORTED(name) defined.

   What is exported returns 0, or 1 where there was no memory: then nothing has changed. What is applied is a choice per
   fragment or, of a mix, K weights per fragment. */

/* This thread's share of the blocks of fragments [from, to). The second pass takes them in reverse, beginning with those
   that the first one touched last. */
static void FAMILY(observe_share)(const struct job *job, const struct blocks *blocks, int64_t from, int64_t to,
                                  int64_t thread, int64_t threads) {
  int64_t low = blocks->first[from], count = blocks->first[to] - low, last = -1, i, begin, end;
  float known[FAMILY(known)(job)];
  for (int64_t b = low + count * thread / threads; b < low + count * (thread + 1) / threads; b++) {
    place(job, blocks, b, &i, &begin, &end);
    if (i != last) FAMILY(before_observe)(job, i, known);
    last = i;
    FAMILY(observe)(job, i, begin, end, known, blocks->partial + b * FAMILY(sums)(job));
  }
}

static void FAMILY(apply_share)(const struct job *job, const struct blocks *blocks, int64_t from, int64_t to,
                                int64_t thread, int64_t threads, const int64_t *choice, const double *weights,
                                const uint8_t *reset) {
  int64_t low = blocks->first[from], count = blocks->first[to] - low, last = -1, i, begin, end;
  float known[FAMILY(known)(job)];
  for (int64_t b = low + count * (thread + 1) / threads - 1; b >= low + count * thread / threads; b--) {
    place(job, blocks, b, &i, &begin, &end);
    if (job->mixes) {
      if (i != last) FAMILY(before_mix)(job, i, weights + i * job->K, known);
      FAMILY(mix)(job, i, begin, end, known, reset[i]);
    } else {
      if (i != last) FAMILY(before_apply)(job, i, choice[i], known);
      FAMILY(apply)(job, i, begin, end, choice[i], known, reset[i]);
    }
    last = i;
  }
}

/* The first pass; sums: n rows. */
int EXPORTED(observe)(const struct job *job, double *sums) {
  int64_t S = FAMILY(sums)(job);
  struct blocks blocks;
  if (!cut(job, S, &blocks)) return 1;
#pragma omp parallel num_threads(job->threads)
  FAMILY(observe_share)(job, &blocks, 0, job->n, THIS_THREAD);
  for (int64_t i = 0; i < job->n; i++) add_up(&blocks, S, i, sums + i * S);
  free_blocks(&blocks);
  return 0;
}

/* The second pass; choice or weights, and reset, of each fragment. */
int EXPORTED(apply)(const struct job *job, const int64_t *choice, const double *weights, const uint8_t *reset) {
  struct blocks blocks;
  if (!cut(job, 0, &blocks)) return 1;
#pragma omp parallel num_threads(job->threads)
  FAMILY(apply_share)(job, &blocks, 0, job->n, THIS_THREAD, choice, weights, reset);
  free_blocks(&blocks);
  return 0;
}

/* All of a step with constant weights, in one pass. */
int EXPORTED(step_constant)(const struct job *job) {
  struct blocks blocks;
  if (!cut(job, 0, &blocks)) return 1;
#pragma omp parallel num_threads(job->threads)
  {
    int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads(), last = -1, i, begin, end;
    int64_t count = blocks.first[job->n];
    float known[FAMILY(known)(job)];
    for (int64_t b = count * thread / threads; b < count * (thread + 1) / threads; b++) {
      place(job, &blocks, b, &i, &begin, &end);
      if (i != last) FAMILY(before_mix)(job, i, job->constant, known);
      last = i;
      FAMILY(step_constant)(job, i, begin, end, known);
    }
  }
  free_blocks(&blocks);
  return 0;
}

/* Between the passes over fragment i: its choice. The arguments are those of step. */
static void FAMILY(choose_one)(const struct job *job, const struct blocks *blocks, int64_t i, double *sums,
                               int64_t *choice, double *weights, int64_t *negative, uint8_t *reset) {
  int64_t S = FAMILY(sums)(job);
  double J[job->K];
  add_up(blocks, S, i, sums + i * S);
  FAMILY(score)(job, sums + i * S, job->numel[i], J);
  reset[i] = choose_for_one(job, J, choice + i, weights + i * job->K, negative + i);
}

/* Both passes with a choice per fragment between them, fragment by fragment, so that the second pass finds what the first
   one left in the cache. Large fragments are shared by all threads; of the others each thread takes some whole. sums: n
   rows; choice, weights, negative (in and out) and reset: of each fragment. */
int EXPORTED(step)(const struct job *job, double *sums, int64_t *choice, double *weights, int64_t *negative,
                   uint8_t *reset) {
  struct blocks blocks;
  if (!cut(job, FAMILY(sums)(job), &blocks)) return 1;
#pragma omp parallel num_threads(job->threads)
  {
    for (int64_t i = 0; i < job->n; i++) {
      if (!is_shared(job, &blocks, i)) continue;
      FAMILY(observe_share)(job, &blocks, i, i + 1, THIS_THREAD);
#pragma omp barrier
#pragma omp single
      FAMILY(choose_one)(job, &blocks, i, sums, choice, weights, negative, reset);
      FAMILY(apply_share)(job, &blocks, i, i + 1, THIS_THREAD, choice, weights, reset);
    }
#pragma omp for schedule(dynamic, job->n / (256 * job->threads) + 1)
    for (int64_t i = 0; i < job->n; i++) {
      if (is_shared(job, &blocks, i)) continue;
      struct job alone = *job;
      alone.follows = job->numel[i] <= CACHED;
      FAMILY(observe_share)(&alone, &blocks, i, i + 1, 0, 1);
      FAMILY(choose_one)(job, &blocks, i, sums, choice, weights, negative, reset);
      FAMILY(apply_share)(job, &blocks, i, i + 1, 0, 1, choice, weights, reset);
    }
  }
  free_blocks(&blocks);
  return 0;
}

/* Both passes with one choice for all between them. sums: n rows; J: K; J_bar (K), choice, weights (K) and negative in
   and out; reset out. */
int EXPORTED(step_for_all)(const struct job *job, double *sums, double *J, double *J_bar, int64_t *choice,
                           double *weights, int64_t *negative, uint8_t *reset) {
  int64_t S = FAMILY(sums)(job), *choices = malloc((job->n + 1) * sizeof(int64_t));
  uint8_t *resets = malloc(job->n + 1);
  double *of_each = malloc((job->n * job->K + 1) * sizeof(double));
  struct blocks blocks;
  if (!choices || !resets || !of_each || !cut(job, S, &blocks)) {
    free(choices);
    free(resets);
    free(of_each);
    return 1;
  }
#pragma omp parallel num_threads(job->threads)
  {
    FAMILY(observe_share)(job, &blocks, 0, job->n, THIS_THREAD);
#pragma omp barrier
#pragma omp single
    {
      double one[job->K];
      for (int64_t j = 0; j < job->K; j++) J[j] = 0;
      for (int64_t i = 0; i < job->n; i++) {
        add_up(&blocks, S, i, sums + i * S);
        FAMILY(score)(job, sums + i * S, job->numel[i], one);
        for (int64_t j = 0; j < job->K; j++) J[j] += one[j];
      }
      *reset = choose_for_all(job, J, J_bar, choice, weights, negative);
      for (int64_t i = 0; i < job->n; i++) {
        choices[i] = *choice, resets[i] = *reset;
        for (int64_t j = 0; j < job->K && job->mixes; j++) of_each[i * job->K + j] = weights[j];
      }
    }
    FAMILY(apply_share)(job, &blocks, 0, job->n, THIS_THREAD, choices, of_each, resets);
  }
  free(choices);
  free(resets);
  free(of_each);
  free_blocks(&blocks);
  return 0;
}
