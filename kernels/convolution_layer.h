// Convolution with bias and, where the spec asks for it, ReLU: stride 1, square filter.
#pragma once

#include <memory>

#include "kernels/layer.h"
#include "kernels/network_spec.h"

namespace annulus {

// `src`: layout of its input, N x C x H x W, which fits the filter. `first`: the network's first layer, whose
// input needs no gradient. `mask_gradient`: see WeightedLayer. Throws std::runtime_error as WeightedLayer
// does.
std::unique_ptr<Layer> make_convolution_layer(const LayerContext& context, const LayerSpec& spec,
                                              const dnnl::memory::desc& src, bool first, bool mask_gradient);

}  // namespace annulus
