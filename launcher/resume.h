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
  std::string run_dir;                // of the run that made it, to go on there; empty: not there
  std::vector<std::string> warnings;  // damaged ones that were skipped, and why the run does not go on there
};

// Where a run's checkpoints lie.
std::string checkpoint_directory(const std::string& run_dir);

// `resume`: "latest", for the latest intact checkpoint in `run_dir`, or, where that is empty, of the run
// below runs/ that made one last; or the path of a checkpoint, of a directory of them, or of a run's
// directory. A run goes on in the directory of the one that made the checkpoint, unless that has a later
// intact one: two runs' files must not mix. Throws UserError where there is none, naming each damaged one.
ResumePoint find_resume_point(const std::string& resume, const std::string& run_dir);

// Throws UserError unless it is still the latest intact checkpoint in its run's directory. Call once that is
// locked.
void check_still_latest(const ResumePoint& point);

}  // namespace annulus
