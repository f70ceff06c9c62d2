// `annulus checkpoint`: looking at checkpoints without a run.
#pragma once

#include "launcher/options.h"

namespace annulus {

// Shows, verifies or exports. Returns the exit code: 1 where `verify` has found one that is not intact.
// Throws UserError for what cannot be read or written.
int checkpoint_command(const CheckpointOptions& options);

}  // namespace annulus
