// `annulus bench layers`: where the time of a training step goes, kernel by kernel.
#pragma once

#include "launcher/options.h"

namespace annulus {

// Prints text or JSON: one object for each kernel, then one for the step. Returns the exit code. Throws
// UserError.
int bench_layers(const BenchLayersOptions& options);

}  // namespace annulus
