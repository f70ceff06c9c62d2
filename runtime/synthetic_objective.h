// SyntheticObjective: least squares whose optimum and whose way there are known, for checking an exchange
// without data or a network.
//
//   f_k(w) = 1/S sum over shards s of 1/2 ||A_ks (w - w*)||^2      in step k
//
// A_ks is diagonal, and the squares of its entries are drawn from (0, 2) independently for every step, shard
// and coordinate, with mean 1. All of it is a pure function of (seed, shard, step, coordinate). The optimum
// is w* in every step, so w converges to it although every step sees other data.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/optimizer.h"

namespace annulus {

class SyntheticObjective {
 public:
  // `elements`: of an array of parameters; those from `dim` on are padding, with gradient 0.
  SyntheticObjective(int64_t dim, int64_t elements, int64_t shards, uint64_t seed);

  // gradient[i] = that of coordinate begin + i of the shard's part of f_step at weights[i]; begin and count
  // are multiples of 8.
  void gradient(int64_t shard, uint32_t step, int64_t begin, int64_t count, const float* weights,
                float* gradient) const;

  // Root of the mean squared distance to the optimum over the coordinates.
  double distance(const float* weights) const;
  // What it is expected to be after `steps` steps of momentum descent from 0: exact for the mean over draws,
  // with exact arithmetic.
  double expected_distance(const SgdStep& sgd, int64_t steps) const;

  int64_t dim() const { return dim_; }

 private:
  int64_t dim_, shards_;
  uint64_t seed_;
  std::vector<float> optimum_;  // `elements`; 0 in the padding
};

}  // namespace annulus
