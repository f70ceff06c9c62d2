// Batch norm as a layer: with the sum with a shortcut and the ReLU that follow it in residual networks. The
// kernels are ours (batch_norm.h).
//
// A shard is normalized with its own statistics. What backward writes as the gradients of the running
// statistics is explained at ParameterRole (kernels/network_plan.h).
#pragma once

#include <memory>

#include "kernels/layer.h"
#include "kernels/network_spec.h"

namespace annulus {

// `src`: layout of its input, N x C x H x W, which the output keeps; N is a whole shard. Throws
// std::runtime_error for a layout that we have no kernels for.
std::unique_ptr<Layer> make_batch_norm_layer(const LayerContext& context, const LayerSpec& spec,
                                             const dnnl::memory::desc& src);

}  // namespace annulus
