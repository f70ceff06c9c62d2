#include <algorithm>

#include "kernels/max_pool.h"

namespace annulus {
namespace {

// Calls visit(output, start), both in elements from the start of their tensors: of each output in turn, and
// of the element at the top left of its window.
template <typename Visit>
void for_each_window(const MaxPoolShape& shape, Visit visit) {
  int64_t output = 0;
  for (int64_t plane = 0; plane < shape.planes; ++plane) {
    for (int row = 0; row < shape.out_height(); ++row) {
      for (int column = 0; column < shape.out_width(); ++column) {
        const int64_t pixel = int64_t{row} * shape.window * shape.width + int64_t{column} * shape.window;
        for (int lane = 0; lane < shape.block; ++lane) {
          visit(output++, plane * shape.plane_elements() + pixel * shape.block + lane);
        }
      }
    }
  }
}

// Elements from the start of a window to this place in it.
int64_t offset_of(const MaxPoolShape& shape, int place) {
  return int64_t{place / shape.window * shape.width + place % shape.window} * shape.block;
}

}  // namespace

void max_pool_forward_reference(const MaxPoolShape& shape, const float* x, bool relu, float* y,
                                uint8_t* places) {
  for_each_window(shape, [&](int64_t output, int64_t start) {
    int best = 0;
    for (int place = 1; place < shape.window * shape.window; ++place) {
      if (x[start + offset_of(shape, place)] > x[start + offset_of(shape, best)]) best = place;
    }
    y[output] = x[start + offset_of(shape, best)];
    places[output] = relu && !(y[output] > 0) ? kNowhere : static_cast<uint8_t>(best);
  });
}

void max_pool_backward_reference(const MaxPoolShape& shape, const uint8_t* places, const float* dy,
                                 float* dx) {
  std::fill_n(dx, shape.planes * shape.plane_elements(), 0.0F);
  for_each_window(shape, [&](int64_t output, int64_t start) {
    if (places[output] != kNowhere) dx[start + offset_of(shape, places[output])] = dy[output];
  });
}

}  // namespace annulus
