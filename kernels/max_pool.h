// Max pooling over activations stored as [planes][height][width][block]: nchw has one plane per image and
// channel and block 1, nChw16c one per image and 16 channels and block 16, nhwc one per image and block =
// channels. Elements are fp32 or bf16.
//
// Around the input lie `padding` rows and columns that are never the maximum. Rows and columns that no window
// reaches are ignored by forward and get a zero gradient; where windows overlap, gradients add up. What a
// window with a NaN in it yields is not specified.
#pragma once

#include <cstdint>

#include "kernels/data_type.h"

namespace annulus {

struct MaxPoolShape {
  int64_t planes = 0;
  int height = 0, width = 0;  // of the input
  int block = 1;              // channels that lie side by side
  int window = 2;             // side of the window; at most kLargestWindow
  int stride = 2;             // between windows, both ways
  int padding = 0;            // on all four sides; at most half of the window, so that no window is empty
  DataType type = DataType::kF32;

  int out_height() const { return (height + 2 * padding - window) / stride + 1; }
  int out_width() const { return (width + 2 * padding - window) / stride + 1; }
  int64_t plane_elements() const { return int64_t{height} * width * block; }
  int64_t out_plane_elements() const { return int64_t{out_height()} * out_width() * block; }
  // Windows lie side by side: each input is in one at most.
  bool is_tiled() const { return stride == window && padding == 0; }
};

// Where in its window the first maximum of an output lies: row * window + column, or kNowhere.
inline constexpr int kLargestWindow = 15;  // places fit into a byte
inline constexpr uint8_t kNowhere = 255;

// y = maximum over each window, for planes [begin, end), and places[i] = where y[i] comes from: the first
// maximum in row-major order. With `relu`, x is the output of a ReLU, and a window whose maximum is not
// positive, which lets no gradient through, comes from nowhere. Pointers are the starts of the whole tensors;
// places has as many elements as y.
//
// A byte per output is kept for backward so that x need not be: x is 4 * stride^2 times as large in fp32.
void max_pool_forward(const MaxPoolShape& shape, int64_t begin, int64_t end, const void* x, bool relu,
                      void* y, uint8_t* places);

// dx = gradient of the loss with respect to x (with `relu` in forward: to the ReLU's input), every element of
// it: the sum of dy of the windows whose places point there, in fp32 and in row-major order of windows.
void max_pool_backward(const MaxPoolShape& shape, int64_t begin, int64_t end, const uint8_t* places,
                       const void* dy, void* dx);

// The same as plain loops, with equal results.
void max_pool_forward_reference(const MaxPoolShape& shape, const void* x, bool relu, void* y,
                                uint8_t* places);
void max_pool_backward_reference(const MaxPoolShape& shape, const uint8_t* places, const void* dy, void* dx);

}  // namespace annulus
