// Sums of streams: gradients of several ranks, messages of a collective.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/data_type.h"
#include "kernels/store.h"

namespace annulus {

enum class ReduceOp : uint8_t { kSum, kMax };

// Operands of one combine(): perfect binary trees of this many streams are added up in registers.
inline constexpr int kMaxStreams = 8;

// out[i] = the sum (or maximum) of src[0][i] .. src[k-1][i] along a perfect binary tree, k = src.size() = 1,
// 2, 4 or 8: ((s0 + s1) + (s2 + s3)) + ... Also written to `also` unless that is null. Any n; no alignment is
// needed, but kStreaming stores `out` and `also` non-temporally only where they are 64-byte aligned. `out`
// and `also` may be one of the sources.
void combine(ReduceOp op, int64_t n, std::span<const float* const> src, float* out, float* also = nullptr,
             Store store = Store::kCached);

// The same as a plain loop, with the same bits.
void combine_reference(ReduceOp op, int64_t n, std::span<const float* const> src, float* out);

// sum[i] = a[i] + b[i]; sum may be a or b.
inline void add(int64_t n, const float* a, const float* b, float* sum) {
  const float* const src[] = {a, b};
  combine(ReduceOp::kSum, n, src, sum);
}

// Copies `bytes` bytes; the ranges do not overlap. kStreaming needs a target on a line, as combine() does.
void copy(int64_t bytes, const void* from, void* to, Store store = Store::kCached);

// x[i] *= factor
void scale(int64_t n, float factor, float* x);

// Conversion between fp32 and 16-bit types. Narrowing rounds to nearest even; what is too large becomes
// infinity, NaN stays NaN. The same bits from every instruction set.
void widen(DataType from, int64_t n, const void* src, float* out);
void narrow(DataType to, int64_t n, const float* src, void* out);
void widen_reference(DataType from, int64_t n, const void* src, float* out);
void narrow_reference(DataType to, int64_t n, const float* src, void* out);

}  // namespace annulus
