#include "kernels/elementwise.h"

#include "kernels/stored_element.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/elementwise.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep

#include "kernels/elements-inl.h"

HWY_BEFORE_NAMESPACE();
namespace annulus::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

void mask_gradient(DataType type, int64_t n, const void* y, void* gradient) {
  with_element(type, [&]<class T>() {
    const T* const output = static_cast<const T*>(y);
    T* const masked = static_cast<T*>(gradient);
    for_each_vector(n, [=](auto d, int64_t i) {
      const auto open = hn::Gt(load(d, output + i), hn::Zero(d));
      store_exact(hn::IfThenElseZero(open, load(d, masked + i)), d, masked + i);
    });
  });
}

template <class T, bool kRelu>
void add_elements(int64_t n, const T* a, const T* b, T* sum) {
  for_each_vector(n, [=](auto d, int64_t i) {
    const auto v = hn::Add(load(d, a + i), load(d, b + i));
    store(kRelu ? relu(d, v) : v, d, sum + i);
  });
}

void add_any(DataType type, int64_t n, const void* a, const void* b, bool with_relu, void* sum) {
  with_element(type, [&]<class T>() {
    const auto run = with_relu ? &add_elements<T, true> : &add_elements<T, false>;
    run(n, static_cast<const T*>(a), static_cast<const T*>(b), static_cast<T*>(sum));
  });
}

}  // namespace annulus::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace annulus {

HWY_EXPORT(mask_gradient);
HWY_EXPORT(add_any);

void relu_backward(DataType type, int64_t n, const void* y, void* gradient) {
  HWY_DYNAMIC_DISPATCH(mask_gradient)(type, n, y, gradient);
}

void add(DataType type, int64_t n, const void* a, const void* b, bool relu, void* sum) {
  HWY_DYNAMIC_DISPATCH(add_any)(type, n, a, b, relu, sum);
}

void relu_backward_reference(DataType type, int64_t n, const void* y, void* gradient) {
  for (int64_t i = 0; i < n; ++i) {
    if (!(read_element(type, y, i) > 0)) write_element(type, 0, gradient, i);
  }
}

void add_reference(DataType type, int64_t n, const void* a, const void* b, bool relu, void* sum) {
  for (int64_t i = 0; i < n; ++i) {
    const float v = read_element(type, a, i) + read_element(type, b, i);
    write_element(type, relu && v < 0 ? 0.0F : v, sum, i);
  }
}

}  // namespace annulus
#endif  // HWY_ONCE
