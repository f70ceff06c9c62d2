// Hierarchical: direct inside a domain (the ranks of one cache or NUMA node), recursive halving and doubling
// between domains, after R. Thakur, R. Rabenseifner and W. Gropp, "Optimization of collective communication
// operations in MPICH", 2005. Each byte crosses a border between domains once per domain, not once per rank.
//
// Domains are the nodes of the summation tree at one depth, so there are 2^k of them, of equal size or
// differing by one rank, and the sum has the bits of direct.
//
// In every domain one rank, the slice's delegate, stands for each slice: its owner in its own domain.
#pragma once

#include <string>

#include "collectives/reduction.h"

namespace annulus {

// Ranges of ranks, in order.
using Domains = std::vector<ShardRange>;

// Why `domains` cannot be used for ranks with so many shards; empty if they can.
std::string why_not_hierarchical(const Domains& domains, int ranks, int64_t shards);

// Sums every slice on its owner. Expects partial sums as plan_rank_sum leaves them.
void hierarchical_reduce(ScheduleBuilder& builder, const Reduction& reduction, const Domains& domains);

// Every rank's output gets every slice from its owner's output.
void hierarchical_gather_slices(ScheduleBuilder& builder, const std::vector<ShardRange>& slices,
                                const Domains& domains);

// Every rank's output gets `count` elements of the root's output.
void hierarchical_broadcast(ScheduleBuilder& builder, int ranks, int root, int64_t count,
                            const Domains& domains);

}  // namespace annulus
