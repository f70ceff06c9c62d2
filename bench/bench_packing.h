// `annulus bench compression --model`: what top-k takes of one core for a whole network's gradient, as a
// rank's bridge does it between two hosts, beside forward and backward.
#pragma once

#include "launcher/options.h"

namespace annulus {

// Prints text, or a JSON object for each ratio. Returns the exit code. Throws UserError, and
// std::runtime_error when the measuring process fails.
int bench_packing(const BenchCompressionOptions& options);

}  // namespace annulus
