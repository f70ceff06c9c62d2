// Where the buffers of a step lie in one piece of memory: buffers whose lives do not overlap share bytes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace annulus {

// A buffer is alive from moment first_use to moment last_use, both included.
struct ArenaBuffer {
  int64_t bytes = 0;
  int first_use = 0, last_use = 0;
};

struct ArenaPlan {
  static constexpr int64_t kAlignment = 64;
  static constexpr int64_t whole_lines(int64_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }

  std::vector<int64_t> offsets;  // one per buffer, in bytes, multiples of kAlignment
  int64_t bytes = 0;             // of the whole arena, a multiple of kAlignment
};

// Greedy best fit: buffers by falling size, each into the smallest gap, among those alive with it, that holds
// it. A pure function: equal buffers give equal plans. Buffers of zero bytes get offset 0.
ArenaPlan plan_arena(std::span<const ArenaBuffer> buffers);

}  // namespace annulus
