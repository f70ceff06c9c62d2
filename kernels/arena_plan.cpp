#include "kernels/arena_plan.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "telemetry/check.h"

namespace annulus {
namespace {

int64_t rounded_up(int64_t bytes) {
  return (bytes + ArenaPlan::kAlignment - 1) / ArenaPlan::kAlignment * ArenaPlan::kAlignment;
}

bool alive_together(const ArenaBuffer& a, const ArenaBuffer& b) {
  return a.first_use <= b.last_use && b.first_use <= a.last_use;
}

struct Range {
  int64_t begin, end;
};

// Start of the smallest gap between the ranges (sorted by begin) that holds `bytes`; behind them if there is
// none.
int64_t best_gap(const std::vector<Range>& taken, int64_t bytes) {
  int64_t best = -1, best_gap_bytes = std::numeric_limits<int64_t>::max(), end = 0;
  for (const Range& range : taken) {
    const int64_t gap = range.begin - end;
    if (gap >= bytes && gap < best_gap_bytes) {
      best = end;
      best_gap_bytes = gap;
    }
    end = std::max(end, range.end);
  }
  return best >= 0 ? best : end;
}

}  // namespace

ArenaPlan plan_arena(std::span<const ArenaBuffer> buffers) {
  std::vector<size_t> order(buffers.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return buffers[a].bytes > buffers[b].bytes; });

  ArenaPlan plan;
  plan.offsets.assign(buffers.size(), 0);
  std::vector<size_t> placed;
  std::vector<Range> taken;
  for (const size_t k : order) {
    CHECK(buffers[k].bytes >= 0 && buffers[k].first_use <= buffers[k].last_use, "buffer {}", k);
    if (buffers[k].bytes == 0) continue;
    taken.clear();
    for (const size_t other : placed) {
      if (alive_together(buffers[k], buffers[other])) {
        taken.push_back({plan.offsets[other], plan.offsets[other] + rounded_up(buffers[other].bytes)});
      }
    }
    std::sort(taken.begin(), taken.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
    const int64_t bytes = rounded_up(buffers[k].bytes);
    plan.offsets[k] = best_gap(taken, bytes);
    plan.bytes = std::max(plan.bytes, plan.offsets[k] + bytes);
    placed.push_back(k);
  }
  return plan;
}

}  // namespace annulus
