// Job: from a configuration to a plan that can be run. Everything that can be wrong is found here, before any
// worker is started.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "launcher/domains.h"
#include "launcher/machine.h"
#include "launcher/placement.h"
#include "launcher/version.h"
#include "runtime/run_plan.h"

namespace annulus {

// Where a run's checkpoints go, and what they say of it.
struct CheckpointTarget {
  std::string directory;
  CheckpointTexts texts;
};

struct Job {
  RunPlan run;
  Placement placement;
  DomainPlan domains = {};
  SegmentPlan segment;
  std::vector<std::string> notes;                    // decisions that the user should know
  std::vector<std::string> warnings;                 // what will cost speed
  std::optional<CheckpointTarget> checkpoints = {};  // nothing: none are written

  // Bytes that one worker takes beside the segment: arena, oneDNN's code, libraries' private pages.
  int64_t worker_bytes() const;
  int64_t total_bytes() const;  // segment and all workers
};

// Plans a run of `config` on `machine` with the data set `dataset`; asks a planner process for the network's
// kernels. Throws UserError for whatever cannot work, not enough memory included (`check_memory` off: for
// machines that are only imagined).
// `resumed`: what the run goes on from, if anything; its own network takes the place of a file that --model
// names as the checkpoint does. `hosts`: as many as config.host_count; ports are for later.
Job plan_job(const TrainConfig& config, const Machine& machine, const DatasetInfo& dataset, bool check_memory,
             std::shared_ptr<const Checkpoint> resumed = nullptr, const HostPlan& hosts = {});

// How many workers `config` gets on `machine`: --workers, or what auto finds. Throws UserError.
int count_workers(const TrainConfig& config, const Machine& machine);

// What oneDNN says of itself, asked in a helper process, because the launcher must never start OpenMP.
OneDnnVersion ask_onednn_version();

}  // namespace annulus
