// The networks that can be asked for by name.
#pragma once

#include <string>

#include "kernels/network_spec.h"

namespace annulus {

// "mlp": linear layers fc1 (256), fc2 (128) and fc3 (classes), with ReLU between them.
// "simplecnn": conv1 (32 filters of 3x3, ReLU), pool1 (2x2), conv2 (64 of 3x3, ReLU), pool2 (2x2), fc1 (128,
// ReLU), fc2 (classes); convolutions without padding. Throws UserError for another name, and where the images
// are too small.
NetworkSpec make_network(const std::string& model, const ImageShape& input, int classes);

}  // namespace annulus
