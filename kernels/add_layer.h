// The sum with a shortcut, and the ReLU behind it, as a layer; for blocks that do not end in batch norm,
// which does both itself (batch_norm_layer.h).
#pragma once

#include <memory>

#include "kernels/layer.h"
#include "kernels/network_spec.h"

namespace annulus {

// `src`: layout of its input, of its addend and of its output.
std::unique_ptr<Layer> make_add_layer(const LayerContext& context, const LayerSpec& spec,
                                      const dnnl::memory::desc& src);

}  // namespace annulus
