// `annulus bench accuracy`: what top-k compression of gradients does to the accuracy of a network.
#pragma once

#include "launcher/options.h"

namespace annulus {

// Trains every kind from every seed, one run after the other, and prints a table, or JSON objects. Returns
// the exit code: that of the first run that fails. Throws UserError.
int bench_accuracy(const BenchAccuracyOptions& options);

}  // namespace annulus
