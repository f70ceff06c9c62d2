#include "runtime/run_plan.h"

namespace annulus {

SegmentInputs RunPlan::segment_inputs() const {
  return {.ranks = config.workers,
          .shards = config.shards,
          .algorithm = algorithm,
          .domains = domains,
          .buckets = buckets,
          .state_arrays = 1 + moment_arrays(config),
          .staleness = config.staleness,
          .waiting_threads = comm_cpus.empty() ? 1 : 2,
          .norms = config.clip > 0,
          .residuals = keeps_residuals(config),
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
