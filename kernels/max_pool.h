// Max pooling with windows that do not overlap, over activations stored as [planes][height][width][block]:
// nchw has one plane per image and channel and block 1, nChw16c one per image and 16 channels and block 16,
// nhwc one per image and block = channels.
//
// Rows and columns that fill no whole window are ignored by forward and get a zero gradient. What
// a window with a NaN in it yields is not specified.
#pragma once

#include <cstdint>

namespace annulus {

struct MaxPoolShape {
  int64_t planes = 0;
  int height = 0, width = 0;  // of the input
  int block = 1;              // channels that lie side by side
  int window = 2;             // side of the window, and its stride

  int out_height() const { return height / window; }
  int out_width() const { return width / window; }
  int64_t plane_elements() const { return int64_t{height} * width * block; }
  int64_t out_plane_elements() const { return int64_t{out_height()} * out_width() * block; }
};

// y = maximum over each window, for planes [begin, end). x and y are the starts of the whole tensors.
void max_pool_forward(const MaxPoolShape& shape, int64_t begin, int64_t end, const float* x, float* y);

// dx = gradient of the loss with respect to x, every element of it: dy goes to the first maximum of its
// window in row-major order, the rest is zero. The maximum is looked up in x again, which costs less than to
// store where it was. With `relu`, x is the output of a ReLU and dx becomes the gradient with respect to its
// input: zero where x is. dx may be x.
void max_pool_backward(const MaxPoolShape& shape, int64_t begin, int64_t end, const float* x, const float* dy,
                       bool relu, float* dx);

// The same as plain loops.
void max_pool_forward_reference(const MaxPoolShape& shape, const float* x, float* y);
void max_pool_backward_reference(const MaxPoolShape& shape, const float* x, const float* dy, bool relu,
                                 float* dx);

}  // namespace annulus
