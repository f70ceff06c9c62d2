// Recovery: how a run goes on after ranks have died. By the launcher alone, which numbers its steps so
// (docs/protocol.md; tests/models/recovery.pml visits every state):
//
//   1     begin()     abort word, all doorbells: every rank unwinds to the step's boundary (StepAborted)
//   2     the caller  reaps the dead, kills and reaps who hangs
//   3     all_parked  until every survivor has stored in parked[r] the attempt that it has left: from then on
//                     nobody writes
//   4, 5  rewind()    c = the smallest version, the committed step, of all hosts; all versions := c, rings
//                     empty
//   6     the caller  forks new processes for the dead; they begin parked
//   7     release()   abort word down, then attempt + 1, which is what parked ranks wait for; all doorbells
//
// A death before 7 is one more of the dead in 3, or is found after 7 and begins again at 1. What ranks write,
// they write in the attempt under way. Nobody clears doorbells or sleepers' bits: a parked rank may be about
// to sleep on the old value.
//
// Ordering: P0 rank: parked = attempt (release), after its last write of that attempt
//           P1 launcher: parked (acquire), before it resets anything
//           Q0 launcher: abort = 0, attempt + 1 (release), after all that it has reset
//           Q1 rank: attempt (acquire), before it reads any of it
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/segment.h"

namespace annulus {

// What a rank without a process is told to have left, before its first one is forked: less than any attempt.
inline constexpr uint32_t kNoAttempt = 0;

class Recovery {
 public:
  explicit Recovery(const Segment& segment) : segment_(segment) {}

  bool under_way() const { return under_way_; }
  // (1) May be called again for a further death.
  void begin();
  // (3) `dead`: by rank, whether it has no process. Memory ordering: P1.
  bool all_parked(const std::vector<bool>& dead) const;
  // (4, 5) Only once all have parked. `step`: that all go on from: the committed one (Versions::kNone where
  // not even the initial weights are complete), or, because another host is behind, the one before, whose
  // generation is whole as well by Rule G. `evaluated`: the last step whose evaluation is complete.
  void rewind(const std::vector<bool>& dead, uint32_t evaluated, uint32_t step);
  // The attempt that ranks have left: what a forked one is told.
  uint32_t attempt() const;
  // (7) Memory ordering: Q0.
  void release();

 private:
  const Segment& segment_;
  bool under_way_ = false;
};

}  // namespace annulus
