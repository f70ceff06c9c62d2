// Average pooling over the whole image as a layer. The kernels are ours (average_pool.h).
#pragma once

#include <memory>

#include "kernels/layer.h"
#include "kernels/network_spec.h"

namespace annulus {

// `src`: layout of its input, N x C x H x W. The output, N x C x 1 x 1, is plain where channels fill blocks.
// Throws std::runtime_error for a layout that we have no kernels for.
std::unique_ptr<Layer> make_average_pool_layer(const LayerContext& context, const LayerSpec& spec,
                                               const dnnl::memory::desc& src);

}  // namespace annulus
