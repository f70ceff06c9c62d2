// `annulus bench update`: the fused update (sum of all ranks' gradients, momentum, new generation) beside the
// memory traffic that it needs.
#pragma once

#include "launcher/options.h"

namespace annulus {

// Prints text or one JSON object for each size. Returns the exit code. Throws UserError, and
// std::runtime_error when a rank fails.
int bench_update(const BenchUpdateOptions& options);

}  // namespace annulus
