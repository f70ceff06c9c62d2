#include <vector>

#include "kernels/max_pool.h"
#include "kernels/stored_element.h"

namespace annulus {
namespace {

// Calls visit(output) for each output in turn, with where its window begins.
struct Output {
  int64_t place;    // in y
  int64_t plane;    // first element of its plane in x
  int row, column;  // top left of its window, negative inside the padding
  int lane;
};

template <typename Visit>
void for_each_output(const MaxPoolShape& shape, Visit visit) {
  int64_t place = 0;
  for (int64_t plane = 0; plane < shape.planes; ++plane) {
    for (int row = 0; row < shape.out_height(); ++row) {
      for (int column = 0; column < shape.out_width(); ++column) {
        for (int lane = 0; lane < shape.block; ++lane) {
          visit(Output{place++, plane * shape.plane_elements(), row * shape.stride - shape.padding,
                       column * shape.stride - shape.padding, lane});
        }
      }
    }
  }
}

// Element of x at this place of the output's window, or -1 inside the padding.
int64_t element_at(const MaxPoolShape& shape, const Output& output, int place) {
  const int row = output.row + place / shape.window, column = output.column + place % shape.window;
  if (row < 0 || row >= shape.height || column < 0 || column >= shape.width) return -1;
  return output.plane + (int64_t{row} * shape.width + column) * shape.block + output.lane;
}

}  // namespace

void max_pool_forward_reference(const MaxPoolShape& shape, const void* x, bool relu, void* y,
                                uint8_t* places) {
  for_each_output(shape, [&](const Output& output) {
    int best = -1;
    float maximum = 0;
    for (int place = 0; place < shape.window * shape.window; ++place) {
      const int64_t element = element_at(shape, output, place);
      if (element < 0) continue;
      const float value = read_element(shape.type, x, element);
      if (best < 0 || value > maximum) {
        best = place;
        maximum = value;
      }
    }
    write_element(shape.type, maximum, y, output.place);
    places[output.place] = relu && !(maximum > 0) ? kNowhere : static_cast<uint8_t>(best);
  });
}

void max_pool_backward_reference(const MaxPoolShape& shape, const uint8_t* places, const void* dy, void* dx) {
  std::vector<float> sums(shape.planes * shape.plane_elements());
  for_each_output(shape, [&](const Output& output) {
    if (places[output.place] == kNowhere) return;
    sums[element_at(shape, output, places[output.place])] += read_element(shape.type, dy, output.place);
  });
  for (std::size_t i = 0; i < sums.size(); ++i)
    write_element(shape.type, sums[i], dx, static_cast<int64_t>(i));
}

}  // namespace annulus
