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
  bool evaluated = false;  // whether the test images are evaluated after it
  bool saved = false;      // whether a checkpoint of it is due, by steps or epochs
};

// The version of the weights that step `step` computes its gradients from: the update before it, or with
// staleness 1 the one before that, since the last one is still being made.
inline uint32_t version_read(uint32_t step, int staleness) {
  const uint32_t before = 1 + static_cast<uint32_t>(staleness);
  return step > before ? step - before : 0;
}

// Where --ratio-warmup begins, unless --ratio is more.
inline constexpr double kFirstRatio = 0.25;

// How --compress topk selects in one step.
struct TopKStep {
  // The share of a weight's gradient that is sent: --ratio, to which it falls from kFirstRatio, by the same
  // factor in each step, over the epochs of --ratio-warmup (Lin et al., "Deep Gradient Compression", ICLR
  // 2018).
  double ratio = 1;
  // What residuals are multiplied by: the learning rate of the step before over this one's. They wait for
  // many steps, while the rate changes, and so count at the rate of the step that they are from (Zheng, Huang
  // and Kwok, "Communication-Efficient Distributed Blockwise Momentum SGD with Error-Feedback", NeurIPS
  // 2019).
  float residual_scale = 1;
};

class StepSchedule {
 public:
  // `images`: in the training set. Throws UserError if not even one batch is to be had, or if the warm-up is
  // longer than the run.
  StepSchedule(const TrainConfig& config, int64_t images);

  int64_t steps() const { return steps_; }  // of the whole run
  int64_t steps_per_epoch() const { return steps_per_epoch_; }
  int64_t epochs() const;  // of the whole run, a begun one counted

  // `step` counts from 1.
  StepImages images(int64_t step) const;
  // With a warm-up of N steps, step k <= N has k/N of the configured rate (Goyal et al., "Accurate, Large
  // Minibatch SGD: Training ImageNet in 1 Hour", 2017). Then
  //   constant  stays there
  //   step      is multiplied by the factor every so many epochs, counted from the run's start
  //   cosine    falls from there to zero by half a cosine over the remaining steps (Loshchilov and Hutter,
  //             "SGDR", ICLR 2017, without restarts)
  float learning_rate(int64_t step) const;
  TopKStep top_k(int64_t step) const;

 private:
  enum class Shape { kConstant, kStep, kCosine };

  int64_t images_;
  int64_t batch_;
  int64_t eval_every_;         // epochs; 0: only at the end
  int64_t checkpoint_every_;   // steps; 0: none
  int64_t checkpoint_epochs_;  // epochs; 0: none
  int64_t steps_per_epoch_;
  int64_t steps_;
  double learning_rate_;
  Shape shape_;
  int64_t warmup_;
  int64_t decay_every_;  // epochs
  double decay_factor_;
  double ratio_;
  double ratio_warmup_;  // steps
};

}  // namespace annulus
