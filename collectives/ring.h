// Ring: reduce-scatter and all-gather with the neighbours, after P. Patarasuk and X. Yuan, "Bandwidth optimal
// all-reduce algorithms for clusters of workstations", 2009.
//
// In round t rank r passes slice r-1-t on to rank r+1, which adds its own input; after ranks-1 rounds every
// slice has come to its owner. Sums are made in the order in which slices travel: owner+1, owner+2, ...,
// owner. So bits repeat from run to run and differ from the tree's, save for two ranks with one whole subtree
// each.
#pragma once

#include "collectives/reduction.h"

namespace annulus {

// Sums every slice on its owner. Expects one partial sum per rank (plan_single_rank_sum).
void ring_reduce(ScheduleBuilder& builder, const Reduction& reduction);

// How a slice gets to the next rank.
enum class Pass : uint8_t {
  kRead,  // that rank copies it from this one's output
  kWrite  // this rank writes it into that one's output, as Deliver::kNeighbor has done with the own slice.
          // Only after a reduction, whose sums show that all ranks have entered the call and given their
          // inputs.
};

// Every rank's output gets every slice from its owner's output, by way of the ranks between.
void ring_gather_slices(ScheduleBuilder& builder, const std::vector<ShardRange>& slices, Pass pass);

// Every rank's output gets `count` elements of the root's output, from rank to rank.
void ring_broadcast(ScheduleBuilder& builder, int ranks, int root, int64_t count);

}  // namespace annulus
