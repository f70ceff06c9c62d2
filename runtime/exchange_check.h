// ExchangeCheck: trains a synthetic objective through the exchange, as a worker trains a network (worker.h):
// the same segment, generations, versions and Rule G; and once more on one processor without any of them, for
// comparison.
#pragma once

#include <cstdint>
#include <vector>

#include "collectives/communicator.h"
#include "runtime/segment.h"
#include "runtime/synthetic_objective.h"

namespace annulus {

struct ExchangeCheck {
  Algorithm algorithm = Algorithm::kDirect;
  int ranks = 1;
  int64_t shards = 1;
  int64_t dim = 1;
  int64_t steps = 1;
  Domains domains;
  WaitPolicy waiting;
  uint64_t seed = 1;
  // Otherwise each rank has weights of its own, and one shard (train_rank_apart).
  bool shares_memory = true;

  SgdStep sgd() const { return {.learning_rate = 0.05f, .momentum = 0.9f}; }
  // `dim` parameters, padded to whole blocks, in up to four buckets.
  SegmentInputs segment_inputs() const;
  SyntheticObjective objective() const;
  // What `owner` sums of a bucket: elements of the bucket.
  ShardRange slice(int owner, const BucketExtent& bucket) const;
  // Of a rank that shares no memory.
  CommunicatorSpec communicator_spec() const;
};

// What one rank has to report.
struct RankReport {
  uint64_t descriptors = 0, bytes = 0;  // sent through rings
  int64_t begin_ns = 0, end_ns = 0;     // of its steps, on CLOCK_MONOTONIC
};

// Makes all steps as `rank`. All versions of the segment are 0 before. Throws StepAborted, StepError.
RankReport train_rank(const ExchangeCheck& check, const SyntheticObjective& objective, const Segment& segment,
                      int rank);

// The same where ranks share no memory: gradients are all-reduced by the communicator, made to
// communicator_spec(), and each rank updates all weights, which it returns.
std::vector<float> train_rank_apart(const ExchangeCheck& check, const SyntheticObjective& objective,
                                    Communicator& communicator, RankReport& report);

// The weights after all steps, made by plain loops in one process: gradients are summed along
// tree(0, shards), for a ring in the order in which its slices travel.
std::vector<float> train_serially(const ExchangeCheck& check, const SyntheticObjective& objective);

// What came of it.
struct CheckResult {
  uint64_t serial = 0, exchanged = 0;  // xxh64 of the weights
  double start = 0, distance = 0;      // of the exchanged weights to the optimum, before and after
  double expected = 0;                 // of the latter, by theory
  int64_t dim = 1;

  bool same_bits() const { return serial == exchanged; }
  // Whether the distance is that of theory, but for what chance and rounding may do.
  bool converges() const;
  bool passed() const { return same_bits() && converges(); }
};
CheckResult compare(const ExchangeCheck& check, const SyntheticObjective& objective, const float* serial,
                    const float* exchanged);

}  // namespace annulus
