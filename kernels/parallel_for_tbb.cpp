#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/parallel_for.h>

#include <memory>

#include "kernels/parallel_for.h"

namespace annulus {

void set_threads(int threads) {
  // The limit holds while the object lives; a worker sets it once.
  static std::unique_ptr<tbb::global_control> limit;
  limit = std::make_unique<tbb::global_control>(tbb::global_control::max_allowed_parallelism, threads);
}

void run_in_parallel(int threads, int64_t n, void (*body)(void*, int64_t, int64_t), void* context) {
  tbb::parallel_for(
      0, threads,
      [&](int part) {
        const int64_t begin = n * part / threads, end = n * (part + 1) / threads;
        if (begin < end) body(context, begin, end);
      },
      tbb::static_partitioner());
}

}  // namespace annulus
