// RandomKiller: a process that kills random ranks of a run at random moments, and remembers whom and when.
#pragma once

#include <cstdint>
#include <vector>

#include "launcher/child_process.h"
#include "runtime/segment.h"

namespace annulus {

struct KillPlan {
  uint64_t seed = 1;  // of ranks and moments; what the run is doing at those moments is not repeated
  int64_t kills = 1;
  // Before each kill comes a pause of 0 to twice this, all equally likely.
  int64_t mean_pause_ns = 50'000'000;
  // So many kills are made in a row: deaths may overlap, and meet recoveries and the start of replacements.
  // Before the next row the killer waits until the run has recovered: all ranks train, and have committed
  // `steps` further steps. 0: a storm, which never waits, not even for the run to begin.
  int64_t row = 1;
  uint32_t steps = 1;
  int first_rank = 0;  // ranks below are spared
};

struct Kill {
  int64_t rank;
  int64_t at_ns;  // just before the signal was sent, on CLOCK_MONOTONIC
};

class RandomKiller {
 public:
  // Forks the process, which dies with this one. `segment` is that of a run whose launcher is this process.
  // Throws UserError when no process can be had.
  RandomKiller(const Segment& segment, const KillPlan& plan);
  ~RandomKiller();
  RandomKiller(const RandomKiller&) = delete;
  RandomKiller& operator=(const RandomKiller&) = delete;

  // Whether it has killed as many as planned, or the run has ended before. Does not block.
  bool done();
  // As of the last call of done(), in the order in which they happened. No process is killed twice.
  const std::vector<Kill>& kills() const { return kills_; }

 private:
  ChildProcess process_;
  std::vector<Kill> kills_;
  std::size_t partial_ = 0;  // bytes of a further kill that have been read
  Kill next_{};
  bool done_ = false;
};

}  // namespace annulus
