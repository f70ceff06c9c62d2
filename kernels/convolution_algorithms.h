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

// Choices that were measured (kernels/tune.h), by layer and pass, as in KernelPlan; the others follow the
// rule.
using MeasuredAlgorithms = std::map<std::pair<std::string, std::string>, ConvolutionAlgorithm>;

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
