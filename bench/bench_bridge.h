// `annulus bench bridge`: all-reduce between hosts, beside what TCP alone does.
#pragma once

#include "launcher/options.h"

namespace annulus {

// Prints the results; returns the exit code. Throws UserError.
int bench_bridge(const BenchBridgeOptions& options);

}  // namespace annulus
