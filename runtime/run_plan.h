// RunPlan: everything about a run that is decided before the first worker is forked. Workers inherit it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "collectives/bridge.h"
#include "collectives/exchange.h"
#include "kernels/network.h"
#include "runtime/buckets.h"
#include "runtime/checkpoint.h"
#include "runtime/dataset.h"
#include "runtime/host_plan.h"
#include "runtime/segment_layout.h"
#include "runtime/step_schedule.h"
#include "runtime/train_config.h"

namespace annulus {

struct RunPlan {
  TrainConfig config;  // resolved: workers and shards are numbers, accumulate is 1
  DatasetInfo dataset;
  NetworkSpec spec;
  NetworkPlan network;
  BucketPlan buckets;
  StepSchedule schedule;
  Algorithm algorithm;
  Domains domains;  // ranks that share a cache or a NUMA node
  WaitPolicy waiting;
  // Per rank the CPU of its communication thread (-1: unbound); empty: exchanges run on the compute threads.
  std::vector<int> comm_cpus = {};
  CheckpointPlan checkpoint = {};
  std::shared_ptr<const Checkpoint> resumed = nullptr;  // what the run goes on from; null: from new weights
  HostPlan hosts = {};

  // The step that the initial state is that of.
  uint32_t initial_step() const { return resumed ? resumed->step() : 0; }
  // The shards of the global batch that a rank of this host computes.
  ShardRange shards_of(int rank) const;
  // What crosses between hosts, of one rank's slices. Only where there are several hosts.
  BridgePlan bridge(int rank) const;
  // What this host would send in a step if gradients went whole, without headers; 0 where they do, or there
  // is nobody to send them to.
  double whole_wire_bytes() const;
  SegmentInputs segment_inputs() const;
};

// Images that the primitives are made for: the largest shard of a full batch.
int64_t nominal_shard(const TrainConfig& config);

// How a run's network is made, by the planner and by every worker.
// Throws UserError for convolutions that `spec` does not have.
NetworkOptions network_options(const TrainConfig& config, const NetworkSpec& spec);

Algorithm algorithm_named(const std::string& name);  // direct, ring or hierarchical
// That of a resolved configuration.
Algorithm algorithm_of(const TrainConfig& config);
int moment_arrays(const TrainConfig& config);  // how many moments the optimizer keeps per parameter

}  // namespace annulus
