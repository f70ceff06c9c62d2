// What benchmarks say of a series of times.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace annulus {

// Share p (0 .. 1) of the values is below the result. `sorted` is ascending and not empty.
inline double quantile(const std::vector<double>& sorted, double p) {
  return sorted[std::min(sorted.size() - 1,
                         static_cast<std::size_t>(p * static_cast<double>(sorted.size())))];
}

// Microseconds of each round, which are those of its slowest rank, in ascending order. `time_ns(rank, round)`
// is what one rank took.
template <typename Rank, typename Time>
std::vector<double> times_of_slowest(const std::vector<Rank>& ranks, int rounds, const Time& time_ns) {
  std::vector<double> slowest;
  for (int round = 0; round < rounds; ++round) {
    int64_t most = 0;
    for (const Rank& rank : ranks) most = std::max(most, time_ns(rank, round));
    slowest.push_back(static_cast<double>(most) * 1e-3);
  }
  std::sort(slowest.begin(), slowest.end());
  return slowest;
}

}  // namespace annulus
