// GradientCompression: the mathematics of --compress, applied to the gradient of one shard.
//
//   fp16, bf16   every element as it is after a round trip through that type
//   topk         of each weight, its residual is added and the ceil(ratio * n) elements of largest absolute
//                value are kept (kernels/top_k.h); what is not kept is the residual of the next step.
//                Biases and batch norm's parameters are small and stay as they are.
//
// Running statistics are no gradients and are left alone. With --compress-where all it takes place in the
// shard's gradient buffer before that is summed, so that the sum is the one that hosts would have exchanged
// were each shard a host of its own. Residuals belong to shards, never to ranks: the bits depend on --shards
// and not on the number of workers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/network_plan.h"
#include "kernels/reduce.h"
#include "kernels/top_k.h"
#include "runtime/buckets.h"
#include "runtime/train_config.h"

namespace annulus {

class GradientCompression {
 public:
  // With --compress-where bridge, or none, apply() changes nothing.
  GradientCompression(const TrainConfig& config, const NetworkPlan& network, const BucketPlan& buckets);

  // Replaces the bucket's part of `gradient` by what would be sent of it. All arrays are of
  // BucketPlan::elements floats. `residual` is that of the shard after the step before, `new_residual` that
  // after this step, for the weights of this bucket; null unless keeps_residuals().
  void apply(int bucket, float* gradient, const float* residual, float* new_residual);

 private:
  struct Part {
    int64_t offset = 0, elements = 0;  // of a parameter, padding included
    int64_t sent = 0;                  // of them by top-k
  };
  void round(int64_t n, float* values);

  std::vector<std::vector<Part>> parts_;  // by bucket: what is not sent as it is
  std::optional<TopK> top_k_;             // nothing: rounds to the type
  DataType rounded_ = DataType::kF32;
  std::vector<std::byte> narrow_;  // one portion of a rounded gradient
};

}  // namespace annulus
