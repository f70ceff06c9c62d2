// Loops of our own on the thread pool that oneDNN runs on, so that a worker has one pool: OpenMP's or
// oneTBB's, chosen by the build (parallel_for_openmp.cpp, parallel_for_tbb.cpp).
#pragma once

#include <cstdint>

namespace annulus {

// Makes the calling thread's parallel regions, oneDNN's included, use this many threads. Call before
// primitives are made, on the thread that runs them.
void set_threads(int threads);

// Calls body(context, begin, end) for `threads` neighbouring, nearly equal parts of [0, n), at the same time.
void run_in_parallel(int threads, int64_t n, void (*body)(void*, int64_t, int64_t), void* context);

// Calls body(begin, end) so that the ranges cover [0, n) once. The split depends on n and threads alone. With
// one thread it is a plain call and touches no thread pool. The body must not throw.
template <typename Body>
void parallel_for(int threads, int64_t n, Body body) {
  if (n <= 0) return;
  if (threads <= 1 || n == 1) {
    body(int64_t{0}, n);
    return;
  }
  run_in_parallel(
      threads, n,
      [](void* context, int64_t begin, int64_t end) { (*static_cast<Body*>(context))(begin, end); }, &body);
}

}  // namespace annulus
