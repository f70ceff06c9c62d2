// CheckpointPlan: which tensors a run's checkpoint holds, under which names, in which shapes and order. A
// pure function of the run's plan; writing and reading are loops over it.
//
//   count        <batch norm>.num_batches_tracked   the step, as torch.nn.BatchNorm2d counts
//   weights      <parameter>                        every parameter and running statistic of the network
//   moments      optimizer.<moment>.<parameter>     of what the optimizer updates: not of running statistics
//   previous     previous.<parameter>               weights one update earlier; with --staleness 1 only
//   residuals    residual.<shard>.<parameter>       what top-k has not sent of a shard's gradients
//   velocities   velocity.<shard>.<parameter>       the momentum of a shard's gradients, likewise of weights
//
// The first two groups are the model's, and together what torchvision's load_state_dict takes: names and
// shapes are PyTorch's (convolutions [out, in, height, width], linear layers [out, in], vectors [n]).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/network_plan.h"
#include "kernels/network_spec.h"
#include "runtime/buckets.h"
#include "runtime/safetensors.h"
#include "runtime/train_config.h"

namespace annulus {

enum class StateArray : uint8_t {
  kCount,
  kWeights,
  kFirstMoment,
  kSecondMoment,
  kPrevious,
  kResidual,
  kVelocity
};

struct CheckpointTensor {
  StateArray array = StateArray::kWeights;
  int64_t shard = 0;  // of residuals and velocities
  TensorInfo info;
  // Not of counts: where the parameter lies in its array, and how.
  int parameter = 0;   // its number in NetworkPlan::parameters
  int64_t offset = 0;  // elements from the array's base
  TensorLayout layout = {};
};

struct CheckpointPlan {
  std::string network;               // NetworkSpec::name
  std::vector<std::string> moments;  // PyTorch's names, of the first array, of the second
  bool previous = false;
  int64_t residuals = 0;   // shards that have one
  int64_t velocities = 0;  // likewise
  // In the file's order: counts, weights in order of use by forward, moments, previous weights, residuals,
  // velocities.
  std::vector<CheckpointTensor> tensors = {};
  int model_tensors = 0;  // the first so many are the model's

  int64_t data_bytes() const;  // of all tensors together
};

// What PyTorch calls the optimizer's moments: none of sgd; momentum_buffer; exp_avg and exp_avg_sq.
std::vector<std::string> moment_names(const TrainConfig& config);

// Throws UserError where two tensors would have one name, which takes a layer called "optimizer",
// "previous", "residual" or "velocity". `residuals`, `velocities`: the shards, where they are kept, else 0.
CheckpointPlan plan_checkpoint(const NetworkSpec& spec, const NetworkPlan& network, const BucketPlan& buckets,
                               const std::vector<std::string>& moments, bool previous, int64_t residuals = 0,
                               int64_t velocities = 0);

}  // namespace annulus
