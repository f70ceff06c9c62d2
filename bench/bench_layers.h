// `annulus bench layers`: where the time of a training step goes, kernel by kernel.
#pragma once

#include <cstdint>

#include "launcher/options.h"
#include "runtime/run_plan.h"

namespace annulus {

// Prints text or JSON: one object for each kernel, then one for the step. Returns the exit code. Throws
// UserError.
int bench_layers(const BenchLayersOptions& options);

// Nanoseconds of forward, loss and backward of the run's one worker, without exchange and update: the median
// of so many steps after 2. Measures in the calling process, which must not be the launcher.
int64_t measure_forward_backward(const RunPlan& run, int64_t steps);

}  // namespace annulus
