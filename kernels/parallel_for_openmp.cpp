#include <omp.h>

#include "kernels/parallel_for.h"

namespace annulus {

void set_threads(int threads) { omp_set_num_threads(threads); }

void run_in_parallel(int threads, int64_t n, void (*body)(void*, int64_t, int64_t), void* context) {
#pragma omp parallel num_threads(threads)
  {
    // The runtime may grant fewer threads than asked for; the parts stay the same.
    for (int64_t part = omp_get_thread_num(); part < threads; part += omp_get_num_threads()) {
      const int64_t begin = n * part / threads, end = n * (part + 1) / threads;
      if (begin < end) body(context, begin, end);
    }
  }
}

}  // namespace annulus
