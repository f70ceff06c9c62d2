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
template <bool kMomentum, bool kNesterov, bool kCorrected, Store kWeights, Store kMoments>
void update(const SgdStep& step, int64_t n, const float* gradient, const float* old_weights,
            const float* old_moments, float* new_weights, float* new_moments) {
  const hn::CappedTag<float, 16> d;
  const auto rate = hn::Set(d, step.learning_rate);
  const auto momentum = hn::Set(d, step.momentum);
  const auto decay = hn::Set(d, step.weight_decay);
  for (int64_t i = 0; i < n; i += static_cast<int64_t>(hn::Lanes(d))) {
    const auto w = hn::Load(d, old_weights + i);
    auto direction = hn::Mul(decay, w);
    if constexpr (!kCorrected) direction = hn::Add(hn::Load(d, gradient + i), direction);
    if constexpr (kMomentum) {
      const auto m = hn::Add(hn::Mul(momentum, hn::Load(d, old_moments + i)), direction);
      put<kMoments>(m, d, new_moments + i);
      direction = kNesterov ? hn::Add(direction, hn::Mul(momentum, m)) : m;
    }
    if constexpr (kCorrected) direction = hn::Add(hn::Load(d, gradient + i), direction);
    put<kWeights>(hn::Sub(w, hn::Mul(rate, direction)), d, new_weights + i);
  }
}

template <Store kWeights, Store kMoments>
auto pick_update(const SgdStep& step) {
  if (step.momentum == 0) return &update<false, false, false, kWeights, kMoments>;
  if (step.corrected) {
    return step.nesterov ? &update<true, true, true, kWeights, kMoments>
                         : &update<true, false, true, kWeights, kMoments>;
  }
  return step.nesterov ? &update<true, true, false, kWeights, kMoments>
                       : &update<true, false, false, kWeights, kMoments>;
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

void velocity(const SgdStep& step, int64_t n, float* gradient, const float* old_velocity,
              float* new_velocity) {
  for_each_vector(n, [&](auto d, int64_t i) {
    const auto momentum = hn::Set(d, step.momentum);
    const auto g = hn::LoadU(d, gradient + i);
    const auto v = hn::Add(hn::Mul(momentum, hn::LoadU(d, old_velocity + i)), g);
    hn::StoreU(v, d, new_velocity + i);
    hn::StoreU(step.nesterov ? hn::Add(g, hn::Mul(momentum, v)) : v, d, gradient + i);
  });
}

}  // namespace annulus::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace annulus {

HWY_EXPORT(update_any);
HWY_EXPORT(velocity);

void sgd_update(const SgdStep& step, int64_t n, const float* gradient, const float* old_weights,
                const float* old_moments, float* new_weights, float* new_moments, UpdateStores stores) {
  CHECK(n % 64 == 0, "n = {}", n);
  HWY_DYNAMIC_DISPATCH(update_any)
  (step, n, gradient, old_weights, old_moments, new_weights, new_moments, stores);
}

void velocity_update(const SgdStep& step, int64_t n, float* gradient, const float* old_velocity,
                     float* new_velocity) {
  HWY_DYNAMIC_DISPATCH(velocity)(step, n, gradient, old_velocity, new_velocity);
}

void velocity_update_reference(const SgdStep& step, int64_t n, float* gradient, const float* old_velocity,
                               float* new_velocity) {
  for (int64_t i = 0; i < n; ++i) {
    const float velocity = step.momentum * old_velocity[i] + gradient[i];
    new_velocity[i] = velocity;
    gradient[i] = step.nesterov ? gradient[i] + step.momentum * velocity : velocity;
  }
}

void sgd_update_reference(const SgdStep& step, int64_t n, const float* gradient, const float* old_weights,
                          const float* old_moments, float* new_weights, float* new_moments) {
  for (int64_t i = 0; i < n; ++i) {
    const bool corrected = step.momentum != 0 && step.corrected;
    float direction = step.weight_decay * old_weights[i];
    if (!corrected) direction = gradient[i] + direction;
    if (step.momentum != 0) {
      const float moment = step.momentum * old_moments[i] + direction;
      new_moments[i] = moment;
      direction = step.nesterov ? direction + step.momentum * moment : moment;
    }
    if (corrected) direction = gradient[i] + direction;
    new_weights[i] = old_weights[i] - step.learning_rate * direction;
  }
}

}  // namespace annulus
#endif  // HWY_ONCE
