// `annulus topo`.
#pragma once

#include "launcher/options.h"

namespace annulus {

// Draws the machine, where each worker would go, and the segment part by part; with verify, starts the
// workers without a step and reads back where they and their pages really are. Returns the exit code. Throws
// UserError.
int topo_command(const TopoOptions& options, int64_t began_ns);

}  // namespace annulus
