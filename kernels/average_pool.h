// Average over the pixels of each image. Inputs are stored as [planes][pixels][block], outputs as
// [planes][block]: nChw16c has one plane per image and 16 channels and block 16, nchw one per image and
// channel and block 1, nhwc one per image and block = channels. Elements are fp32 or bf16; sums are fp32 over
// at most 256 terms and double across. Bits depend neither on how planes are dealt out nor on the instruction
// set.
#pragma once

#include <cstdint>

#include "kernels/data_type.h"

namespace annulus {

struct AveragePoolShape {
  int64_t planes = 0;
  int64_t pixels = 0;
  int block = 1;  // channels that lie side by side
  DataType type = DataType::kF32;
};

// y = mean of x over the pixels, for planes [begin, end). Pointers are the starts of the whole tensors.
void average_pool_forward(const AveragePoolShape& shape, int64_t begin, int64_t end, const void* x, void* y);

// dx = dy / pixels, for each pixel of planes [begin, end).
void average_pool_backward(const AveragePoolShape& shape, int64_t begin, int64_t end, const void* dy,
                           void* dx);

// The same as plain loops that sum in double. Where sums are exact, as those of small integers are, the bits
// are the same too; backward's always are.
void average_pool_forward_reference(const AveragePoolShape& shape, const void* x, void* y);
void average_pool_backward_reference(const AveragePoolShape& shape, const void* dy, void* dx);

}  // namespace annulus
