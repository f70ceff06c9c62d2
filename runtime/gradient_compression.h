// GradientCompression: the mathematics of --compress, applied to the gradient of one shard.
//
//   fp16, bf16   every element as it is after a round trip through that type
//   topk         of each weight, its residual is added and the elements of largest absolute value are kept
//                (kernels/top_k.h), ceil(ratio * n) of them; what is not kept is the residual of the next
//                step. How many, and how residuals are scaled: TopKStep. Biases and batch norm's parameters
//                are small and stay as they are.
//
// With momentum correction (runtime/momentum_correction.h) the momentum of weights comes before top-k.
//
// Running statistics are no gradients and are left alone. With --compress-where all it takes place in the
// shard's gradient buffer before that is summed, so that the sum is the one that hosts would have exchanged
// were each shard a host of its own. Residuals and velocities belong to shards, never to ranks: the bits
// depend on --shards and not on the number of workers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/network_plan.h"
#include "kernels/reduce.h"
#include "kernels/top_k.h"
#include "runtime/buckets.h"
#include "runtime/momentum_correction.h"
#include "runtime/step_schedule.h"
#include "runtime/train_config.h"

namespace annulus {

// What a shard keeps from one step to the next, for each element of BucketPlan::elements. Null where it keeps
// none.
struct ShardState {
  float* residual = nullptr;
  float* velocity = nullptr;
};

class GradientCompression {
 public:
  // With --compress-where bridge, or none, apply() changes nothing.
  GradientCompression(const TrainConfig& config, const NetworkPlan& network, const BucketPlan& buckets);

  // Of the step that the calls of apply() up to the next begin() are of.
  void begin(const TopKStep& step) { step_ = step; }

  // Replaces the bucket's part of `gradient` by what would be sent of it; writes the weights of this bucket
  // in `to` from those in `from`, the shard's state after the step before.
  void apply(int bucket, float* gradient, const ShardState& from, const ShardState& to);

 private:
  struct Part {
    int64_t offset = 0, elements = 0;  // of a parameter, padding included
    int64_t unpadded = 0;
  };
  void round(int64_t n, float* values);

  std::vector<std::vector<Part>> parts_;  // by bucket: what is not sent as it is
  std::optional<TopK> top_k_;             // nothing: rounds to the type
  MomentumCorrection momentum_;
  TopKStep step_;
  DataType rounded_ = DataType::kF32;
  std::vector<std::byte> narrow_;  // one portion of a rounded gradient
};

}  // namespace annulus
