#include "kernels/average_pool.h"

#include "kernels/rows.h"
#include "kernels/stored_element.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/average_pool.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep

#include "kernels/elements-inl.h"

HWY_BEFORE_NAMESPACE();
namespace annulus::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// The mean over `in`, a plane's pixels, of the channels [lane, lane + 16) of its block.
template <class T>
void average(const AveragePoolShape& shape, int lane, const T* in, T* out) {
  Sums sums;
  for_each_stretch(shape.pixels, shape.block, lane, [&](const Rows& rows) {
    add_rows(rows, sums, [=](auto d, int /*lane*/) {
      return [=](int64_t place, auto& sum, auto& /*second*/) { sum = hn::Add(sum, load(d, in + place)); };
    });
  });
  const bool along = shape.block == 1;
  for (int k = 1; along && k < kRowLanes; ++k) sums.first[0] += sums.first[k];

  float means[kRowLanes];
  const int lanes = along ? 1 : std::min(kRowLanes, shape.block - lane);
  for (int k = 0; k < lanes; ++k) {
    means[k] = static_cast<float>(sums.first[k] / static_cast<double>(shape.pixels));
  }
  for_each_vector(lanes, [&](auto d, int64_t k) { store(hn::LoadU(d, means + k), d, out + lane + k); });
}

// One value for each lane of the block, for every pixel of the plane.
template <class T>
void spread(const AveragePoolShape& shape, const T* dy, T* dx) {
  const auto pixels = static_cast<float>(shape.pixels);
  for (int lane = 0; lane < shape.block; lane += kRowLanes) {
    alignas(64) float share[kRowLanes];
    const int lanes = std::min(kRowLanes, shape.block - lane);
    for_each_vector(lanes, [&](auto d, int64_t k) {
      hn::StoreU(hn::Div(load(d, dy + lane + k), hn::Set(d, pixels)), d, share + k);
    });
    if (shape.block == 1) std::fill_n(share, kRowLanes, share[0]);
    for_each_stretch(shape.pixels, shape.block, lane, [&](const Rows& rows) {
      for_each_vector(rows, [&](auto d, int first) {
        return [d, dx, v = rounded<T>(d, hn::LoadU(d, share + first))](int64_t place) {
          store_exact(v, d, dx + place);
        };
      });
    });
  }
}

void forward_planes(const AveragePoolShape& shape, int64_t begin, int64_t end, const void* x, void* y) {
  with_element(shape.type, [&]<class T>() {
    for (int64_t plane = begin; plane < end; ++plane) {
      const T* const in = static_cast<const T*>(x) + plane * shape.pixels * shape.block;
      T* const out = static_cast<T*>(y) + plane * shape.block;
      for (int lane = 0; lane < shape.block; lane += kRowLanes) average(shape, lane, in, out);
    }
  });
}

void backward_planes(const AveragePoolShape& shape, int64_t begin, int64_t end, const void* dy, void* dx) {
  with_element(shape.type, [&]<class T>() {
    for (int64_t plane = begin; plane < end; ++plane) {
      spread(shape, static_cast<const T*>(dy) + plane * shape.block,
             static_cast<T*>(dx) + plane * shape.pixels * shape.block);
    }
  });
}

}  // namespace annulus::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace annulus {

HWY_EXPORT(forward_planes);
HWY_EXPORT(backward_planes);

void average_pool_forward(const AveragePoolShape& shape, int64_t begin, int64_t end, const void* x, void* y) {
  HWY_DYNAMIC_DISPATCH(forward_planes)(shape, begin, end, x, y);
}

void average_pool_backward(const AveragePoolShape& shape, int64_t begin, int64_t end, const void* dy,
                           void* dx) {
  HWY_DYNAMIC_DISPATCH(backward_planes)(shape, begin, end, dy, dx);
}

void average_pool_forward_reference(const AveragePoolShape& shape, const void* x, void* y) {
  for (int64_t plane = 0; plane < shape.planes; ++plane) {
    for (int lane = 0; lane < shape.block; ++lane) {
      double sum = 0;
      for (int64_t pixel = 0; pixel < shape.pixels; ++pixel) {
        sum += double{read_element(shape.type, x, (plane * shape.pixels + pixel) * shape.block + lane)};
      }
      const auto mean = static_cast<float>(sum / static_cast<double>(shape.pixels));
      write_element(shape.type, mean, y, plane * shape.block + lane);
    }
  }
}

void average_pool_backward_reference(const AveragePoolShape& shape, const void* dy, void* dx) {
  const int64_t plane_elements = shape.pixels * shape.block;
  for (int64_t i = 0; i < shape.planes * plane_elements; ++i) {
    const float flow = read_element(shape.type, dy, i / plane_elements * shape.block + i % shape.block);
    write_element(shape.type, flow / static_cast<float>(shape.pixels), dx, i);
  }
}

}  // namespace annulus
#endif  // HWY_ONCE
