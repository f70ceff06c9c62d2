// `annulus model`: what is this network?
#pragma once

#include "launcher/options.h"

namespace annulus {

// Prints the network as YAML with a table of its layers, or as one JSON object. Returns the exit code; throws
// UserError for what cannot be read or does not fit together.
int model_command(const ModelOptions& options);

}  // namespace annulus
