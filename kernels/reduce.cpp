#include "kernels/reduce.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "telemetry/check.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/reduce.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep

#include "kernels/elements-inl.h"

#ifndef ANNULUS_KERNELS_REDUCE_ONCE
#define ANNULUS_KERNELS_REDUCE_ONCE
namespace annulus {

// One element along the tree; also the tails of the vector loops.
template <ReduceOp op>
float combine_one(std::span<const float* const> src, int64_t i) {
  if (src.size() == 1) return src[0][i];
  const auto half = src.size() / 2;
  const float a = combine_one<op>(src.first(half), i), b = combine_one<op>(src.subspan(half), i);
  if constexpr (op == ReduceOp::kMax) return a > b ? a : b;
  return a + b;
}

}  // namespace annulus
#endif

HWY_BEFORE_NAMESPACE();
namespace annulus::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::CappedTag<float, 16>;

template <ReduceOp op, int k>
HWY_INLINE hn::Vec<F32> tree(F32 d, const float* const* src, int64_t i) {
  if constexpr (k == 1) {
    return hn::LoadU(d, src[0] + i);
  } else {
    const auto a = tree<op, k / 2>(d, src, i);
    const auto b = tree<op, k / 2>(d, src + k / 2, i);
    // As the plain loop: b where neither is larger, so NaN and signed zeros come out alike.
    if constexpr (op == ReduceOp::kMax) return hn::IfThenElse(hn::Gt(a, b), a, b);
    return hn::Add(a, b);
  }
}

template <ReduceOp op, int k, bool two, Store kStore>
void run(int64_t n, std::span<const float* const> sources, float* out, float* also) {
  const F32 d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const float* src[k];
  std::copy(sources.begin(), sources.end(), src);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto v = tree<op, k>(d, src, i);
    put<kStore>(v, d, out + i);
    if constexpr (two) put<kStore>(v, d, also + i);
  }
  for (; i < n; ++i) {
    const float x = combine_one<op>(sources, i);
    out[i] = x;
    if constexpr (two) also[i] = x;
  }
}

template <ReduceOp op, int k>
void pick_store(int64_t n, std::span<const float* const> src, float* out, float* also, Store store) {
  const auto aligned = [](const float* p) { return reinterpret_cast<uintptr_t>(p) % 64 == 0; };
  const bool streaming = store == Store::kStreaming && aligned(out) && (also == nullptr || aligned(also));
  constexpr Store kCached = Store::kCached, kStreaming = Store::kStreaming;
  const auto go = also != nullptr
                      ? (streaming ? &run<op, k, true, kStreaming> : &run<op, k, true, kCached>)
                      : (streaming ? &run<op, k, false, kStreaming> : &run<op, k, false, kCached>);
  go(n, src, out, also);
}

template <ReduceOp op>
void pick_streams(int64_t n, std::span<const float* const> src, float* out, float* also, Store store) {
  switch (src.size()) {
    case 1:
      return pick_store<op, 1>(n, src, out, also, store);
    case 2:
      return pick_store<op, 2>(n, src, out, also, store);
    case 4:
      return pick_store<op, 4>(n, src, out, also, store);
    case 8:
      return pick_store<op, 8>(n, src, out, also, store);
    default:
      CHECK(false, "{} streams", src.size());
  }
}

void combine_any(ReduceOp op, int64_t n, std::span<const float* const> src, float* out, float* also,
                 Store store) {
  op == ReduceOp::kMax ? pick_streams<ReduceOp::kMax>(n, src, out, also, store)
                       : pick_streams<ReduceOp::kSum>(n, src, out, also, store);
}

// Whole vectors past the caches; returns how many bytes were done.
int64_t stream_vectors(int64_t bytes, const uint8_t* from, uint8_t* to) {
  const hn::CappedTag<uint8_t, 64> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= bytes; i += lanes) hn::Stream(hn::LoadU(d, from + i), d, to + i);
  return i;
}

void scale_vectors(int64_t n, float factor, float* x) {
  const F32 d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(hn::Mul(hn::LoadU(d, x + i), hn::Set(d, factor)), d, x + i);
  for (; i < n; ++i) x[i] *= factor;
}

// Half precision is converted here only where the processor does so, infinities, NaN and ties included.
constexpr bool kConvertsHalf = HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL || HWY_TARGET == HWY_AVX2;

// Whole vectors only; returns how many elements were done.
int64_t widen_vectors(DataType from, int64_t n, const uint16_t* src, float* out) {
  const F32 d;
  const hn::Rebind<uint16_t, F32> half;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  if (from == DataType::kF16 && !kConvertsHalf) return 0;
  for (; i + lanes <= n; i += lanes) {
    if (from == DataType::kBf16) {
      hn::StoreU(load(d, src + i), d, out + i);
    } else {
      const auto raw = hn::LoadU(half, src + i);
      hn::StoreU(hn::PromoteTo(d, hn::BitCast(hn::Rebind<hwy::float16_t, F32>(), raw)), d, out + i);
    }
  }
  return i;
}

