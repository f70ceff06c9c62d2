// `annulus train`.
#pragma once

#include "launcher/resume.h"
#include "runtime/train_config.h"

namespace annulus {

// Trains and reports on standard output. Returns the exit code. `began_ns`: when the command began. Throws
// UserError before anything is started.
int train_command(const TrainConfig& config, const ResumePoint* resume, int64_t began_ns);

}  // namespace annulus
