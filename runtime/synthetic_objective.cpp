#include "runtime/synthetic_objective.h"

#include <cmath>

#include "runtime/philox.h"

namespace annulus {
namespace {

constexpr int64_t kDrawsPerCall = 8;  // 16 bits each

// Draws 8 numbers from (0, 2), all of them exact in fp32.
void draw(uint64_t seed, PhiloxDomain domain, uint32_t stream, uint64_t index, float (&out)[kDrawsPerCall]) {
  const PhiloxWords words = philox(seed, domain, stream, index);
  for (int i = 0; i < kDrawsPerCall; ++i) {
    const uint32_t bits = words[i / 2] >> (16 * (i % 2)) & 0xffff;
    out[i] = static_cast<float>(2 * bits + 1) * (1.0f / 65536);
  }
}

}  // namespace

SyntheticObjective::SyntheticObjective(int64_t dim, int64_t elements, int64_t shards, uint64_t seed)
    : dim_(dim), shards_(shards), seed_(seed), optimum_(elements) {
  float numbers[kDrawsPerCall];
  for (int64_t i = 0; i < dim; ++i) {
    if (i % kDrawsPerCall == 0) {
      draw(seed, PhiloxDomain::kObjectiveOptimum, 0, i / kDrawsPerCall, numbers);
    }
    optimum_[i] = numbers[i % kDrawsPerCall] - 1;
  }
}

void SyntheticObjective::gradient(int64_t shard, uint32_t step, int64_t begin, int64_t count,
                                  const float* weights, float* gradient) const {
  const uint64_t first = (shard * static_cast<int64_t>(optimum_.size()) + begin) / kDrawsPerCall;
  const float share = 1.0f / static_cast<float>(shards_);
  float squares[kDrawsPerCall];
  for (int64_t i = 0; i < count; i += kDrawsPerCall) {
    draw(seed_, PhiloxDomain::kObjectiveData, step, first + i / kDrawsPerCall, squares);
    for (int64_t j = 0; j < kDrawsPerCall; ++j) {
      gradient[i + j] = share * squares[j] * (weights[i + j] - optimum_[begin + i + j]);
    }
  }
}

double SyntheticObjective::distance(const float* weights) const {
  double sum = 0;
  for (int64_t i = 0; i < dim_; ++i) {
    const double error = static_cast<double>(weights[i]) - optimum_[i];
    sum += error * error;
  }
  return std::sqrt(sum / static_cast<double>(dim_));
}

// For one coordinate with error e and moment m:  m' = momentum m + h e,  e' = e - rate m',  where h, the mean
// of S squares, is independent of e and m and has mean 1 and variance 1/(3 S). So the second moments of e and
// m follow a linear recursion.
double SyntheticObjective::expected_distance(const SgdStep& sgd, int64_t steps) const {
  const double rate = sgd.learning_rate, momentum = sgd.momentum;
  const double h2 = 1 + 1.0 / (3.0 * static_cast<double>(shards_));
  double ee = 1, em = 0, mm = 0;  // E[e e], E[e m], E[m m], from e = 1 on
  for (int64_t step = 0; step < steps; ++step) {
    mm = momentum * momentum * mm + 2 * momentum * em + h2 * ee;
    const double e_new_m = momentum * em + ee;
    em = e_new_m - rate * mm;
    ee = ee - 2 * rate * e_new_m + rate * rate * mm;
  }
  const std::vector<float> start(optimum_.size());
  return distance(start.data()) * std::sqrt(ee);
}

}  // namespace annulus
