// Network plans for tests of what is laid out by them: parameters alone, no kernels.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "kernels/network_plan.h"

namespace annulus {

struct ParameterSize {
  int layer;
  int64_t elements;
};

// A plan with plain one-dimensional parameters, in order of use by forward.
inline NetworkPlan network_of(const std::vector<ParameterSize>& sizes) {
  NetworkPlan plan;
  plan.network = "test";
  for (const ParameterSize& size : sizes) {
    plan.parameters.push_back({.name = "p" + std::to_string(plan.parameters.size()),
                               .layout = TensorLayout::plain(std::array{size.elements}),
                               .layer = size.layer,
                               .fan_in = 1});
  }
  return plan;
}

// OIhw16i16o, the usual master layout of a convolution, or of a linear layer with 1x1 "images".
inline TensorLayout blocked_layout(int64_t outputs, int64_t inputs, int64_t height, int64_t width) {
  const int64_t padded_out = (outputs + 15) / 16 * 16, padded_in = (inputs + 15) / 16 * 16;
  const int64_t tile = 256 * height * width;  // elements of one pair of channel blocks
  return {.dims_count = 4,
          .dims = {outputs, inputs, height, width},
          .padded_dims = {padded_out, padded_in, height, width},
          .strides = {padded_in / 16 * tile, tile, 256 * width, 256},
          .inner_count = 2,
          .inner_blocks = {16, 16},
          .inner_dims = {1, 0}};
}

}  // namespace annulus
