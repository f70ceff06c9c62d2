#include "kernels/max_pool.h"

#include <algorithm>

#include "telemetry/check.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/max_pool.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep

#include "kernels/elements-inl.h"

#ifndef ANNULUS_KERNELS_MAX_POOL_ONCE
#define ANNULUS_KERNELS_MAX_POOL_ONCE
namespace annulus {

struct Range {
  int begin, end;
};

// Part of a window's rows (or columns) that lies inside the input, where output `position` has its window.
inline Range inside(const MaxPoolShape& shape, int position, int size) {
  const int start = position * shape.stride - shape.padding;
  return {std::max(0, -start), std::min(shape.window, size - start)};
}

// Outputs of a row (or column) whose windows lie inside the input as a whole.
inline Range whole_windows(const MaxPoolShape& shape, int size, int outputs) {
  const int begin = (shape.padding + shape.stride - 1) / shape.stride;
  const int room = size + shape.padding - shape.window;
  const int end = room < 0 ? 0 : std::min(outputs, room / shape.stride + 1);
  return {std::min(begin, outputs), std::max(std::min(begin, outputs), end)};
}

// Where the tensors are of one vector of channels of one window. `row`: elements from one row of x to the
// next; `column`: from one column to the next.
struct Window {
  int side;
  int64_t row, column;
  int64_t place(int i, int j) const { return i * row + j * column; }
};

}  // namespace annulus
#endif

HWY_BEFORE_NAMESPACE();
namespace annulus::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class D, class V, class Place, class T>
HWY_INLINE void put(D d, V best, Place place, bool relu, T* out, uint8_t* places) {
  const hn::RebindToSigned<D> di;
  if (relu) {
    const auto open = hn::RebindMask(di, hn::Gt(best, hn::Zero(d)));
    place = hn::IfThenElse(open, place, hn::Set(di, kNowhere));
  }
  store_exact(best, d, out);
  hn::StoreU(hn::DemoteTo(hn::Rebind<uint8_t, D>(), place), hn::Rebind<uint8_t, D>(), places);
}

// The maximum over part of a window; `in` is where the whole one begins. On a tie the earlier one wins.
template <class D, class T>
HWY_INLINE void pool_part(D d, const Window& window, Range rows, Range columns, const T* in, bool relu,
                          T* out, uint8_t* places) {
  const hn::RebindToSigned<D> di;
  auto best = load(d, in + window.place(rows.begin, columns.begin));
  auto place = hn::Set(di, rows.begin * window.side + columns.begin);
  for (int i = rows.begin; i < rows.end; ++i) {
    for (int j = columns.begin; j < columns.end; ++j) {
      const auto value = load(d, in + window.place(i, j));
      const auto better = hn::Gt(value, best);
      best = hn::IfThenElse(better, value, best);
      place = hn::IfThenElse(hn::RebindMask(di, better), hn::Set(di, i * window.side + j), place);
    }
  }
  put(d, best, place, relu, out, places);
}

// The same over all of a window. kSide is its side, or 0 where only `window` knows it.
template <int kSide, class D, class T>
HWY_INLINE void pool(D d, const Window& window, const T* in, bool relu, T* out, uint8_t* places) {
  if constexpr (kSide == 2) {
    const hn::RebindToSigned<D> di;
    const auto top_left = load(d, in), top_right = load(d, in + window.place(0, 1));
    const auto low_left = load(d, in + window.place(1, 0));
    const auto low_right = load(d, in + window.place(1, 1));
    const auto top = hn::Max(top_left, top_right), low = hn::Max(low_left, low_right);
    const auto right_of_top = hn::RebindMask(di, hn::Gt(top_right, top_left));
    const auto right_of_low = hn::RebindMask(di, hn::Gt(low_right, low_left));
    const auto place = hn::IfThenElse(hn::RebindMask(di, hn::Gt(low, top)),
                                      hn::IfThenElse(right_of_low, hn::Set(di, 3), hn::Set(di, 2)),
                                      hn::IfThenElseZero(right_of_top, hn::Set(di, 1)));
    put(d, hn::Max(top, low), place, relu, out, places);
  } else {
    const int side = kSide != 0 ? kSide : window.side;
    pool_part(d, {side, window.row, window.column}, {0, side}, {0, side}, in, relu, out, places);
  }
}

