// `annulus train`.
#pragma once

#include "launcher/resume.h"
#include "launcher/run_hosts.h"
#include "runtime/train_config.h"

namespace annulus {

// Trains and reports on standard output. Returns the exit code. `config`: on_hosts(). `began_ns`: when the
// command began. Throws UserError before anything is started.
int train_command(const TrainConfig& config, const ResumePoint* resume, const RunHosts& hosts,
                  int64_t began_ns);

}  // namespace annulus
