// Which algorithm computes a pass of a convolution.
//
// Winograd's F(4x4, 3x3) needs a quarter of the multiplications of a 3x3 filter, and rounds more: its error
// is measured in tests/kernels/winograd_test.cpp. Lavin and Gray, "Fast algorithms for convolutional neural
// networks", CVPR 2016.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "kernels/data_type.h"
#include "kernels/network_spec.h"

namespace annulus {

enum class ConvolutionAlgorithm : uint8_t { kDirect, kWinograd };

// Choices instead of the rule's, by layer and pass, as in KernelPlan; what is not in it follows the rule.
using ChosenAlgorithms = std::map<std::pair<std::string, std::string>, ConvolutionAlgorithm>;

// As text, for configurations: "conv1=wdw,conv2=ddd", a letter each for forward, backward-weights and
// backward-data: d is direct, w Winograd. A layer that is in the choices is there with all three passes.
std::string to_text(const ChosenAlgorithms& algorithms);
// Throws UserError for text that is none of the above, a layer that is no convolution of the network, and
// Winograd where it does not fit; `where` names the text's origin.
ChosenAlgorithms algorithms_from_text(const std::string& text, const std::string& where,
                                      const NetworkSpec& spec, DataType type);

// Whether Winograd can compute it at all: fp32, 3x3, stride 1, padding 0 or 1.
bool winograd_fits(const LayerSpec& layer, DataType type);

// The rule for all passes: a pure function of the layer, its input's shape and the images of one call, never
// of the machine, because bits depend on it. Where oneDNN has no Winograd (3.x, or no AVX-512) the layer
// falls back to direct.
ConvolutionAlgorithm choose_algorithm(const LayerSpec& layer, const ImageShape& input, int64_t images,
                                      DataType type);

// How many of `images` images one call of the layer's passes shall process: a divisor of them, so many that
// what Winograd transforms stays in the caches of `threads` cores; all of them where no divisor comes near,
// or for direct.
int64_t images_per_call(const LayerSpec& layer, const ImageShape& input, int64_t images, int threads,
                        DataType type);

}  // namespace annulus
