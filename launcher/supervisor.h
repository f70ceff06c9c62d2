// Supervisor: starts the processes of a job and watches over them from one epoll loop until all have ended.
//
// It alone decides: who is dead (pidfds, and life words before them), who hangs (heartbeats, by the
// deadline), who is replaced and from which step on (recovery.h), when the run stops (signals). What all
// hosts of a run must agree on it asks of host_member.h, on one box as well. It never blocks, and has no
// thread that takes a lock, so it can always fork, and a stopped terminal does not stop training.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "launcher/checkpointer.h"
#include "launcher/child_process.h"
#include "launcher/job.h"
#include "runtime/segment.h"
#include "telemetry/step_aggregator.h"

namespace annulus {

class HostControl;

// One recovery; times on CLOCK_MONOTONIC.
struct RecoveryReport {
  std::vector<int> ranks;       // that were replaced
  int64_t known_ns = 0;         // the first death was known
  int64_t parked_ns = 0;        // all others were out of their waits and stood still
  int64_t released_ns = 0;      // new processes were forked, and all told to go on
  uint32_t committed_step = 0;  // from which all go on; Versions::kNone: from the initial weights
};

// What a command wants to know of its job. All are called on the launcher's thread and must not block.
struct JobObserver {
  std::function<void(const Segment&)> started = [](const Segment&) {};  // workers are forked
  std::function<void(const StepSummary&)> step = [](const StepSummary&) {};
  std::function<void(const EvalSummary&)> evaluation = [](const EvalSummary&) {};
  std::function<void(const RecoveryReport&)> recovered = [](const RecoveryReport&) {};
  std::function<void()> tick = [] {};  // ten times a second
  std::function<void(const std::string&)> warning = [](const std::string&) {};
};

// What was read back of the placement once every rank had made its first step (or all had finished).
struct PlacementReport {
  struct Rank {
    std::vector<int> cpus;          // it may run on
    int node = -1;                  // its memory's
    int64_t pages = 0, remote = 0;  // of its arena and its part of the segment
  };
  std::vector<Rank> ranks;
  std::vector<int> misplaced;  // ranks that may run on other CPUs than planned
  std::string refusal;         // why the kernel would not tell; empty: it did

  int64_t pages() const;
  int64_t remote() const;
};

// Start-up by phase: seconds since the command began; 0: not reached.
struct StartupTimes {
  double reserved = 0, forked = 0, loaded = 0, ready = 0;
};

struct JobOutcome {
  // 0; after a signal 128 + its number (130, 143); 2 for bad input; else the first failed process's; 1 for a
  // hang.
  int exit_code = 0;
  std::string failure;                  // which rank, why, what to do; empty: no failure
  int64_t restarts = 0;                 // processes that were replaced
  uint32_t committed_step = 0;          // 0 also when not even the initial weights are complete
  uint64_t checksum = 0;                // of the weights after committed_step
  uint64_t descriptors = 0, bytes = 0;  // that all ranks handed over through rings
  WireUse wire;                         // of all ranks of this host
  int64_t pss_bytes = 0;  // memory of launcher and workers together, shared pages once, before they left
  CheckpointCounts checkpoints;
  int64_t held_ns = 0;  // that a rank waited for checkpoints to be copied: the longest of all, over the run
  PlacementReport placement;
  StartupTimes startup;
};

// Runs the job to its end. Takes watched_signals() for itself meanwhile.
// `began_ns`: when the command began, on CLOCK_MONOTONIC. Throws UserError if the segment or a process cannot
// be had; no process is left then.
// `hosts`: where the run is on several, all of which have started; null: it is on this box alone.
JobOutcome run_job(const Job& job, const Machine& machine, const JobObserver& observer, int64_t began_ns,
                   HostControl* hosts = nullptr);

}  // namespace annulus
