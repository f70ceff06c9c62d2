// What benchmarks say of a series of times.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace annulus {

// Share p (0 .. 1) of the values is below the result. `sorted` is ascending and not empty.
inline double quantile(const std::vector<double>& sorted, double p) {
  return sorted[std::min(sorted.size() - 1,
                         static_cast<std::size_t>(p * static_cast<double>(sorted.size())))];
}

}  // namespace annulus
