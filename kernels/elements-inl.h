// Vectors over stored elements, for the bodies of kernels: fp32 or bf16 in memory, always fp32 in registers.
// Compiled once per instruction set, hence Highway's form of an include guard; include it after
// hwy/foreach_target.h.
//
// Elements are walked in rows of up to 16 lanes. A lane belongs to one channel (or, where channels do not lie
// side by side, to every 16th pixel), and no lane's arithmetic looks at another's; so bits do not depend on
// how many lanes a register has.
#if defined(ANNULUS_KERNELS_ELEMENTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ANNULUS_KERNELS_ELEMENTS_INL_H_
#undef ANNULUS_KERNELS_ELEMENTS_INL_H_
#else
#define ANNULUS_KERNELS_ELEMENTS_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "kernels/data_type.h"
#include "kernels/rows.h"
#include "kernels/store.h"
#include "telemetry/check.h"

HWY_BEFORE_NAMESPACE();
namespace annulus::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// ---- one vector; the element type is float or Bf16

template <class D>
HWY_INLINE hn::Vec<D> load(D d, const float* from) {
  return hn::LoadU(d, from);
}

template <class D>
HWY_INLINE hn::Vec<D> load(D d, const Bf16* from) {
  const hn::Rebind<uint32_t, D> bits;
  const auto raw = hn::LoadU(hn::Rebind<uint16_t, D>(), from);
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(bits, raw)));
}

// The bits of v with its upper half rounded to nearest even; NaN stays NaN. The lower half is of no meaning.
template <class D>
HWY_INLINE hn::Vec<hn::Rebind<uint32_t, D>> round_upper_half(D /*d*/, hn::Vec<D> v) {
  const hn::Rebind<uint32_t, D> bits;
  const auto u = hn::BitCast(bits, v);
  const auto odd = hn::And(hn::ShiftRight<16>(u), hn::Set(bits, 1));
  const auto nearest = hn::Add(hn::Add(u, hn::Set(bits, 0x7fff)), odd);
  const auto quiet = hn::Or(u, hn::Set(bits, 0x400000));
  return hn::IfThenElse(hn::RebindMask(bits, hn::IsNaN(v)), quiet, nearest);
}

template <class D>
HWY_INLINE void store_upper_half(hn::Vec<hn::Rebind<uint32_t, D>> bits, D /*d*/, Bf16* to) {
  const hn::Rebind<uint16_t, D> half;
  hn::StoreU(hn::TruncateTo(half, hn::ShiftRight<16>(bits)), half, to);
}

// What is left of v when it is stored as a T.
template <class T, class D>
HWY_INLINE hn::Vec<D> rounded(D d, hn::Vec<D> v) {
  if constexpr (std::is_same_v<T, float>) return v;

  const hn::Rebind<uint32_t, D> bits;
  return hn::BitCast(d, hn::And(round_upper_half(d, v), hn::Set(bits, 0xffff0000)));
}

template <class D>
HWY_INLINE void store(hn::Vec<D> v, D d, float* to) {
  hn::StoreU(v, d, to);
}

template <class D>
HWY_INLINE void store(hn::Vec<D> v, D d, Bf16* to) {
  store_upper_half(round_upper_half(d, v), d, to);
}

// The same for what the type can represent, such as the result of rounded().
template <class D>
HWY_INLINE void store_exact(hn::Vec<D> v, D d, float* to) {
  hn::StoreU(v, d, to);
}

template <class D>
HWY_INLINE void store_exact(hn::Vec<D> v, D d, Bf16* to) {
  store_upper_half(hn::BitCast(hn::Rebind<uint32_t, D>(), v), d, to);
}

// Streaming needs a place at a multiple of the vector's size.
template <Store kStore, class D>
HWY_INLINE void put(hn::Vec<D> v, D d, float* to) {
  if constexpr (kStore == Store::kStreaming) {
    hn::Stream(v, d, to);
  } else {
    hn::StoreU(v, d, to);
  }
}

