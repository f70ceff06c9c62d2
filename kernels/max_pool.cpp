#include "kernels/max_pool.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/max_pool.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace annulus::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// One vector of channels of one window. `row`: elements from one row to the next; `block`: from one column to
// the next. kWindow is the window's side, or 0 where only `window` knows it.
template <int kWindow, class D, class V = hn::Vec<D>>
HWY_INLINE V maximum(D d, int window, int64_t row, int64_t block, const float* in) {
  if constexpr (kWindow == 2) {
    return hn::Max(hn::Max(hn::LoadU(d, in), hn::LoadU(d, in + block)),
                   hn::Max(hn::LoadU(d, in + row), hn::LoadU(d, in + row + block)));
  }
  V best = hn::LoadU(d, in);
  for (int i = 0; i < window; ++i) {
    for (int j = 0; j < window; ++j) best = hn::Max(best, hn::LoadU(d, in + i * row + j * block));
  }
  return best;
}

// Writes `flow` where the first maximum of the window `in` is, zero elsewhere. All of the window is read
// before any of it is written, since out may be in.
template <int kWindow, class D, class V = hn::Vec<D>>
HWY_INLINE void scatter(D d, int window, int64_t row, int64_t block, const float* in, V flow, bool relu,
                        float* out) {
  if constexpr (kWindow == 2) {
    const V top_left = hn::LoadU(d, in), top_right = hn::LoadU(d, in + block);
    const V low_left = hn::LoadU(d, in + row), low_right = hn::LoadU(d, in + row + block);
    // On a tie the earlier one wins.
    const auto right_of_top = hn::Gt(top_right, top_left), right_of_low = hn::Gt(low_right, low_left);
    const V top = hn::Max(top_left, top_right), low = hn::Max(low_left, low_right);
    const auto in_low = hn::Gt(low, top);
    if (relu) flow = hn::IfThenElseZero(hn::Gt(hn::Max(top, low), hn::Zero(d)), flow);
    const V to_top = hn::IfThenZeroElse(in_low, flow), to_low = hn::IfThenElseZero(in_low, flow);
    hn::StoreU(hn::IfThenZeroElse(right_of_top, to_top), d, out);
    hn::StoreU(hn::IfThenElseZero(right_of_top, to_top), d, out + block);
    hn::StoreU(hn::IfThenZeroElse(right_of_low, to_low), d, out + row);
    hn::StoreU(hn::IfThenElseZero(right_of_low, to_low), d, out + row + block);
    return;
  }
  V best = hn::LoadU(d, in), place = hn::Zero(d);
  for (int i = 0; i < window; ++i) {
    for (int j = 0; j < window; ++j) {
      const V value = hn::LoadU(d, in + i * row + j * block);
      const auto better = hn::Gt(value, best);
      best = hn::IfThenElse(better, value, best);
      place = hn::IfThenElse(better, hn::Set(d, static_cast<float>(i * window + j)), place);
    }
  }
  if (relu) flow = hn::IfThenElseZero(hn::Gt(best, hn::Zero(d)), flow);
  for (int i = 0; i < window; ++i) {
    for (int j = 0; j < window; ++j) {
      const auto here = hn::Eq(place, hn::Set(d, static_cast<float>(i * window + j)));
      hn::StoreU(hn::IfThenElseZero(here, flow), d, out + i * row + j * block);
    }
  }
}

template <int kWindow, class D>
void forward_planes(D d, const MaxPoolShape& shape, int64_t begin, int64_t end, const float* x, float* y) {
  const int window = shape.window;
  const int64_t block = shape.block, row_elements = shape.width * block;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  float* out = y + begin * shape.out_plane_elements();
  for (int64_t plane = begin; plane < end; ++plane) {
    for (int row = 0; row < shape.out_height(); ++row) {
      const float* in = x + plane * shape.plane_elements() + row * window * row_elements;
      for (int column = 0; column < shape.out_width(); ++column) {
        for (int64_t lane = 0; lane < block; lane += lanes) {
          hn::StoreU(maximum<kWindow>(d, window, row_elements, block, in + lane), d, out + lane);
        }
        in += window * block;
        out += block;
      }
    }
  }
}

template <int kWindow, class D>
void backward_planes(D d, const MaxPoolShape& shape, int64_t begin, int64_t end, const float* x,
                     const float* dy, bool relu, float* dx) {
  const int window = shape.window;
  const int64_t block = shape.block, row_elements = shape.width * block;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t used_columns = int64_t{shape.out_width()} * window * block;
  const int64_t used_rows = int64_t{shape.out_height()} * window;
  const float* gradient = dy + begin * shape.out_plane_elements();
  for (int64_t plane = begin; plane < end; ++plane) {
    float* out_plane = dx + plane * shape.plane_elements();
    for (int row = 0; row < shape.out_height(); ++row) {
      const int64_t start = row * window * row_elements;
      const float* in = x + plane * shape.plane_elements() + start;
      float* out = out_plane + start;
      for (int column = 0; column < shape.out_width(); ++column) {
        for (int64_t lane = 0; lane < block; lane += lanes) {
          scatter<kWindow>(d, window, row_elements, block, in + lane, hn::LoadU(d, gradient + lane), relu,
                           out + lane);
        }
        in += window * block;
        out += window * block;
        gradient += block;
      }
      for (int i = 0; i < window; ++i) {
        float* out_row = out_plane + start + i * row_elements;
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
