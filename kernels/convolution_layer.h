// Convolution with a square filter and, where the spec asks for them, bias and ReLU.
#pragma once

#include <memory>

#include "kernels/convolution_algorithms.h"
#include "kernels/layer.h"
#include "kernels/network_spec.h"

namespace annulus {

// `src`: layout of its input, N x C x H x W, which fits the filter. `first`: the input needs no gradient.
// `mask_gradient`: see WeightedLayer. `chosen`: algorithms of this layer or others; the rule
// (kernels/convolution_algorithms.h) chooses what is not in it. Throws UserError as WeightedLayer does.
std::unique_ptr<Layer> make_convolution_layer(const LayerContext& context, const LayerSpec& spec,
                                              const dnnl::memory::desc& src, bool first, bool mask_gradient,
                                              const ChosenAlgorithms& chosen);

}  // namespace annulus
