// Supervisor: starts the processes of a job and watches over them from one epoll loop until all have ended.
//
// It alone decides: who is dead (pidfds), who hangs (heartbeats, by the deadline), when the run stops
// (signals). It starts no thread and never blocks, so it can always fork, and a stopped terminal does not
// stop training.
#pragma once

#include <signal.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "launcher/child_process.h"
#include "launcher/job.h"
#include "runtime/segment.h"
#include "telemetry/step_aggregator.h"

namespace annulus {

// Keeps SIGINT, SIGTERM, SIGHUP (unless ignored, as nohup does) and SIGTSTP from ending the process while it
// lives: run_job takes them as requests, and afterwards they wait. May be nested.
class SignalBlock {
 public:
  SignalBlock();
  ~SignalBlock();
  SignalBlock(const SignalBlock&) = delete;
  SignalBlock& operator=(const SignalBlock&) = delete;

 private:
  sigset_t before_;
};

// What a command wants to know of its job. All are called on the launcher's thread and must not block.
struct JobObserver {
  std::function<void(const Segment&)> started = [](const Segment&) {};  // workers are forked
  std::function<void(const StepSummary&)> step = [](const StepSummary&) {};
  std::function<void(const EvalSummary&)> evaluation = [](const EvalSummary&) {};
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
  uint32_t committed_step = 0;          // 0 also when not even the initial weights are complete
  uint64_t checksum = 0;                // of the weights after committed_step
  uint64_t descriptors = 0, bytes = 0;  // that all ranks handed over through rings
  int64_t pss_bytes = 0;  // memory of launcher and workers together, shared pages once, before they left
  PlacementReport placement;
  StartupTimes startup;
};

// Runs the job to its end. Takes SIGINT, SIGTERM, SIGHUP, SIGTSTP and SIGCONT for itself meanwhile.
// `began_ns`: when the command began, on CLOCK_MONOTONIC. Throws UserError if the segment or a process cannot
// be had; no process is left then.
JobOutcome run_job(const Job& job, const Machine& machine, const JobObserver& observer, int64_t began_ns);

}  // namespace annulus
