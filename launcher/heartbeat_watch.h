// HeartbeatWatch: which ranks show no sign of life, and for how long.
//
// Counts the time for which a rank's heartbeat stands still, in slices that the caller gives: a machine that
// was stopped does not age its ranks, and a rank that is slow but beats is never still.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "collectives/wait.h"

namespace annulus {

class HeartbeatWatch {
 public:
  static constexpr int64_t kWarnNs = 1'000'000'000;

  // `controls` of ranks in shared memory. `deadline_ns`: stillness that counts as hung.
  HeartbeatWatch(const RankControls& controls, int64_t deadline_ns);

  // A rank has a new process: its count begins anew.
  void forked(int rank);

  struct Still {
    int rank = 0;
    int64_t still_ns = 0;
    bool hung = false;          // else a warning, once per stillness
    bool communicates = false;  // its communication thread is still
    std::string doing;          // "computing", "waiting for ..."
  };
  // Counts `elapsed_ns` more for all ranks that are not `dead`, and returns those that have just been still
  // for kWarnNs or are hung.
  std::vector<Still> look(int64_t elapsed_ns, const std::vector<bool>& dead);

 private:
  struct Heart {
    uint64_t beats = 0;
    int64_t still_ns = 0;
  };
  RankControls controls_;
  int64_t deadline_ns_;
  std::vector<Heart> hearts_;  // by index into controls_
};

}  // namespace annulus
