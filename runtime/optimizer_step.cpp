#include "runtime/optimizer_step.h"

namespace annulus {

AdamOptions adam_options(const TrainConfig& config) {
  const AdamOptions usual;
  return {.beta1 = config.beta1.value_or(usual.beta1),
          .beta2 = config.beta2.value_or(usual.beta2),
          .epsilon = config.epsilon.value_or(usual.epsilon),
          .weight_decay = config.weight_decay,
          .decoupled = config.optimizer == "adamw"};
}

SgdStep sgd_step(const TrainConfig& config, float learning_rate) {
  return {.learning_rate = learning_rate,
          .momentum = config.optimizer == "sgd" ? 0.0f : static_cast<float>(config.momentum),
          .weight_decay = static_cast<float>(config.weight_decay),
          .nesterov = config.optimizer == "nesterov"};
}

float clip_factor(double limit, double norm) {
  const double factor = limit / (norm + 1e-6);
  return factor >= 1 ? 1.0f : static_cast<float>(factor);
}

OptimizerStep::OptimizerStep(const TrainConfig& config, uint32_t step, float learning_rate)
    : adam_(uses_adam(config)) {
  if (adam_) {
    adam_step_ = adam_step(adam_options(config), learning_rate, step);
  } else {
    sgd_step_ = sgd_step(config, learning_rate);
  }
}

void OptimizerStep::apply(int64_t count, const float* gradient, const StateArrays& from,
                          const StateArrays& to, UpdateStores stores, bool corrected) const {
  if (adam_) {
    adam_update(adam_step_, count, gradient, from.weights, from.moments[0], from.moments[1], to.weights,
                to.moments[0], to.moments[1], stores);
  } else {
    SgdStep step = sgd_step_;
    step.corrected = corrected;
    sgd_update(step, count, gradient, from.weights, from.moments[0], to.weights, to.moments[0], stores);
  }
}

void OptimizerStep::apply_reference(int64_t count, const float* gradient, const StateArrays& from,
                                    const StateArrays& to) const {
  if (adam_) {
    adam_update_reference(adam_step_, count, gradient, from.weights, from.moments[0], from.moments[1],
                          to.weights, to.moments[0], to.moments[1]);
  } else {
    sgd_update_reference(sgd_step_, count, gradient, from.weights, from.moments[0], to.weights,
                         to.moments[0]);
  }
}

void average_in(int64_t count, const float* now, const float* old, float* updated) {
  for (int64_t i = 0; i < count; ++i) updated[i] = old[i] + kStatisticsMomentum * (now[i] - old[i]);
}

}  // namespace annulus
