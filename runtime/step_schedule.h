// Which images a step reads and with which learning rate: pure functions of the configuration and the step
// number.
#pragma once

#include <cstdint>

#include "collectives/summation_tree.h"
#include "runtime/train_config.h"

namespace annulus {

// The images of one step: places in the epoch's order (runtime/data_order.h says which image stands where).
struct StepImages {
  int64_t epoch = 0;  // from 0
  int64_t begin = 0;  // place of the first image in the epoch's order
  int64_t count = 0;  // global batch of this step; less than the configured one only in a kept last batch
  bool ends_epoch = false;
};

// The version of the weights that step `step` computes its gradients from: the update before it, or with
// staleness 1 the one before that, since the last one is still being made.
inline uint32_t version_read(uint32_t step, int staleness) {
  const uint32_t before = 1 + static_cast<uint32_t>(staleness);
  return step > before ? step - before : 0;
}

class StepSchedule {
 public:
  // `images`: in the training set. Throws UserError if not even one batch is to be had.
  StepSchedule(const TrainConfig& config, int64_t images);

  int64_t steps() const { return steps_; }  // of the whole run
  int64_t steps_per_epoch() const { return steps_per_epoch_; }
  int64_t epochs() const;  // of the whole run, a begun one counted

  // `step` counts from 1.
  StepImages images(int64_t step) const;
  float learning_rate(int64_t step) const;

 private:
  int64_t images_;
  int64_t batch_;
  int64_t steps_per_epoch_;
  int64_t steps_;
  double learning_rate_;
  bool cosine_;
};

}  // namespace annulus
