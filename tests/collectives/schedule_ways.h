// What schedules are tried with: groups of ranks with their algorithm, and orders of turns.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "collectives/spsc_ring.h"
#include "tests/collectives/schedule_simulator.h"
#include "tests/collectives/tree_domains.h"

namespace annulus::simulation {

#if defined(__SANITIZE_ADDRESS__)
// The simulator allocates at every turn, which AddressSanitizer makes ten times as slow.
inline constexpr int kMostRanks = 6;
inline const std::vector<int> kManyRanks{16};
#else
inline constexpr int kMostRanks = 9;
inline const std::vector<int> kManyRanks{16, 33, 64};
#endif

struct Turns {
  Order order;
  unsigned seed;
};
inline const std::vector<Turns> kFewOrders{
    {Order::kRoundRobin, 0}, {Order::kLastThatCan, 0}, {Order::kRandom, 1}};
inline const std::vector<Turns> kOrders{{Order::kRoundRobin, 0},  {Order::kFirstThatCan, 0},
                                        {Order::kLastThatCan, 0}, {Order::kRandom, 1},
                                        {Order::kRandom, 2},      {Order::kRandom, 3}};

// The algorithm of a group of ranks, with its domains.
struct Way {
  Algorithm algorithm = Algorithm::kDirect;
  int ranks = 1;
  Domains domains;

  std::string text() const {
    return fmt::format("{}, {} ranks, {} domains", to_string(algorithm), ranks, domains.size());
  }
  // As CommunicatorSegment makes them.
  int64_t ring_capacity() const {
    const int64_t given = algorithm == Algorithm::kHierarchical ? static_cast<int64_t>(domains.size()) : 0;
    return SpscRing::capacity_for(std::max<int64_t>(16, 8 * given));
  }
};

inline std::vector<Way> ways(int ranks, int64_t shards) {
  std::vector<Way> ways{{Algorithm::kDirect, ranks, {}}, {Algorithm::kRing, ranks, {}}};
  for (int domains = 1; domains <= ranks; domains *= 2) {
    const Domains nodes = tree_domains(ranks, shards, domains);
    if (!nodes.empty()) ways.push_back({Algorithm::kHierarchical, ranks, nodes});
  }
  return ways;
}

}  // namespace annulus::simulation
