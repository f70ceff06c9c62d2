// Gather, scatter and barrier: the same for every algorithm.
#pragma once

#include "collectives/schedule.h"

namespace annulus {

// The root's output gets slice r from rank r's input (which holds that slice alone).
void rooted_gather(ScheduleBuilder& builder, const std::vector<ShardRange>& slices, int root);

// Rank r's output (which holds its slice alone) gets slice r of the root's input.
void rooted_scatter(ScheduleBuilder& builder, const std::vector<ShardRange>& slices, int root);

// Nobody leaves before all have entered. Dissemination, after D. Hensgen, R. Finkel and U. Manber, "Two
// algorithms for barrier synchronization", 1988: ceil(log2 ranks) rounds of one token each.
void dissemination_barrier(ScheduleBuilder& builder, int ranks);

}  // namespace annulus