template <int kSide, class D, class T>
void forward_planes(D d, const MaxPoolShape& shape, int64_t begin, int64_t end, const T* x, bool relu, T* y,
                    uint8_t* places) {
  const int64_t block = shape.block, row_elements = shape.width * block;
  const Window window{shape.window, row_elements, block};
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const Range whole_rows = whole_windows(shape, shape.height, shape.out_height());
  const Range whole_columns = whole_windows(shape, shape.width, shape.out_width());
  int64_t out = begin * shape.out_plane_elements();
  for (int64_t plane = begin; plane < end; ++plane) {
    for (int row = 0; row < shape.out_height(); ++row) {
      const T* in = x + plane * shape.plane_elements() +
                    (int64_t{row} * shape.stride - shape.padding) * row_elements - shape.padding * block;
      const auto next = [&] {
        in += shape.stride * block;
        out += block;
      };
      const auto edge = [&](int column) {
        for (int64_t lane = 0; lane < block; lane += lanes) {
          pool_part(d, window, inside(shape, row, shape.height), inside(shape, column, shape.width),
                    in + lane, relu, y + out + lane, places + out + lane);
        }
        next();
      };
      const bool whole = whole_rows.begin <= row && row < whole_rows.end;
      const Range middle = whole ? whole_columns : Range{shape.out_width(), shape.out_width()};
      for (int column = 0; column < middle.begin; ++column) edge(column);
      for (int column = middle.begin; column < middle.end; ++column) {
        for (int64_t lane = 0; lane < block; lane += lanes) {
          pool<kSide>(d, window, in + lane, relu, y + out + lane, places + out + lane);
        }
        next();
      }
      for (int column = middle.end; column < shape.out_width(); ++column) edge(column);
    }
  }
}

template <int kSide, class D, class T>
HWY_INLINE void scatter(D d, const Window& window, const uint8_t* places, const T* gradient, T* out) {
  const hn::RebindToSigned<D> di;
  const hn::Rebind<uint8_t, D> du8;
  const auto flow = load(d, gradient);
  const auto place = hn::PromoteTo(di, hn::LoadU(du8, places));
  const int side = kSide != 0 ? kSide : window.side;
  for (int i = 0; i < side; ++i) {
    for (int j = 0; j < side; ++j) {
      const auto here = hn::RebindMask(d, hn::Eq(place, hn::Set(di, i * side + j)));
      store_exact(hn::IfThenElseZero(here, flow), d, out + window.place(i, j));
    }
  }
}

// Windows side by side: each hands its gradient to its own elements.
template <int kSide, class D, class T>
void scatter_planes(D d, const MaxPoolShape& shape, int64_t begin, int64_t end, const uint8_t* places,
                    const T* dy, T* dx) {
  const int64_t block = shape.block, row_elements = shape.width * block;
  const Window window{shape.window, row_elements, block};
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t used_columns = int64_t{shape.out_width()} * window.side * block;
  const int64_t used_rows = int64_t{shape.out_height()} * window.side;
  int64_t in = begin * shape.out_plane_elements();
  for (int64_t plane = begin; plane < end; ++plane) {
    T* const out_plane = dx + plane * shape.plane_elements();
    for (int row = 0; row < shape.out_height(); ++row) {
      T* const start = out_plane + row * window.side * row_elements;
      T* out = start;
      for (int column = 0; column < shape.out_width(); ++column) {
        for (int64_t lane = 0; lane < block; lane += lanes) {
          scatter<kSide>(d, window, places + in + lane, dy + in + lane, out + lane);
        }
        in += block;
        out += window.side * block;
      }
      for (int i = 0; i < window.side; ++i) {
        T* const out_row = start + i * row_elements;
        std::fill(out_row + used_columns, out_row + row_elements, T{0});
      }
    }
    std::fill(out_plane + used_rows * row_elements, out_plane + shape.plane_elements(), T{0});
  }
}

