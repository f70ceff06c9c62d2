#include "kernels/relu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/relu.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace annulus::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

void mask_gradient(int64_t n, const float* y, float* gradient) {
  const hn::CappedTag<float, 16> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto zero = hn::Zero(d);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto open = hn::Gt(hn::LoadU(d, y + i), zero);
    hn::StoreU(hn::IfThenElseZero(open, hn::LoadU(d, gradient + i)), d, gradient + i);
  }
  for (; i < n; ++i) gradient[i] = y[i] > 0 ? gradient[i] : 0.0F;
}

}  // namespace annulus::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace annulus {

HWY_EXPORT(mask_gradient);

void relu_backward(int64_t n, const float* y, float* gradient) {
  HWY_DYNAMIC_DISPATCH(mask_gradient)(n, y, gradient);
}

void relu_backward_reference(int64_t n, const float* y, float* gradient) {
  for (int64_t i = 0; i < n; ++i) gradient[i] = y[i] > 0 ? gradient[i] : 0.0F;
}

}  // namespace annulus
#endif  // HWY_ONCE
