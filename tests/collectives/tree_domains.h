// Pretended domains: ranks mapped to caches or NUMA nodes that the machine need not have.
#pragma once

#include "collectives/hierarchical.h"

namespace annulus {

// The nodes of the tree over `shards` at the depth where there are `domains` of them, as ranges of ranks;
// none where ranks do not hold whole nodes.
inline Domains tree_domains(int ranks, int64_t shards, int domains) {
  Domains nodes{{0, shards}};
  while (static_cast<int>(nodes.size()) < domains) {
    Domains halves;
    for (const ShardRange& node : nodes) {
      const int64_t middle = node.begin + (node.count() + 1) / 2;
      halves.push_back({node.begin, middle});
      halves.push_back({middle, node.end});
    }
    nodes = halves;
  }
  Domains of_ranks;
  int rank = 0;
  for (const ShardRange& node : nodes) {
    const int first = rank;
    while (rank < ranks && deal(rank, ranks, shards).end <= node.end) ++rank;
    of_ranks.push_back({first, rank});
  }
  return why_not_hierarchical(of_ranks, ranks, shards).empty() ? of_ranks : Domains{};
}

}  // namespace annulus