int64_t narrow_vectors(DataType to, int64_t n, const float* src, uint16_t* out) {
  const F32 d;
  const hn::Rebind<uint16_t, F32> half;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  if (to == DataType::kF16 && !kConvertsHalf) return 0;
  for (; i + lanes <= n; i += lanes) {
    const auto v = hn::LoadU(d, src + i);
    if (to == DataType::kBf16) {
      store(v, d, out + i);
    } else {
      hn::StoreU(hn::BitCast(half, hn::DemoteTo(hn::Rebind<hwy::float16_t, F32>(), v)), half, out + i);
    }
  }
  return i;
}

}  // namespace annulus::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace annulus {

HWY_EXPORT(combine_any);
HWY_EXPORT(stream_vectors);
HWY_EXPORT(scale_vectors);
HWY_EXPORT(widen_vectors);
HWY_EXPORT(narrow_vectors);

namespace {

float half_to_float(uint16_t h) {
  const uint32_t sign = uint32_t{h} >> 15 << 31, exponent = h >> 10 & 31, fraction = h & 1023;
  if (exponent == 31) {  // the processor's conversion makes a NaN quiet
    return std::bit_cast<float>(sign | 0x7f800000 | fraction << 13 | (fraction != 0 ? 0x400000u : 0u));
  }
  if (exponent == 0) return std::copysign(std::ldexp(float(fraction), -24), sign != 0 ? -1.0f : 1.0f);
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}

uint16_t float_to_half(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint16_t sign = bits >> 31 << 15;
  if (std::isnan(x)) return sign | 0x7e00 | (bits >> 13 & 0x3ff);
  const float magnitude = std::fabs(x);
  if (magnitude >= 65520.0f) return sign | 0x7c00;
  if (magnitude < 0x1p-14f) return sign | static_cast<uint16_t>(std::nearbyint(std::ldexp(magnitude, 24)));
  const uint32_t m = bits & 0x7fffffff;
  return sign | static_cast<uint16_t>((m - (112u << 23) + 0xfff + (m >> 13 & 1)) >> 13);
}

uint16_t float_to_bfloat(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  if (std::isnan(x)) return static_cast<uint16_t>(u >> 16 | 0x40);
  return static_cast<uint16_t>((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

}  // namespace

void combine(ReduceOp op, int64_t n, std::span<const float* const> src, float* out, float* also,
             Store store) {
  HWY_DYNAMIC_DISPATCH(combine_any)(op, n, src, out, also, store);
}

void combine_reference(ReduceOp op, int64_t n, std::span<const float* const> src, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    out[i] = op == ReduceOp::kMax ? combine_one<ReduceOp::kMax>(src, i) : combine_one<ReduceOp::kSum>(src, i);
  }
}

void copy(int64_t bytes, const void* from, void* to, Store store) {
  const uint8_t* const source = static_cast<const uint8_t*>(from);
  uint8_t* const target = static_cast<uint8_t*>(to);
  const bool streams = store == Store::kStreaming && reinterpret_cast<uintptr_t>(to) % 64 == 0;
  const int64_t done = streams ? HWY_DYNAMIC_DISPATCH(stream_vectors)(bytes, source, target) : 0;
  std::memcpy(target + done, source + done, bytes - done);
}

void scale(int64_t n, float factor, float* x) { HWY_DYNAMIC_DISPATCH(scale_vectors)(n, factor, x); }

void widen(DataType from, int64_t n, const void* src, float* out) {
  if (from == DataType::kF32) return copy(n * static_cast<int64_t>(sizeof(float)), src, out);

  const uint16_t* in = static_cast<const uint16_t*>(src);
  const int64_t done = HWY_DYNAMIC_DISPATCH(widen_vectors)(from, n, in, out);
  widen_reference(from, n - done, in + done, out + done);
}

void narrow(DataType to, int64_t n, const float* src, void* out) {
  if (to == DataType::kF32) return copy(n * static_cast<int64_t>(sizeof(float)), src, out);

  uint16_t* half = static_cast<uint16_t*>(out);
  const int64_t done = HWY_DYNAMIC_DISPATCH(narrow_vectors)(to, n, src, half);
  narrow_reference(to, n - done, src + done, half + done);
}

void widen_reference(DataType from, int64_t n, const void* src, float* out) {
  const uint16_t* half = static_cast<const uint16_t*>(src);
  for (int64_t i = 0; i < n; ++i) {
    out[i] = from == DataType::kBf16 ? std::bit_cast<float>(uint32_t{half[i]} << 16) : half_to_float(half[i]);
  }
}

void narrow_reference(DataType to, int64_t n, const float* src, void* out) {
  uint16_t* half = static_cast<uint16_t*>(out);
  for (int64_t i = 0; i < n; ++i) {
    half[i] = to == DataType::kBf16 ? float_to_bfloat(src[i]) : float_to_half(src[i]);
  }
}

}  // namespace annulus
#endif  // HWY_ONCE
