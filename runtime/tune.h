// --tune: which algorithm is the fastest for each convolution and pass, by measurement.
#pragma once

#include "kernels/network.h"

namespace annulus {

// Of every convolution that has a choice (winograd_fits), all passes, run with the portions of images that
// `options` mean; layers of the same shape are measured once. Empty where there is nothing to choose: then,
// and for all other layers, the rule is right. Takes a second or two for a ResNet and the memory of a worker.
ChosenAlgorithms fastest_algorithms(const NetworkSpec& spec, const NetworkOptions& options);

}  // namespace annulus
