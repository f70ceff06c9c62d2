// `annulus check`: does the exchange do here what it promises?
#pragma once

#include "launcher/options.h"

namespace annulus {

// Trains a synthetic objective with forked workers and serially, and compares. Prints text or one JSON
// object. Returns 0 where both have the same bits and converge as theory says, else 1. Throws UserError
// before anything is started, and what run_ranks throws.
int check_command(const CheckOptions& options);

}  // namespace annulus
