#include "runtime/recovery.h"

#include "telemetry/check.h"

namespace annulus {
namespace {

// A step is committed by versions, and a rank may have died, or given up, before it could tell of its part.
void finish_record(RankPart& part, uint32_t committed) {
  if (part.unfinished.step == 0 || part.unfinished.step != committed) return;  // 0: of no step yet
  StepRecord last;
  const uint64_t written = part.steps.written();
  if (written > 0 && part.steps.read(written - 1, last) && last.step >= committed) return;
  part.steps.push(part.unfinished);
}

}  // namespace

void Recovery::begin() {
  under_way_ = true;
  segment_.abort();
}

bool Recovery::all_parked(const std::vector<bool>& dead) const {
  for (int rank = 0; rank < segment_.ranks(); ++rank) {
    if (dead[rank]) continue;
    if (segment_.rank(rank).control.parked.load(std::memory_order_acquire) != attempt()) return false;  // P1
  }
  return true;
}

void Recovery::rewind(const std::vector<bool>& dead, uint32_t evaluated, uint32_t step) {
  CHECK(under_way_ && all_parked(dead));
  SegmentHeader& header = segment_.header();
  const uint32_t committed = segment_.versions().committed();
  CHECK(committed == step || committed == step + 1 || step == Versions::kNone, "from step {} to {}",
        committed, step);
  segment_.reset_exchange(step);
  header.evaluated_step.store(evaluated, std::memory_order_relaxed);
  for (int rank = 0; rank < segment_.ranks(); ++rank) {
    RankPart& part = segment_.rank(rank);
    part.state.store(RankState::kStarting, std::memory_order_relaxed);
    if (step != Versions::kNone) finish_record(part, step);
    if (dead[rank]) part.control.parked.store(attempt(), std::memory_order_relaxed);
  }
}

uint32_t Recovery::attempt() const { return segment_.header().attempt.load(std::memory_order_relaxed); }

void Recovery::release() {
  SegmentHeader& header = segment_.header();
  under_way_ = false;
  header.wait.abort.store(0, std::memory_order_release);
  header.attempt.fetch_add(1, std::memory_order_release);  // Q0
  segment_.wake_all();
}

}  // namespace annulus
