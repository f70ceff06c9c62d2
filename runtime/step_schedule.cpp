#include "runtime/step_schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "telemetry/check.h"
#include "telemetry/error.h"

namespace annulus {

StepSchedule::StepSchedule(const TrainConfig& config, int64_t images)
    : images_(images),
      batch_(config.batch_size),
      eval_every_(config.eval_every),
      checkpoint_every_(config.checkpoint_every),
      checkpoint_epochs_(config.checkpoint_epochs),
      learning_rate_(config.learning_rate),
      shape_(config.schedule == "cosine" ? Shape::kCosine
             : config.schedule == "step" ? Shape::kStep
                                         : Shape::kConstant),
      warmup_(config.warmup),
      decay_every_(config.decay_every.value_or(kDecayEvery)),
      decay_factor_(config.decay_factor.value_or(kDecayFactor)),
      ratio_(config.ratio.value_or(kRatio)) {
  const bool keep = config.last_batch == "keep";
  steps_per_epoch_ = keep ? (images + batch_ - 1) / batch_ : images / batch_;
  if (steps_per_epoch_ == 0) {
    throw UserError::format(
        "--batch-size {}: the data set has only {} images and --last-batch drop drops what is left of a "
        "batch; use a "
        "batch of at most {} or --last-batch keep",
        batch_, images, images);
  }
  ratio_warmup_ = config.ratio_warmup.value_or(kRatioWarmup) * static_cast<double>(steps_per_epoch_);
  steps_ = config.steps.value_or(config.epochs * steps_per_epoch_);
  if (steps_ >= int64_t{1} << 31) {
    throw UserError::format("{} steps are too many: a run has less than 2^31; use fewer --epochs or --steps",
                            steps_);
  }
  if (warmup_ > steps_) {
    throw UserError::format("--warmup {}: longer than the run of {} steps; give at most {}, or more {}",
                            warmup_, steps_, steps_, config.steps ? "--steps" : "--epochs");
  }
}

int64_t StepSchedule::epochs() const { return (steps_ + steps_per_epoch_ - 1) / steps_per_epoch_; }

StepImages StepSchedule::images(int64_t step) const {
  CHECK(step >= 1);
  const int64_t in_epoch = (step - 1) % steps_per_epoch_;
  const int64_t begin = in_epoch * batch_, epoch = (step - 1) / steps_per_epoch_;
  const bool ends_epoch = in_epoch + 1 == steps_per_epoch_;
  const bool due = ends_epoch && eval_every_ > 0 && (epoch + 1) % eval_every_ == 0;
  const bool saved = (checkpoint_every_ > 0 && step % checkpoint_every_ == 0) ||
                     (ends_epoch && checkpoint_epochs_ > 0 && (epoch + 1) % checkpoint_epochs_ == 0);
  return {.epoch = epoch,
          .begin = begin,
          .count = std::min(batch_, images_ - begin),
          .ends_epoch = ends_epoch,
          .evaluated = due || step == steps_,
          .saved = saved};
}

float StepSchedule::learning_rate(int64_t step) const {
  double share = 1;
  if (step <= warmup_) {
    share = static_cast<double>(step) / static_cast<double>(warmup_);
  } else if (shape_ == Shape::kStep) {
    share = std::pow(decay_factor_, static_cast<double>(images(step).epoch / decay_every_));
  } else if (shape_ == Shape::kCosine) {
    const double done = static_cast<double>(step - 1 - warmup_) / static_cast<double>(steps_ - warmup_);
    share = 0.5 * (1 + std::cos(std::numbers::pi * done));
  }
  return static_cast<float>(learning_rate_ * share);
}

TopKStep StepSchedule::top_k(int64_t step) const {
  TopKStep now{.ratio = ratio_};
  const auto done = static_cast<double>(step - 1);
  if (done < ratio_warmup_ && ratio_ < kFirstRatio) {
    now.ratio = kFirstRatio * std::pow(ratio_ / kFirstRatio, done / ratio_warmup_);
  }
  if (step > 1) now.residual_scale = learning_rate(step - 1) / learning_rate(step);
  if (!std::isfinite(now.residual_scale)) now.residual_scale = 1;  // drops have come down to nothing
  return now;
}

}  // namespace annulus
