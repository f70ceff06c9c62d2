// Top-k sparsification of a gradient with error feedback (Stich et al., "Sparsified SGD with Memory", NeurIPS
// 2018; Lin et al., "Deep Gradient Compression", ICLR 2018): of gradient + scale * residual, the k elements
// of largest magnitude are sent, and all others are the residual of the next step.
//
// Magnitudes are compared as the bits of the absolute value. So infinity is larger than all numbers, and NaN
// larger than infinity: what is not finite is sent first, where the others see it, and stays in a residual
// only where more than k sums are such. A sum that is NaN becomes the one NaN 0x7fc00000; so its bits do not
// depend on the instruction set either.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/store.h"

namespace annulus {

// How many of n elements are sent: ceil(ratio * n), at least 1 and at most n; 0 of 0. The ratio is meant as
// the decimal number it was written as: 0.1 of 10 is 1. Above 0, at most 1.
int64_t count_for(double ratio, int64_t n);

// Elements that are sent: places in ascending order, and what lies there.
struct SparseView {
  std::span<const uint32_t> indices;
  std::span<const float> values;
};

// Selects, in memory that later calls use again: 24 bytes for each element sent. One may serve tensors of any
// sizes, one at a time; no result depends on the calls before.
class TopK {
 public:
  // Of the n sums gradient[i] + scale * residual[i], product and sum each rounded to fp32, returns the k of
  // largest magnitude; of equal ones those of lowest index. new_residual[i] becomes +0 where i is sent and
  // the sum where it is not: each sum is found in one of the two with all its bits. 1 <= k <= n <= 2^32, or n
  // = k = 0. new_residual may be residual; otherwise no arrays overlap. No alignment is needed, but
  // kStreaming writes new_residual past the caches only where it is 64-byte aligned.
  //
  // What is returned is valid until the next call. The same bits from every instruction set. Time is linear
  // in n for any data; mostly that of one pass.
  SparseView select(int64_t k, int64_t n, const float* gradient, const float* residual, float* new_residual,
                    float scale = 1, Store store = Store::kCached);

 private:
  void collect(int64_t k, int64_t n, const float* gradient, const float* residual, float scale,
               float* new_residual, Store store, int32_t threshold);
  int32_t prune(int64_t k, float* new_residual);

  // Sums that may be among the k largest, in order of index. They are 0 in the new residual.
  std::vector<float> values_;
  std::vector<uint32_t> indices_;
  int64_t count_ = 0;
  std::vector<float> scratch_;
};

// out[i] = what is sent of element i, 0 where nothing is; n elements, all indices below n. `out` may be the
// gradient that was selected from.
void write_dense(const SparseView& sent, int64_t n, float* out);

struct SparseVector {
  std::vector<uint32_t> indices;
  std::vector<float> values;
};

// The same as TopK::select with plain loops and a sort, with the same bits.
SparseVector top_k_reference(int64_t k, int64_t n, const float* gradient, const float* residual,
                             float* new_residual, float scale = 1);

}  // namespace annulus
