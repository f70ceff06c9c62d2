#include "runtime/run_plan.h"

namespace annulus {

ShardRange RunPlan::shards_of(int rank) const {
  const ShardRange host = hosts.shards(config.shards);
  const ShardRange own = deal(rank, config.workers, host.count());
  return {host.begin + own.begin, host.begin + own.end};
}

BridgePlan RunPlan::bridge(int rank) const {
  BridgePlan plan{.hosts = hosts.count, .node = hosts.node, .slices = {}, .wire = DataType::kF32};
  if (config.compress == "fp16") plan.wire = DataType::kF16;
  if (config.compress == "bf16") plan.wire = DataType::kBf16;
  for (const BucketExtent& bucket : buckets.extents) {
    const ShardRange blocks = slice_of(rank, config.workers, bucket);
    plan.slices.push_back(
        {bucket.offset + blocks.begin * kBlockElements, bucket.offset + blocks.end * kBlockElements});
  }
  return plan;
}

double RunPlan::whole_wire_bytes() const {
  if (!hosts.several() || config.compress == "none") return 0;
  int64_t elements = 0;
  for (const ParameterPlan& parameter : network.parameters) elements += parameter.layout.padded_elements();
  return 2.0 * (hosts.count - 1) / hosts.count * static_cast<double>(elements) * sizeof(float);
}

SegmentInputs RunPlan::segment_inputs() const {
  return {.ranks = config.workers,
          .shards = hosts.shards(config.shards).count(),
          .algorithm = algorithm,
          .domains = domains,
          .buckets = buckets,
          .state_arrays = 1 + moment_arrays(config),
          .staleness = config.staleness,
          .waiting_threads = comm_cpus.empty() ? 1 : 2,
          .norms = config.clip > 0,
          .residuals = keeps_residuals(config)       ? SegmentInputs::ResidualsOf::kShards
                       : keeps_host_residual(config) ? SegmentInputs::ResidualsOf::kHost
                                                     : SegmentInputs::ResidualsOf::kNobody,
          .velocities = corrects_momentum(config),
          .snapshot = makes_checkpoints(config),
          .dataset = dataset};
}

int64_t nominal_shard(const TrainConfig& config) {
  return (config.batch_size + config.shards - 1) / config.shards;
}

NetworkOptions network_options(const TrainConfig& config, const NetworkSpec& spec) {
  const DataType type = config.precision == "bf16" ? DataType::kBf16 : DataType::kF32;
  return {.images = nominal_shard(config),
          .threads = config.threads_per_worker,
          .type = type,
          .algorithms = algorithms_from_text(config.convolutions, "--convolutions", spec, type)};
}

Algorithm algorithm_named(const std::string& name) {
  if (name == "ring") return Algorithm::kRing;
  if (name == "hierarchical") return Algorithm::kHierarchical;
  return Algorithm::kDirect;
}

Algorithm algorithm_of(const TrainConfig& config) { return algorithm_named(config.algorithm); }

int moment_arrays(const TrainConfig& config) {
  if (config.optimizer == "sgd") return 0;
  return uses_adam(config) ? 2 : 1;
}

}  // namespace annulus
