// Passes over activations that look at one element at a time: ReLU's gradient, the sum of a shortcut, the sum
// of a fork's gradients. Elements are fp32 or bf16, arithmetic is fp32, and any number of elements and any
// alignment will do. The sum of two fp32 streams alone is in reduce.h too.
#pragma once

#include <cstdint>

#include "kernels/data_type.h"

namespace annulus {

// gradient[i] = y[i] > 0 ? gradient[i] : 0 for n elements, where y is the ReLU's output.
void relu_backward(DataType type, int64_t n, const void* y, void* gradient);

// sum[i] = a[i] + b[i], with `relu` max(a[i] + b[i], 0); sum may be a or b. NaN stays NaN.
void add(DataType type, int64_t n, const void* a, const void* b, bool relu, void* sum);

// The same as plain loops, with the same bits.
void relu_backward_reference(DataType type, int64_t n, const void* y, void* gradient);
void add_reference(DataType type, int64_t n, const void* a, const void* b, bool relu, void* sum);

}  // namespace annulus
