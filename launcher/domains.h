// Domains: which ranks share a NUMA node or an L3 cache, and what `--algorithm auto` makes of it. Pure
// functions of the machine and the placement.
#pragma once

#include <optional>
#include <string>

#include "collectives/exchange.h"
#include "launcher/machine.h"
#include "launcher/placement.h"

namespace annulus {

struct DomainPlan {
  Domains domains;      // covers all ranks in order; one range where they do not fall apart
  std::string level;    // what the ranks of a domain share: "NUMA node", "L3"; empty: one domain
  std::string why_one;  // why there is one domain only, for people; empty: there are several
};

// Ranks that share a NUMA node; where all are on one node, those that share an L3. Neighbours only: where
// ranks go to and fro between domains, or a worker spreads over several, they count as one domain.
DomainPlan find_domains(const Machine& machine, const Placement& placement);

// The same for a machine that is not there: ranks split into `domains` parts, halves by halves as the
// summation tree splits one shard per rank. 1 <= domains <= ranks.
Domains pretend_domains(int ranks, int domains);

// "8 NUMA nodes: ranks 0-15, 16-31, ..." or why there is one.
std::string describe_domains(const DomainPlan& plan);

// What a run takes.
struct AlgorithmChoice {
  Algorithm algorithm;
  std::string note;  // why auto chose it; empty where the user chose
};

// `wanted`: auto, direct, ring or hierarchical. auto chooses among those with the same bits: hierarchical
// where the domains fit the sum's tree and it is faster for gradients of `bytes` (the largest bucket): by
// what was measured, `hierarchical_from` bytes on, and where nothing was measured, where domains hold at
// least kRanksPerDomain ranks each on average. Throws UserError for hierarchical where the domains do not
// fit.
AlgorithmChoice choose_algorithm(const std::string& wanted, const DomainPlan& plan, int ranks, int64_t shards,
                                 std::optional<int64_t> hierarchical_from = {}, int64_t bytes = 0);

// Argued, not measured: with q ranks in each of D domains and a gradient of S bytes, direct moves q S (D - 1)
// bytes across borders, hierarchical S (D - 1), but D S bytes of running sums are written and read again in
// the domains. Where a byte from afar costs two near ones and running sums come from memory, both take the
// same time at q = 8 for D = 2, and at q = 6 for D = 8.
inline constexpr int kRanksPerDomain = 8;

}  // namespace annulus
