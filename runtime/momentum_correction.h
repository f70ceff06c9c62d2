// MomentumCorrection: momentum of weights before top-k (Lin et al., "Deep Gradient Compression", ICLR 2018).
//
// Whoever selects, each shard (--compress-where all) or each host (bridge), has a velocity: the momentum of
// its own gradient, before anything is left out of it. What it selects from has that momentum already, so the
// update adds none (SgdStep::corrected). Biases and batch norm's parameters go whole and keep the ordinary
// momentum. Lin et al.'s masking of velocities is left out: docs/compression.md says why.
//
// Elementwise, so bits do not depend on how elements were dealt out.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "collectives/summation_tree.h"
#include "kernels/network_plan.h"
#include "kernels/optimizer.h"
#include "runtime/buckets.h"
#include "runtime/train_config.h"

namespace annulus {

class MomentumCorrection {
 public:
  MomentumCorrection() = default;  // corrects nothing
  // So does this one without --momentum-correction on.
  MomentumCorrection(const TrainConfig& config, const NetworkPlan& network, const BucketPlan& buckets);

  // Elements [begin, begin + count) of a weight, in arrays of BucketPlan::elements: from the velocity after
  // the step before writes that after this one, and replaces the gradient by what momentum makes of it. Where
  // nothing is corrected does nothing, and velocities may be null.
  void apply(int64_t begin, int64_t count, float* gradient, const float* from, float* to) const;

  // The first elements of [begin, end) that all have their momentum when they come to the update, or all have
  // not; at least one.
  struct Run {
    int64_t count = 0;
    bool corrected = false;
  };
  Run first_run(int64_t begin, int64_t end) const;

 private:
  std::optional<SgdStep> step_;        // nothing: no momentum correction
  std::vector<ShardRange> corrected_;  // elements that have a velocity, in order
};

}  // namespace annulus
