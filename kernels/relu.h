// Backward pass of ReLU. The forward pass is part of the layer before it.
#pragma once

#include <cstdint>

namespace annulus {

// gradient[i] = y[i] > 0 ? gradient[i] : 0 for n elements, where y is the ReLU's output.
void relu_backward(int64_t n, const float* y, float* gradient);

// The same as a plain loop.
void relu_backward_reference(int64_t n, const float* y, float* gradient);

}  // namespace annulus
