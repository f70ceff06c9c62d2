// Max pooling as a layer. The kernels are ours (max_pool.h); oneDNN's descriptors only say how activations
// lie.
#pragma once

#include <memory>

#include "kernels/layer.h"
#include "kernels/network_spec.h"

namespace annulus {

// `src`: layout of its input, N x C x H x W: plain, channels last, or channels in blocks. The output keeps
// it. `relu_before`: the input is the output of a ReLU, whose backward pass this layer's does too. Throws
// std::runtime_error for any other layout.
std::unique_ptr<Layer> make_max_pool_layer(const LayerContext& context, const LayerSpec& spec,
                                           const dnnl::memory::desc& src, bool first, bool relu_before);

}  // namespace annulus
