// `annulus bench recovery`: workers killed at random, how long the run takes to go on, and with which bits.
#pragma once

#include "launcher/options.h"

namespace annulus {

// Trains while workers are killed, then as many steps undisturbed; prints text or JSON objects. Returns the
// exit code: 1 where the weights differ. Throws UserError.
int bench_recovery(const BenchRecoveryOptions& options, int64_t began_ns);

}  // namespace annulus
