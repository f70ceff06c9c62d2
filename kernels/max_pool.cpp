#include "kernels/max_pool.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/max_pool.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace annulus::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Where the tensors are of one vector of channels of one window. `row`: elements from one row of x to the
// next; `column`: from one column to the next.
struct Window {
  int side;
  int64_t row, column;
  int64_t place(int i, int j) const { return i * row + j * column; }
};

// kSide is the window's side, or 0 where only `window` knows it.
template <int kSide, class D>
HWY_INLINE void pool(D d, const Window& window, const float* in, bool relu, float* out, uint8_t* places) {
  const hn::RebindToSigned<D> di;
  const hn::Rebind<uint8_t, D> du8;
  using V = hn::Vec<D>;
  using Place = hn::Vec<decltype(di)>;
  V best;
  Place place;
  // On a tie the earlier one wins.
  if constexpr (kSide == 2) {
    const V top_left = hn::LoadU(d, in), top_right = hn::LoadU(d, in + window.place(0, 1));
    const V low_left = hn::LoadU(d, in + window.place(1, 0));
    const V low_right = hn::LoadU(d, in + window.place(1, 1));
    const V top = hn::Max(top_left, top_right), low = hn::Max(low_left, low_right);
    const auto right_of_top = hn::RebindMask(di, hn::Gt(top_right, top_left));
    const auto right_of_low = hn::RebindMask(di, hn::Gt(low_right, low_left));
    best = hn::Max(top, low);
    place = hn::IfThenElse(hn::RebindMask(di, hn::Gt(low, top)),
                           hn::IfThenElse(right_of_low, hn::Set(di, 3), hn::Set(di, 2)),
                           hn::IfThenElseZero(right_of_top, hn::Set(di, 1)));
  } else {
    best = hn::LoadU(d, in);
    place = hn::Zero(di);
    for (int k = 1; k < window.side * window.side; ++k) {
      const V value = hn::LoadU(d, in + window.place(k / window.side, k % window.side));
      const auto better = hn::Gt(value, best);
      best = hn::IfThenElse(better, value, best);
      place = hn::IfThenElse(hn::RebindMask(di, better), hn::Set(di, k), place);
    }
  }
  if (relu) {
    const auto open = hn::RebindMask(di, hn::Gt(best, hn::Zero(d)));
    place = hn::IfThenElse(open, place, hn::Set(di, kNowhere));
  }
  hn::StoreU(best, d, out);
  hn::StoreU(hn::DemoteTo(du8, place), du8, places);
}

template <int kSide, class D>
HWY_INLINE void scatter(D d, const Window& window, const uint8_t* places, const float* gradient, float* out) {
  const hn::RebindToSigned<D> di;
  const hn::Rebind<uint8_t, D> du8;
  const auto flow = hn::LoadU(d, gradient);
  const auto place = hn::PromoteTo(di, hn::LoadU(du8, places));
  const int side = kSide != 0 ? kSide : window.side;
  for (int i = 0; i < side; ++i) {
    for (int j = 0; j < side; ++j) {
      const auto here = hn::RebindMask(d, hn::Eq(place, hn::Set(di, i * side + j)));
      hn::StoreU(hn::IfThenElseZero(here, flow), d, out + window.place(i, j));
    }
  }
}

template <int kSide, class D>
void forward_planes(D d, const MaxPoolShape& shape, int64_t begin, int64_t end, const float* x, bool relu,
                    float* y, uint8_t* places) {
  const int64_t block = shape.block, row_elements = shape.width * block;
  const Window window{shape.window, row_elements, block};
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t out = begin * shape.out_plane_elements();
  for (int64_t plane = begin; plane < end; ++plane) {
    for (int row = 0; row < shape.out_height(); ++row) {
      const float* in = x + plane * shape.plane_elements() + row * window.side * row_elements;
      for (int column = 0; column < shape.out_width(); ++column) {
        for (int64_t lane = 0; lane < block; lane += lanes) {
          pool<kSide>(d, window, in + lane, relu, y + out + lane, places + out + lane);
        }
        in += window.side * block;
        out += block;
      }
    }
  }
}

template <int kSide, class D>
void backward_planes(D d, const MaxPoolShape& shape, int64_t begin, int64_t end, const uint8_t* places,
                     const float* dy, float* dx) {
  const int64_t block = shape.block, row_elements = shape.width * block;
  const Window window{shape.window, row_elements, block};
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t used_columns = int64_t{shape.out_width()} * window.side * block;
  const int64_t used_rows = int64_t{shape.out_height()} * window.side;
  int64_t in = begin * shape.out_plane_elements();
  for (int64_t plane = begin; plane < end; ++plane) {
    float* out_plane = dx + plane * shape.plane_elements();
    for (int row = 0; row < shape.out_height(); ++row) {
      float* const start = out_plane + row * window.side * row_elements;
      float* out = start;
      for (int column = 0; column < shape.out_width(); ++column) {
        for (int64_t lane = 0; lane < block; lane += lanes) {
          scatter<kSide>(d, window, places + in + lane, dy + in + lane, out + lane);
        }
        in += block;
        out += window.side * block;
      }
      for (int i = 0; i < window.side; ++i) {
        float* const out_row = start + i * row_elements;
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

void forward(const MaxPoolShape& shape, int64_t begin, int64_t end, const float* x, bool relu, float* y,
             uint8_t* places) {
  with_lanes(shape.block, [&](auto d) {
    if (shape.window == 2) {
      forward_planes<2>(d, shape, begin, end, x, relu, y, places);
    } else {
      forward_planes<0>(d, shape, begin, end, x, relu, y, places);
    }
  });
}

void backward(const MaxPoolShape& shape, int64_t begin, int64_t end, const uint8_t* places, const float* dy,
              float* dx) {
  with_lanes(shape.block, [&](auto d) {
    if (shape.window == 2) {
      backward_planes<2>(d, shape, begin, end, places, dy, dx);
    } else {
      backward_planes<0>(d, shape, begin, end, places, dy, dx);
    }
  });
}

}  // namespace annulus::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace annulus {

HWY_EXPORT(forward);
HWY_EXPORT(backward);

void max_pool_forward(const MaxPoolShape& shape, int64_t begin, int64_t end, const float* x, bool relu,
                      float* y, uint8_t* places) {
  HWY_DYNAMIC_DISPATCH(forward)(shape, begin, end, x, relu, y, places);
}

void max_pool_backward(const MaxPoolShape& shape, int64_t begin, int64_t end, const uint8_t* places,
                       const float* dy, float* dx) {
  HWY_DYNAMIC_DISPATCH(backward)(shape, begin, end, places, dy, dx);
}

}  // namespace annulus
#endif  // HWY_ONCE
