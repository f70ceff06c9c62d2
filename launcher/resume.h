// --resume: which checkpoint a run goes on from.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "runtime/checkpoint.h"
#include "runtime/train_config.h"

namespace annulus {

struct ResumePoint {
  std::shared_ptr<const Checkpoint> checkpoint;
  std::string run_dir;  // of the run that made it, to go on there; empty: not there
  // Of a run on several hosts: all that this one can go on from, the latest first; `checkpoint` is one of
  // them.
  std::vector<std::shared_ptr<const Checkpoint>> offers = {};
  std::vector<std::string> warnings;  // damaged ones that were skipped, and why the run does not go on there
};

// Where a run's checkpoints lie.
std::string checkpoint_directory(const std::string& run_dir);

// `resume`: "latest", for the latest intact checkpoint in `run_dir`, or, where that is empty, of the run
// below runs/ that made one last; or the path of a checkpoint, of a directory of them, or of a run's
// directory. A run goes on in the directory of the one that made the checkpoint, unless that has a later
// intact one: two runs' files must not mix. Throws UserError where there is none, naming each damaged one.
ResumePoint find_resume_point(const std::string& resume, const std::string& run_dir);

// The same on one of several hosts. They all hold the same weights and moments, so one goes on from whatever
// it sees of the checkpoints of any of them, below the run's directory: the first host's are in checkpoints/,
// those of others in node-1/checkpoints/ and so on. Its own come first, since what top-k keeps is a host's.
// Which step it is, the hosts agree on later.
ResumePoint find_resume_point_of_hosts(const std::string& resume, const std::string& run_dir, int node);
// "node-3": below the first host's run directory.
std::string host_directory_name(int node);

// Throws UserError unless it is still the latest intact checkpoint in its run's directory. Call once that is
// locked.
void check_still_latest(const ResumePoint& point);

}  // namespace annulus
