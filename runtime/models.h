// The networks that can be asked for by name, and how --model chooses between them and a user's own.
#pragma once

#include <string>
#include <vector>

#include "kernels/network_spec.h"

namespace annulus {

// "mlp": linear layers fc1 (256), fc2 (128) and fc3 (classes), with ReLU between them.
// "simplecnn": conv1 (32 filters of 3x3, ReLU), pool1 (2x2), conv2 (64 of 3x3, ReLU), pool2 (2x2), fc1 (128,
// ReLU), fc2 (classes); convolutions without padding.
// "resnet18", "resnet50": as torchvision has them (He et al. 2016, with the stride in a bottleneck's 3x3
// convolution), layers and their names included.
const std::vector<std::string>& model_names();

// What a ResNet begins with. "cifar": a 3x3 convolution, for small images. "imagenet": a 7x7 convolution and
// max pooling, which leave a sixteenth of the pixels.
const std::vector<std::string>& stem_names();
bool has_stem(const std::string& model);

// Throws UserError for another name, and where the images are too small. `stem` matters to models that have
// one.
NetworkSpec make_network(const std::string& model, const ImageShape& input, int classes,
                         const std::string& stem = "cifar");

// Whether it is the path of a network's file, not a name: it has a slash, or ends in .yaml or .yml.
bool is_network_file(const std::string& model);

// The network that --model and --stem choose. Reads its file, if it is one. Throws UserError.
NetworkSpec choose_network(const std::string& model, const std::string& stem, const ImageShape& input,
                           int classes);

}  // namespace annulus
