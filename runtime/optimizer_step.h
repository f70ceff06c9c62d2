// OptimizerStep: the update of one step by the optimizer of a run, from one generation of the state to the
// next.
#pragma once

#include <cstdint>

#include "kernels/adam.h"
#include "kernels/optimizer.h"
#include "runtime/train_config.h"

namespace annulus {

AdamOptions adam_options(const TrainConfig& config);               // of adam and adamw
SgdStep sgd_step(const TrainConfig& config, float learning_rate);  // of the others

// What a gradient of norm `norm` is multiplied by so that its norm is at most `limit` (Pascanu, Mikolov and
// Bengio, "On the difficulty of training recurrent neural networks", ICML 2013), as PyTorch's
// clip_grad_norm_: limit / (norm + 1e-6), at most 1; NaN where the norm is.
float clip_factor(double limit, double norm);

// The arrays of one generation. Moments that the optimizer does not have are null.
struct StateArrays {
  float* weights = nullptr;
  float* moments[2] = {nullptr, nullptr};

  StateArrays operator+(int64_t elements) const {
    const auto at = [&](float* array) { return array == nullptr ? nullptr : array + elements; };
    return {weights + elements, {at(moments[0]), at(moments[1])}};
  }
};

// Made once per step; apply() may be called for any parts of the parameters, in any order.
class OptimizerStep {
 public:
  OptimizerStep() = default;
  // The update of step `step`, from 1.
  OptimizerStep(const TrainConfig& config, uint32_t step, float learning_rate);

  // Writes `count` elements of `to`, a multiple of 64, on 64-byte boundaries. `corrected`: the gradient has
  // its momentum already.
  void apply(int64_t count, const float* gradient, const StateArrays& from, const StateArrays& to,
             UpdateStores stores, bool corrected = false) const;
  // The same by plain loops, with the same bits.
  void apply_reference(int64_t count, const float* gradient, const StateArrays& from,
                       const StateArrays& to) const;

 private:
  bool adam_ = false;
  SgdStep sgd_step_;
  AdamStep adam_step_;
};

// How much of a running statistic each step's replaces, as torch.nn.BatchNorm2d's default.
inline constexpr float kStatisticsMomentum = 0.1f;

// updated[i] = old[i] + kStatisticsMomentum * (now[i] - old[i]), for `count` running statistics of batch
// norm; `now` is their mean over the shards of a step, weighted by images.
void average_in(int64_t count, const float* now, const float* old, float* updated);

}  // namespace annulus
