#include "bench/machine_peaks.h"

#include <algorithm>
#include <chrono>

#include "kernels/reduce.h"
#include "runtime/arena.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/machine_peaks.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace annulus::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Ten independent sums hide the latency of an addition. Returns the operations done.
double multiply_and_add(int64_t rounds, float* out) {
  const hn::ScalableTag<float> d;
  const auto a = hn::Set(d, 0.999f), b = hn::Set(d, 0.001f);
  // All different, so that none can stand in for another.
  auto s0 = hn::Iota(d, 0), s1 = hn::Iota(d, 1), s2 = hn::Iota(d, 2), s3 = hn::Iota(d, 3),
       s4 = hn::Iota(d, 4);
  auto s5 = hn::Iota(d, 5), s6 = hn::Iota(d, 6), s7 = hn::Iota(d, 7), s8 = hn::Iota(d, 8),
       s9 = hn::Iota(d, 9);
  for (int64_t i = 0; i < rounds; ++i) {
    s0 = hn::MulAdd(s0, a, b);
    s1 = hn::MulAdd(s1, a, b);
    s2 = hn::MulAdd(s2, a, b);
    s3 = hn::MulAdd(s3, a, b);
    s4 = hn::MulAdd(s4, a, b);
    s5 = hn::MulAdd(s5, a, b);
    s6 = hn::MulAdd(s6, a, b);
    s7 = hn::MulAdd(s7, a, b);
    s8 = hn::MulAdd(s8, a, b);
    s9 = hn::MulAdd(s9, a, b);
  }
  const auto sum = hn::Add(hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)),
                           hn::Add(hn::Add(hn::Add(s4, s5), hn::Add(s6, s7)), hn::Add(s8, s9)));
  hn::StoreU(sum, d, out);
  return 2.0 * 10 * static_cast<double>(hn::Lanes(d)) * static_cast<double>(rounds);
}

}  // namespace annulus::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace annulus {
namespace {

constexpr int kRuns = 7;

template <typename Body>
double seconds(const Body& body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

HWY_EXPORT(multiply_and_add);

double fma_peak_gflops() {
  float out[256] = {};  // more lanes than any instruction set has
  double best = 0;
  for (int run = 0; run < kRuns; ++run) {
    double operations = 0;
    const double time = seconds([&] { operations = HWY_DYNAMIC_DISPATCH(multiply_and_add)(2'000'000, out); });
    best = std::max(best, operations / time * 1e-9);
  }
  return out[0] == 0 ? 0 : best;  // the result is looked at, so the loop is not left out
}

double memory_gbps() {
  constexpr int64_t kBytes = int64_t{128} << 20;
  Arena memory(2 * kBytes);
  double best = 0;
  for (int run = 0; run < kRuns; ++run) {
    for (const Store store : {Store::kCached, Store::kStreaming}) {
      const double time =
          seconds([&] { copy(kBytes, memory.bytes().data(), memory.bytes().data() + kBytes, store); });
      best = std::max(best, 2 * kBytes / time * 1e-9);
    }
  }
  return best;
}

}  // namespace annulus
#endif  // HWY_ONCE
