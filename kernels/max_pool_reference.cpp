#include <algorithm>

#include "kernels/max_pool.h"

namespace annulus {
namespace {

// Offset in a plane of the first maximum of the window of output (row, column), channel `lane`.
int64_t first_maximum(const MaxPoolShape& shape, const float* plane, int row, int column, int lane) {
  int64_t best = -1;
  for (int i = 0; i < shape.window; ++i) {
    for (int j = 0; j < shape.window; ++j) {
      const int64_t y = row * shape.window + i, x = column * shape.window + j;
      const int64_t place = (y * shape.width + x) * shape.block + lane;
      if (best < 0 || plane[place] > plane[best]) best = place;
    }
  }
  return best;
}

// Calls visit(offset of the output, offset of the first maximum), both from the start of their tensors.
template <typename Visit>
void for_each_window(const MaxPoolShape& shape, const float* x, Visit visit) {
  int64_t out = 0;
  for (int64_t plane = 0; plane < shape.planes; ++plane) {
    const int64_t start = plane * shape.plane_elements();
    for (int row = 0; row < shape.out_height(); ++row) {
      for (int column = 0; column < shape.out_width(); ++column) {
        for (int lane = 0; lane < shape.block; ++lane) {
          visit(out++, start + first_maximum(shape, x + start, row, column, lane));
        }
      }
    }
  }
}

}  // namespace

void max_pool_forward_reference(const MaxPoolShape& shape, const float* x, float* y) {
  for_each_window(shape, x, [&](int64_t out, int64_t maximum) { y[out] = x[maximum]; });
}

void max_pool_backward_reference(const MaxPoolShape& shape, const float* x, const float* dy, bool relu,
                                 float* dx) {
  std::fill_n(dx, shape.planes * shape.plane_elements(), 0.0F);
  for_each_window(shape, x, [&](int64_t out, int64_t maximum) {
    if (!relu || x[maximum] > 0) dx[maximum] = dy[out];
  });
}

}  // namespace annulus
