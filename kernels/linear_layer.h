// Linear (fully connected) layer with bias and, where the spec asks for it, ReLU.
//
// The input is taken as it lies: flattening N x C x H x W costs nothing. A plain input is seen as N x CHW,
// which oneDNN has the best kernels for; behind a blocked one the weights have the logical dimensions out x C
// x H x W, which in plain order is PyTorch's out x CHW.
#pragma once

#include <memory>

#include "kernels/layer.h"
#include "kernels/network_spec.h"

namespace annulus {

// `src`: layout of its input, with two or four dimensions. The output is batch x out, plain; that of the
// `last` layer, the logits, is fp32 whatever the type of activations. Otherwise as make_convolution_layer.
std::unique_ptr<Layer> make_linear_layer(const LayerContext& context, const LayerSpec& spec,
                                         const dnnl::memory::desc& src, bool first, bool last,
                                         bool mask_gradient);

}  // namespace annulus
