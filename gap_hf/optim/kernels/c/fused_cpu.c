/* The fused CPU kernels: built once with the machine's C compiler and called through ctypes (fused_cpu.py).

   Two passes over the blocks of all fragments:

     observe   updates the buffers and takes the partial sums
     apply     steps the parameter by the chosen candidate

   Partial sums are accumulated in float within a tile, in double beyond, per block, and added up in the blocks' order:
   the result does not depend on the number of threads. step does both passes and the choice for a few fragments at a
   time, which the second pass then finds in the cache. Everything is computed in float; bfloat16 and float16 are
   converted tile by tile. */

#include "adai.h"
#include "adam.h"
#include "adams.h"
#include "blocks.h"
#include "choice.h"
#include "rf_rmsprop.h"
#include "sgdm.h"

#define THIS_THREAD omp_get_thread_num(), omp_get_num_threads()
int omp_get_thread_num(void);
int omp_get_num_threads(void);

/* One more step for each of the n counters. */
void gap_tick(double *const *steps, int64_t n) {
  for (int64_t i = 0; i < n; i++) *steps[i] += 1;
}

int gap_has_float16(void) {
#ifdef __FLT16_MAX__
  return 1;
#else
  return 0;
#endif
}

#define FAMILY(name) adai_##name
#define EXPORTED(name) gap_adai_##name
#include "passes.h"
#undef FAMILY
#undef EXPORTED

#define FAMILY(name) adam_##name
#define EXPORTED(name) gap_adam_##name
#include "passes.h"
#undef FAMILY
#undef EXPORTED

#define FAMILY(name) adams_##name
#define EXPORTED(name) gap_adams_##name
#include "passes.h"
#undef FAMILY
#undef EXPORTED

#define FAMILY(name) rf_rmsprop_##name
#define EXPORTED(name) gap_rf_rmsprop_##name
#include "passes.h"
#undef FAMILY
#undef EXPORTED

#define FAMILY(name) sgdm_##name
#define EXPORTED(name) gap_sgdm_##name
#include "passes.h"
