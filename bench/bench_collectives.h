// `annulus bench collectives`: how long collectives take, beside what the machine's memory allows.
#pragma once

#include "launcher/options.h"

namespace annulus {

// Runs the rounds on forked, pinned ranks; prints a table or one JSON object a line. Returns the exit code.
// Throws UserError, and std::runtime_error when a rank fails.
int bench_collectives(const BenchCollectivesOptions& options);

}  // namespace annulus
