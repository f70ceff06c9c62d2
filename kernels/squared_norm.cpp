#include "kernels/squared_norm.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/squared_norm.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

// Of squared_norm's sums.
#ifndef ANNULUS_SQUARED_NORM_SUMS
#define ANNULUS_SQUARED_NORM_SUMS
namespace annulus {
inline constexpr int64_t kNormSums = 16;
}  // namespace annulus
#endif

HWY_BEFORE_NAMESPACE();
namespace annulus::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// One pass for each vector of sums: they depend on nothing of each other, so passes overlap in the processor.
void square_sums(int64_t n, const float* x, double* sums) {
  const hn::CappedTag<double, 8> d;
  const hn::Rebind<float, decltype(d)> df;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t first = 0; first < kNormSums; first += lanes) {
    auto sum = hn::Zero(d);
    for (int64_t i = first; i < n; i += kNormSums) {
      const auto v = hn::PromoteTo(d, hn::Load(df, x + i));
      sum = hn::Add(sum, hn::Mul(v, v));
    }
    hn::Store(sum, d, sums + first);
  }
}

}  // namespace annulus::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "telemetry/check.h"

namespace annulus {

HWY_EXPORT(square_sums);

namespace {

double in_pairs(double* sums) {
  for (int64_t half = kNormSums / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) sums[i] += sums[i + half];
  }
  return sums[0];
}

}  // namespace

double squared_norm(int64_t n, const float* x) {
  CHECK(n % 64 == 0, "n = {}", n);
  alignas(64) double sums[kNormSums];
  HWY_DYNAMIC_DISPATCH(square_sums)(n, x, sums);
  return in_pairs(sums);
}

double squared_norm_reference(int64_t n, const float* x) {
  double sums[kNormSums] = {};
  for (int64_t i = 0; i < n; ++i) sums[i % kNormSums] += static_cast<double>(x[i]) * x[i];
  return in_pairs(sums);
}

}  // namespace annulus
#endif  // HWY_ONCE
