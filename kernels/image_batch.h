// From stored images (bytes) to the input of the first layer (floats): normalisation and augmentation.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "kernels/network_spec.h"

namespace annulus {

// x = (byte / 255 - mean[channel]) / stddev[channel], computed as byte * scale + shift.
struct Normalization {
  std::array<float, 3> mean{}, stddev{1, 1, 1};
};

// What augmentation does to one image: it is shifted by (dy, dx) pixels, |dy|, |dx| <= padding, with zeros
// (before normalisation: black) moving in, then mirrored left to right when `flip` is set. {0, 0, false}
// leaves it as it is.
struct ImageShift {
  int dy = 0, dx = 0;
  bool flip = false;
};

// Converts one image. `image`: channels x height x width bytes; `out`: as many floats, plain.
void convert_image(const ImageShape& shape, const Normalization& normalization, const ImageShift& shift,
                   const uint8_t* image, float* out);

// The same in plain loops: what tests compare convert_image with, bit by bit.
void convert_image_reference(const ImageShape& shape, const Normalization& normalization,
                             const ImageShift& shift, const uint8_t* image, float* out);

}  // namespace annulus
