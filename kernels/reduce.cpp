#include "kernels/reduce.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/reduce.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace annulus::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

void add_vectors(int64_t n, const float* a, const float* b, float* sum) {
  const hn::CappedTag<float, 16> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    hn::StoreU(hn::Add(hn::LoadU(d, a + i), hn::LoadU(d, b + i)), d, sum + i);
  }
  for (; i < n; ++i) sum[i] = a[i] + b[i];
}

}  // namespace annulus::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace annulus {

HWY_EXPORT(add_vectors);

void add(int64_t n, const float* a, const float* b, float* sum) {
  HWY_DYNAMIC_DISPATCH(add_vectors)(n, a, b, sum);
}

void add_reference(int64_t n, const float* a, const float* b, float* sum) {
  for (int64_t i = 0; i < n; ++i) sum[i] = a[i] + b[i];
}

}  // namespace annulus
#endif  // HWY_ONCE
