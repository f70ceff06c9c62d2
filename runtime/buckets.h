// Buckets: parameters grouped in the order in which backward finishes their gradients, laid out one after
// another. A pure function: parameters in, offsets out. It depends on the model and the bucket size alone.
#pragma once

#include <cstdint>
#include <vector>

#include "collectives/exchange.h"
#include "kernels/network_plan.h"

namespace annulus {

// Parameters start at multiples of this many elements: one 16x16 tile of a blocked layout, so that slices,
// which are whole blocks, hold whole tiles.
inline constexpr int64_t kParameterAlignment = 256;

struct BucketPlan {
  std::vector<BucketExtent> extents;
  std::vector<int> first_layer;  // per bucket: the layer whose backward completes it
  std::vector<int> bucket_of;    // per parameter
  std::vector<int64_t> offsets;  // per parameter: elements from the base
  int64_t elements = 0;          // of any array of parameters, padding included
  int64_t statistics = 0;        // elements from here on are running statistics

  // Buckets that a forward pass of training reads in each stage; bucket numbers ascend. Running statistics
  // are read by evaluation alone.
  std::vector<std::vector<int>> buckets_by_stage(const NetworkPlan& plan) const;
};

// Running statistics have the last bucket to themselves, because they are not updated as the others are
// (runtime/worker.cpp); layer 0 completes it.
//
// Fills buckets of at most `bucket_bytes` with parameters in reverse order of use (a parameter larger than
// that gets one of its own). The parameters that forward uses first form a small last bucket of their own, of
// at most 1 MiB and an eighth of the model: its update alone cannot hide behind backward.
//
// `whole_weights`: no slice begins within a weight, so that top-k can select on one rank; weights then begin
// on blocks.
BucketPlan plan_buckets(const NetworkPlan& plan, int64_t bucket_bytes, bool whole_weights = false);

}  // namespace annulus
