#include "kernels/adam.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/adam.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep

#include "kernels/elements-inl.h"

HWY_BEFORE_NAMESPACE();
namespace annulus::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Multiplications and additions are rounded apart, as in optimizer.cpp; division and square root are rounded
// correctly everywhere. So every instruction set and the plain loop give the same bits.
template <Store kWeights, Store kMoments>
void adam(const AdamStep& step, int64_t n, const float* gradient, const float* old_weights,
          const float* old_first, const float* old_second, float* new_weights, float* new_first,
          float* new_second) {
  const hn::CappedTag<float, 16> d;
  const auto beta1 = hn::Set(d, step.beta1), rest1 = hn::Set(d, step.rest1);
  const auto beta2 = hn::Set(d, step.beta2), rest2 = hn::Set(d, step.rest2);
  const auto decay = hn::Set(d, step.decay), keep = hn::Set(d, step.keep);
  const auto epsilon = hn::Set(d, step.epsilon), root_scale = hn::Set(d, step.root_scale);
  const auto rate = hn::Set(d, step.rate);
  for (int64_t i = 0; i < n; i += static_cast<int64_t>(hn::Lanes(d))) {
    const auto w = hn::Load(d, old_weights + i);
    const auto g = hn::Add(hn::Load(d, gradient + i), hn::Mul(decay, w));
    const auto m = hn::Add(hn::Mul(beta1, hn::Load(d, old_first + i)), hn::Mul(rest1, g));
    const auto v = hn::Add(hn::Mul(beta2, hn::Load(d, old_second + i)), hn::Mul(rest2, hn::Mul(g, g)));
    put<kMoments>(m, d, new_first + i);
    put<kMoments>(v, d, new_second + i);
    const auto denominator = hn::Add(hn::Mul(hn::Sqrt(v), root_scale), epsilon);
    const auto move = hn::Div(hn::Mul(rate, m), denominator);
    put<kWeights>(hn::Sub(hn::Mul(keep, w), move), d, new_weights + i);
  }
}

void adam_any(const AdamStep& step, int64_t n, const float* gradient, const float* old_weights,
              const float* old_first, const float* old_second, float* new_weights, float* new_first,
              float* new_second, UpdateStores stores) {
  constexpr Store kCached = Store::kCached, kStreaming = Store::kStreaming;
  const bool weights = stores.weights == kStreaming, moments = stores.moments == kStreaming;
  const auto run = weights ? (moments ? &adam<kStreaming, kStreaming> : &adam<kStreaming, kCached>)
                           : (moments ? &adam<kCached, kStreaming> : &adam<kCached, kCached>);
  run(step, n, gradient, old_weights, old_first, old_second, new_weights, new_first, new_second);
}

}  // namespace annulus::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <cmath>

#include "telemetry/check.h"

namespace annulus {

HWY_EXPORT(adam_any);

AdamStep adam_step(const AdamOptions& options, double learning_rate, int64_t t) {
  CHECK(t >= 1, "update {}", t);
  const auto updates = static_cast<double>(t);
  const double correction1 = 1 - std::pow(options.beta1, updates);
  const double correction2 = 1 - std::pow(options.beta2, updates);
  return {.beta1 = static_cast<float>(options.beta1),
          .rest1 = static_cast<float>(1 - options.beta1),
          .beta2 = static_cast<float>(options.beta2),
          .rest2 = static_cast<float>(1 - options.beta2),
          .epsilon = static_cast<float>(options.epsilon),
          .decay = options.decoupled ? 0.0f : static_cast<float>(options.weight_decay),
          .keep = options.decoupled ? static_cast<float>(1 - learning_rate * options.weight_decay) : 1.0f,
          .rate = static_cast<float>(learning_rate / correction1),
          .root_scale = static_cast<float>(1 / std::sqrt(correction2))};
}

void adam_update(const AdamStep& step, int64_t n, const float* gradient, const float* old_weights,
                 const float* old_first, const float* old_second, float* new_weights, float* new_first,
                 float* new_second, UpdateStores stores) {
  CHECK(n % 64 == 0, "n = {}", n);
  HWY_DYNAMIC_DISPATCH(adam_any)
  (step, n, gradient, old_weights, old_first, old_second, new_weights, new_first, new_second, stores);
}

void adam_update_reference(const AdamStep& step, int64_t n, const float* gradient, const float* old_weights,
                           const float* old_first, const float* old_second, float* new_weights,
                           float* new_first, float* new_second) {
  for (int64_t i = 0; i < n; ++i) {
    const float g = gradient[i] + step.decay * old_weights[i];
    const float m = step.beta1 * old_first[i] + step.rest1 * g;
    const float v = step.beta2 * old_second[i] + step.rest2 * (g * g);
    new_first[i] = m;
    new_second[i] = v;
    const float denominator = std::sqrt(v) * step.root_scale + step.epsilon;
    new_weights[i] = step.keep * old_weights[i] - step.rate * m / denominator;
  }
}

}  // namespace annulus
#endif  // HWY_ONCE
