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
  int window = 2;             // side of the window, and its stride; at most kLargestWindow

  int out_height() const { return height / window; }
  int out_width() const { return width / window; }
  int64_t plane_elements() const { return int64_t{height} * width * block; }
  int64_t out_plane_elements() const { return int64_t{out_height()} * out_width() * block; }
};

// Where in its window the first maximum of an output lies: row * window + column, or kNowhere.
inline constexpr int kLargestWindow = 15;  // places fit into a byte
inline constexpr uint8_t kNowhere = 255;

// y = maximum over each window, for planes [begin, end), and places[i] = where y[i] comes from: the first
// maximum in row-major order. With `relu`, x is the output of a ReLU, and a window whose maximum is not
// positive, which lets no gradient through, comes from nowhere. Pointers are the starts of the whole tensors;
// places has as many elements as y.
//
// A byte per output is kept for backward so that x need not be: x is 4 * window^2 times as large.
void max_pool_forward(const MaxPoolShape& shape, int64_t begin, int64_t end, const float* x, bool relu,
                      float* y, uint8_t* places);

// dx = gradient of the loss with respect to x (with `relu` in forward: to the ReLU's input), every element of
// it: dy where the places say, zero elsewhere.
void max_pool_backward(const MaxPoolShape& shape, int64_t begin, int64_t end, const uint8_t* places,
                       const float* dy, float* dx);

// The same as plain loops.
void max_pool_forward_reference(const MaxPoolShape& shape, const float* x, bool relu, float* y,
                                uint8_t* places);
void max_pool_backward_reference(const MaxPoolShape& shape, const uint8_t* places, const float* dy,
                                 float* dx);

}  // namespace annulus
