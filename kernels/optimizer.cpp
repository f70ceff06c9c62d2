#include "kernels/optimizer.h"

#include "telemetry/check.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/optimizer.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep

#include "kernels/elements-inl.h"

HWY_BEFORE_NAMESPACE();
namespace annulus::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Multiplications and additions are rounded apart: the pass waits for memory anyway, and so every instruction
// set and the plain loop give the same bits.
template <bool kMomentum, bool kNesterov, Store kWeights, Store kMoments>
void update(const SgdStep& step, int64_t n, const float* gradient, const float* old_weights,
            const float* old_moments, float* new_weights, float* new_moments) {
  const hn::CappedTag<float, 16> d;
  const auto rate = hn::Set(d, step.learning_rate);
  const auto momentum = hn::Set(d, step.momentum);
  const auto decay = hn::Set(d, step.weight_decay);
  for (int64_t i = 0; i < n; i += static_cast<int64_t>(hn::Lanes(d))) {
    const auto w = hn::Load(d, old_weights + i);
    auto direction = hn::Add(hn::Load(d, gradient + i), hn::Mul(decay, w));
    if constexpr (kMomentum) {
      const auto m = hn::Add(hn::Mul(momentum, hn::Load(d, old_moments + i)), direction);
      put<kMoments>(m, d, new_moments + i);
      direction = kNesterov ? hn::Add(direction, hn::Mul(momentum, m)) : m;
    }
    put<kWeights>(hn::Sub(w, hn::Mul(rate, direction)), d, new_weights + i);
  }
}

template <Store kWeights, Store kMoments>
auto pick_update(const SgdStep& step) {
  return step.momentum == 0 ? &update<false, false, kWeights, kMoments>
         : step.nesterov    ? &update<true, true, kWeights, kMoments>
                            : &update<true, false, kWeights, kMoments>;
}

void update_any(const SgdStep& step, int64_t n, const float* gradient, const float* old_weights,
                const float* old_moments, float* new_weights, float* new_moments, UpdateStores stores) {
  constexpr Store kCached = Store::kCached, kStreaming = Store::kStreaming;
  const bool weights = stores.weights == kStreaming, moments = stores.moments == kStreaming;
  const auto run =
      weights ? (moments ? pick_update<kStreaming, kStreaming>(step) : pick_update<kStreaming, kCached>(step))
              : (moments ? pick_update<kCached, kStreaming>(step) : pick_update<kCached, kCached>(step));
  run(step, n, gradient, old_weights, old_moments, new_weights, new_moments);
}

}  // namespace annulus::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace annulus {

HWY_EXPORT(update_any);

void sgd_update(const SgdStep& step, int64_t n, const float* gradient, const float* old_weights,
                const float* old_moments, float* new_weights, float* new_moments, UpdateStores stores) {
  CHECK(n % 64 == 0, "n = {}", n);
  HWY_DYNAMIC_DISPATCH(update_any)
  (step, n, gradient, old_weights, old_moments, new_weights, new_moments, stores);
}

void sgd_update_reference(const SgdStep& step, int64_t n, const float* gradient, const float* old_weights,
                          const float* old_moments, float* new_weights, float* new_moments) {
  for (int64_t i = 0; i < n; ++i) {
    float direction = gradient[i] + step.weight_decay * old_weights[i];
    if (step.momentum != 0) {
      const float moment = step.momentum * old_moments[i] + direction;
      new_moments[i] = moment;
      direction = step.nesterov ? direction + step.momentum * moment : moment;
    }
    new_weights[i] = old_weights[i] - step.learning_rate * direction;
  }
}

}  // namespace annulus
#endif  // HWY_ONCE