// max(v, 0), where NaN stays NaN.
template <class D>
HWY_INLINE hn::Vec<D> relu(D d, hn::Vec<D> v) {
  return hn::IfThenZeroElse(hn::Lt(v, hn::Zero(d)), v);
}

// ---- many vectors

// Calls run with the widest vector whose lanes divide `lanes`.
template <class Run>
HWY_INLINE void with_lanes(int64_t lanes, const Run& run) {
  if (lanes % hn::Lanes(hn::CappedTag<float, 16>()) == 0) return run(hn::CappedTag<float, 16>());
  if (lanes % hn::Lanes(hn::CappedTag<float, 8>()) == 0) return run(hn::CappedTag<float, 8>());
  if (lanes % hn::Lanes(hn::CappedTag<float, 4>()) == 0) return run(hn::CappedTag<float, 4>());
  run(hn::CappedTag<float, 1>());
}

// Calls body(d, i) for n neighbouring elements: whole vectors first, the rest one by one.
template <class Body>
HWY_INLINE void for_each_vector(int64_t n, const Body& body) {
  const hn::CappedTag<float, 16> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) body(d, i);
  for (; i < n; ++i) body(hn::CappedTag<float, 1>(), i);
}

// body_for(d, lane) returns the body for the lanes that begin there, with its constants in registers; the
// body is called with each vector's place.
template <class BodyFor>
HWY_INLINE void for_each_vector(const Rows& rows, const BodyFor& body_for) {
  with_lanes(rows.lanes, [&](auto d) {
    for (int lane = 0; lane < rows.lanes; lane += static_cast<int>(hn::Lanes(d))) {
      const auto body = body_for(d, lane);
      int64_t place = rows.start + lane;
      for (int64_t row = 0; row < rows.count; ++row, place += rows.stride) body(place);
    }
  });
}

// Adds two sums over the rows to `sums`, lane by lane. term_for(d, lane) returns a function that adds one
// vector's terms: term(place, first, second).
//
// Four chains of additions each, so that they do not wait for each other.
template <class TermFor>
HWY_INLINE void add_rows(const Rows& rows, Sums& sums, const TermFor& term_for) {
  alignas(64) float first[kRowLanes] = {}, second[kRowLanes] = {};
  with_lanes(rows.lanes, [&](auto d) {
    for (int lane = 0; lane < rows.lanes; lane += static_cast<int>(hn::Lanes(d))) {
      const auto term = term_for(d, lane);
      auto a0 = hn::Zero(d), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
      int64_t place = rows.start + lane, row = 0;
      for (; row + 4 <= rows.count; row += 4, place += 4 * rows.stride) {
        term(place, a0, b0);
        term(place + rows.stride, a1, b1);
        term(place + 2 * rows.stride, a2, b2);
        term(place + 3 * rows.stride, a3, b3);
      }
      for (; row < rows.count; ++row, place += rows.stride) term(place, a0, b0);
      hn::StoreU(hn::Add(hn::Add(a0, a1), hn::Add(a2, a3)), d, first + lane);
      hn::StoreU(hn::Add(hn::Add(b0, b1), hn::Add(b2, b3)), d, second + lane);
    }
  });
  // All lanes, also where there are fewer: a loop of known length becomes vectors.
  for (int lane = 0; lane < kRowLanes; ++lane) {
    sums.first[lane] += double{first[lane]};
    sums.second[lane] += double{second[lane]};
  }
}

// Calls run.operator()<T>() with the C++ type of stored elements.
template <class Run>
void with_element(DataType type, const Run& run) {
  CHECK(type != DataType::kF16, "no kernel for half precision");
  type == DataType::kF32 ? run.template operator()<float>() : run.template operator()<Bf16>();
}

}  // namespace annulus::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // ANNULUS_KERNELS_ELEMENTS_INL_H_
