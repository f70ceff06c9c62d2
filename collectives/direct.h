// Direct: the owner of a slice reads it from all ranks, where they wrote it, and sums the tree in one pass.
// One descriptor per owner and partial sum; no payload is copied. Bits depend on the number of shards alone.
#pragma once

#include "collectives/reduction.h"

namespace annulus {

// Sums every slice on its owner. With Deliver::kEverybody the owner writes the result into all outputs, with
// kReturned into the others' inputs, which copy it from there; then, and with kShared, the schedule ends when
// this rank's output is complete, and others have read all that it posted.
void direct_reduce(ScheduleBuilder& builder, const Reduction& reduction);

// Every rank's output gets every slice from its owner's output.
void direct_gather_slices(ScheduleBuilder& builder, const std::vector<ShardRange>& slices);

// Every rank's output gets `count` elements of the root's output.
void direct_broadcast(ScheduleBuilder& builder, int ranks, int root, int64_t count);

}  // namespace annulus
