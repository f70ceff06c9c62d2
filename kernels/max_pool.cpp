#include "kernels/max_pool.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/max_pool.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace annulus::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// kWindow is the window's side, or 0 where it is known at run time only.
template <int kWindow, class D>
void forward_planes(D d, const MaxPoolShape& shape, int64_t begin, int64_t end, const float* x, float* y) {
  const int window = kWindow != 0 ? kWindow : shape.window;
  const int64_t block = shape.block, row_elements = shape.width * block;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t plane = begin; plane < end; ++plane) {
    const float* in_plane = x + plane * shape.plane_elements();
    float* out = y + plane * shape.out_plane_elements();
    for (int row = 0; row < shape.out_height(); ++row) {
      const float* in_row = in_plane + row * window * row_elements;
      for (int column = 0; column < shape.out_width(); ++column) {
        const float* in = in_row + column * window * block;
        for (int64_t lane = 0; lane < block; lane += lanes) {
          auto best = hn::LoadU(d, in + lane);
          for (int i = 0; i < window; ++i) {
            for (int j = 0; j < window; ++j) {
              const auto value = hn::LoadU(d, in + lane + i * row_elements + j * block);
              best = hn::IfThenElse(hn::Gt(value, best), value, best);
            }
          }
          hn::StoreU(best, d, out + lane);
        }
        out += block;
      }
    }
  }
}

template <int kWindow, class D>
void backward_planes(D d, const MaxPoolShape& shape, int64_t begin, int64_t end, const float* x,
                     const float* dy, bool relu, float* dx) {
  const int window = kWindow != 0 ? kWindow : shape.window;
  const int64_t block = shape.block, row_elements = shape.width * block;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t used_columns = int64_t{shape.out_width()} * window * block;
  const int64_t used_rows = int64_t{shape.out_height()} * window;
  const auto zero = hn::Zero(d);
  for (int64_t plane = begin; plane < end; ++plane) {
    const float* in_plane = x + plane * shape.plane_elements();
    float* out_plane = dx + plane * shape.plane_elements();
    const float* gradient = dy + plane * shape.out_plane_elements();
    for (int row = 0; row < shape.out_height(); ++row) {
      const int64_t row_start = row * window * row_elements;
      for (int column = 0; column < shape.out_width(); ++column) {
        const int64_t corner = row_start + column * window * block;
        for (int64_t lane = 0; lane < block; lane += lanes) {
          const float* in = in_plane + corner + lane;
          float* out = out_plane + corner + lane;
          // All of the window is read before any of it is written, since dx may be x.
          auto best = hn::LoadU(d, in);
          auto place = zero;
          for (int i = 0; i < window; ++i) {
            for (int j = 0; j < window; ++j) {
              const auto value = hn::LoadU(d, in + i * row_elements + j * block);
              const auto better = hn::Gt(value, best);
              best = hn::IfThenElse(better, value, best);
              place = hn::IfThenElse(better, hn::Set(d, static_cast<float>(i * window + j)), place);
            }
          }
          auto flow = hn::LoadU(d, gradient + lane);
          if (relu) flow = hn::IfThenElseZero(hn::Gt(best, zero), flow);
          for (int i = 0; i < window; ++i) {
            for (int j = 0; j < window; ++j) {
              const auto here = hn::Eq(place, hn::Set(d, static_cast<float>(i * window + j)));
              hn::StoreU(hn::IfThenElseZero(here, flow), d, out + i * row_elements + j * block);
            }
          }
        }
        gradient += block;
      }
      for (int i = 0; i < window; ++i) {
        float* out_row = out_plane + row_start + i * row_elements;
        std::fill(out_row + used_columns, out_row + row_elements, 0.0F);
      }
    }
    std::fill(out_plane + used_rows * row_elements, out_plane + shape.plane_elements(), 0.0F);
  }
}

// Calls run with the widest vector that divides the block.
template <class Run>
void with_lanes(int block, const Run& run) {
  if (block % hn::Lanes(hn::CappedTag<float, 16>()) == 0) return run(hn::CappedTag<float, 16>());
  if (block % hn::Lanes(hn::CappedTag<float, 8>()) == 0) return run(hn::CappedTag<float, 8>());
  if (block % hn::Lanes(hn::CappedTag<float, 4>()) == 0) return run(hn::CappedTag<float, 4>());
  run(hn::CappedTag<float, 1>());
}

void forward(const MaxPoolShape& shape, int64_t begin, int64_t end, const float* x, float* y) {
  with_lanes(shape.block, [&](auto d) {
    if (shape.window == 2) {
      forward_planes<2>(d, shape, begin, end, x, y);
    } else {
      forward_planes<0>(d, shape, begin, end, x, y);
    }
  });
}

void backward(const MaxPoolShape& shape, int64_t begin, int64_t end, const float* x, const float* dy,
              bool relu, float* dx) {
  with_lanes(shape.block, [&](auto d) {
    if (shape.window == 2) {
      backward_planes<2>(d, shape, begin, end, x, dy, relu, dx);
    } else {
      backward_planes<0>(d, shape, begin, end, x, dy, relu, dx);
    }
  });
}

}  // namespace annulus::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace annulus {

HWY_EXPORT(forward);
HWY_EXPORT(backward);

void max_pool_forward(const MaxPoolShape& shape, int64_t begin, int64_t end, const float* x, float* y) {
  HWY_DYNAMIC_DISPATCH(forward)(shape, begin, end, x, y);
}

void max_pool_backward(const MaxPoolShape& shape, int64_t begin, int64_t end, const float* x, const float* dy,
                       bool relu, float* dx) {
  HWY_DYNAMIC_DISPATCH(backward)(shape, begin, end, x, dy, relu, dx);
}

}  // namespace annulus
#endif  // HWY_ONCE