// Windows that overlap or leave elements out: each element collects from the windows that it lies in, so that
// it is written once. kSide and kStride are 0 where only the shape knows them.
template <int kSide, int kStride, class D, class T>
void gather_planes(D d, const MaxPoolShape& shape, int64_t begin, int64_t end, const uint8_t* places,
                   const T* dy, T* dx) {
  const hn::RebindToSigned<D> di;
  const hn::Rebind<uint8_t, D> du8;
  const int side = kSide != 0 ? kSide : shape.window, stride = kStride != 0 ? kStride : shape.stride;
  const int64_t block = shape.block;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int out_height = shape.out_height(), out_width = shape.out_width();
  // Outputs whose windows reach this row (or column).
  const auto reaching = [&](int position, int outputs) {
    const int last = (position + shape.padding) / stride, too_far = position + shape.padding - side;
    return Range{too_far < 0 ? 0 : too_far / stride + 1, std::min(outputs, last + 1)};
  };
  T* out = dx + begin * shape.plane_elements();
  for (int64_t plane = begin; plane < end; ++plane) {
    const int64_t plane_in = plane * shape.out_plane_elements();
    for (int row = 0; row < shape.height; ++row) {
      const Range rows = reaching(row, out_height);
      for (int column = 0; column < shape.width; ++column, out += block) {
        const Range columns = reaching(column, out_width);
        for (int64_t lane = 0; lane < block; lane += lanes) {
          auto sum = hn::Zero(d);
          for (int i = rows.begin; i < rows.end; ++i) {
            const int place_row = (row + shape.padding - i * stride) * side;
            for (int j = columns.begin; j < columns.end; ++j) {
              const int64_t in = plane_in + (int64_t{i} * out_width + j) * block + lane;
              const auto here = hn::Set(di, place_row + column + shape.padding - j * stride);
              const auto place = hn::PromoteTo(di, hn::LoadU(du8, places + in));
              const auto flows = hn::RebindMask(d, hn::Eq(place, here));
              sum = hn::Add(sum, hn::IfThenElseZero(flows, load(d, dy + in)));
            }
          }
          store(sum, d, out + lane);
        }
      }
    }
  }
}

template <class D, class T>
auto pick_forward(const MaxPoolShape& shape) {
  return shape.window == 2   ? &forward_planes<2, D, T>
         : shape.window == 3 ? &forward_planes<3, D, T>
                             : &forward_planes<0, D, T>;
}

template <class D, class T>
auto pick_backward(const MaxPoolShape& shape) {
  if (shape.is_tiled()) return shape.window == 2 ? &scatter_planes<2, D, T> : &scatter_planes<0, D, T>;
  return shape.window == 3 && shape.stride == 2 ? &gather_planes<3, 2, D, T> : &gather_planes<0, 0, D, T>;
}

void forward(const MaxPoolShape& shape, int64_t begin, int64_t end, const void* x, bool relu, void* y,
             uint8_t* places) {
  with_element(shape.type, [&]<class T>() {
    with_lanes(shape.block, [&](auto d) {
      const auto run = pick_forward<decltype(d), T>(shape);
      run(d, shape, begin, end, static_cast<const T*>(x), relu, static_cast<T*>(y), places);
    });
  });
}

void backward(const MaxPoolShape& shape, int64_t begin, int64_t end, const uint8_t* places, const void* dy,
              void* dx) {
  with_element(shape.type, [&]<class T>() {
    with_lanes(shape.block, [&](auto d) {
      const auto run = pick_backward<decltype(d), T>(shape);
      run(d, shape, begin, end, places, static_cast<const T*>(dy), static_cast<T*>(dx));
    });
  });
}

}  // namespace annulus::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace annulus {

HWY_EXPORT(forward);
HWY_EXPORT(backward);

namespace {

void check(const MaxPoolShape& shape) {
  CHECK(1 <= shape.window && shape.window <= kLargestWindow && shape.stride >= 1, "window {}, stride {}",
        shape.window, shape.stride);
  CHECK(0 <= shape.padding && 2 * shape.padding <= shape.window, "padding {} of windows of {}", shape.padding,
        shape.window);
  CHECK(std::min(shape.height, shape.width) + 2 * shape.padding >= shape.window, "windows of {} in {}x{}",
        shape.window, shape.height, shape.width);
}

}  // namespace

void max_pool_forward(const MaxPoolShape& shape, int64_t begin, int64_t end, const void* x, bool relu,
                      void* y, uint8_t* places) {
  check(shape);
  HWY_DYNAMIC_DISPATCH(forward)(shape, begin, end, x, relu, y, places);
}

void max_pool_backward(const MaxPoolShape& shape, int64_t begin, int64_t end, const uint8_t* places,
                       const void* dy, void* dx) {
  check(shape);
  HWY_DYNAMIC_DISPATCH(backward)(shape, begin, end, places, dy, dx);
}

}  // namespace annulus
#endif  // HWY_ONCE
