// Initial weights, as PyTorch's defaults for convolutions and linear layers: uniform in +-1/sqrt(fan_in), for
// weights (kaiming_uniform_ with a = sqrt(5)) and biases alike. Drawn by counter, element by element in plain
// (OIHW) order, so they depend on the seed and the model alone, not on layouts or on who draws them.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/network_plan.h"

namespace annulus {

// Fills `blocked` (parameter.layout.padded_elements() floats) with the initial value of the parameter in its
// master layout, padding zero. `stream`: the parameter's index in NetworkPlan::parameters.
void draw_initial_weights(const ParameterPlan& parameter, uint64_t seed, uint32_t stream,
                          std::span<float> blocked);

}  // namespace annulus
