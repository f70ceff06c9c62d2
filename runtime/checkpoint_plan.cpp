#include "runtime/checkpoint_plan.h"

#include <fmt/format.h>

#include <set>

#include "telemetry/check.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

// A linear layer behind an image sees channels, height and width; PyTorch flattens them first, in this order.
std::vector<int64_t> shape_in_pytorch(const NetworkSpec& spec, const ParameterPlan& parameter) {
  const TensorLayout& layout = parameter.layout;
  std::vector<int64_t> shape(layout.dims.begin(), layout.dims.begin() + layout.dims_count);
  const bool linear = spec.layers.at(parameter.layer).kind == LayerKind::kLinear;
  if (linear && parameter.role == ParameterRole::kWeight) {
    shape = {layout.dims[0], layout.elements() / layout.dims[0]};
  }
  return shape;
}

// "bn1.num_batches_tracked" for "bn1.running_var".
std::string count_name(const std::string& statistic) {
  return statistic.substr(0, statistic.rfind('.')) + ".num_batches_tracked";
}

}  // namespace

int64_t CheckpointPlan::data_bytes() const { return tensors.empty() ? 0 : tensors.back().info.end; }

std::vector<std::string> moment_names(const TrainConfig& config) {
  if (uses_momentum(config)) return {"momentum_buffer"};
  if (uses_adam(config)) return {"exp_avg", "exp_avg_sq"};
  return {};
}

CheckpointPlan plan_checkpoint(const NetworkSpec& spec, const NetworkPlan& network, const BucketPlan& buckets,
                               const std::vector<std::string>& moments, bool previous, int64_t residuals,
                               int64_t velocities) {
  CHECK(moments.size() <= 2, "{} moments", moments.size());
  CheckpointPlan plan{.network = spec.name,
                      .moments = moments,
                      .previous = previous,
                      .residuals = residuals,
                      .velocities = velocities};
  const auto add = [&](StateArray array, int parameter, const std::string& name, TensorType type,
                       std::vector<int64_t> shape) {
    plan.tensors.push_back({.array = array,
                            .info = {.name = name, .type = type, .shape = std::move(shape)},
                            .parameter = parameter,
                            .offset = buckets.offsets[parameter],
                            .layout = network.parameters[parameter].layout});
  };
  const auto add_all = [&](StateArray array, const std::string& prefix, bool with_statistics) {
    for (int i = 0; i < std::ssize(network.parameters); ++i) {
      const ParameterPlan& parameter = network.parameters[i];
      if (is_statistic(parameter.role) && !with_statistics) continue;
      add(array, i, prefix + parameter.name, TensorType::kF32, shape_in_pytorch(spec, parameter));
    }
  };
  // Counts first: their elements are the larger ones (place_tensors).
  for (int i = 0; i < std::ssize(network.parameters); ++i) {
    const ParameterPlan& parameter = network.parameters[i];
    if (parameter.role != ParameterRole::kRunningVariance) continue;
    add(StateArray::kCount, i, count_name(parameter.name), TensorType::kI64, {});
  }
  add_all(StateArray::kWeights, "", true);
  plan.model_tensors = static_cast<int>(plan.tensors.size());
  for (size_t m = 0; m < moments.size(); ++m) {
    add_all(m == 0 ? StateArray::kFirstMoment : StateArray::kSecondMoment, "optimizer." + moments[m] + ".",
            false);
  }
  if (previous) add_all(StateArray::kPrevious, "previous.", true);
  const auto add_of_shards = [&](StateArray array, const char* name, int64_t shards) {
    for (int64_t shard = 0; shard < shards; ++shard) {
      for (int i = 0; i < std::ssize(network.parameters); ++i) {
        const ParameterPlan& parameter = network.parameters[i];
        if (!has_residual(parameter.role)) continue;
        add(array, i, fmt::format("{}.{}.{}", name, shard, parameter.name), TensorType::kF32,
            shape_in_pytorch(spec, parameter));
        plan.tensors.back().shard = shard;
      }
    }
  };
  add_of_shards(StateArray::kResidual, "residual", residuals);
  add_of_shards(StateArray::kVelocity, "velocity", velocities);

  std::vector<TensorInfo> infos;
  std::set<std::string> names;
  for (const CheckpointTensor& tensor : plan.tensors) {
    infos.push_back(tensor.info);
    if (names.insert(tensor.info.name).second) continue;
    throw UserError::format(
        "network {}: a checkpoint would hold two tensors called {}; give the layer or block another name "
        "than optimizer, previous, residual or velocity",
        spec.name, tensor.info.name);
  }
  place_tensors(infos);
  for (size_t i = 0; i < infos.size(); ++i) plan.tensors[i].info = infos[i];
  return plan;
}

}  // namespace annulus
