// `annulus bench compression`: what it costs one core to make a gradient smaller for the wire, and how much
// smaller it gets.
#pragma once

#include "launcher/options.h"

namespace annulus {

// Prints text, or a JSON object for each size, ratio and operation. Returns the exit code. Throws UserError,
// and std::runtime_error when the measuring process fails.
int bench_compression(const BenchCompressionOptions& options);

}  // namespace annulus
