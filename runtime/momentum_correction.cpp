#include "runtime/momentum_correction.h"

#include <algorithm>

#include "runtime/optimizer_step.h"
#include "telemetry/check.h"

namespace annulus {

MomentumCorrection::MomentumCorrection(const TrainConfig& config, const NetworkPlan& network,
                                       const BucketPlan& buckets) {
  if (!corrects_momentum(config)) return;
  step_ = sgd_step(config, 0);
  for (int i = 0; i < std::ssize(network.parameters); ++i) {
    const ParameterPlan& parameter = network.parameters[i];
    if (!has_residual(parameter.role)) continue;
    // The update takes the space between two parameters as well, where all is zero.
    const int64_t offset = buckets.offsets[i], elements = parameter.layout.padded_elements();
    const int64_t blocks = (elements + kParameterAlignment - 1) / kParameterAlignment;
    corrected_.push_back({offset, offset + blocks * kParameterAlignment});
  }
  std::sort(corrected_.begin(), corrected_.end(),
            [](const ShardRange& a, const ShardRange& b) { return a.begin < b.begin; });
}

void MomentumCorrection::apply(int64_t begin, int64_t count, float* gradient, const float* from,
                               float* to) const {
  if (!step_) return;
  CHECK(from != nullptr && to != nullptr);
  velocity_update(*step_, count, gradient + begin, from + begin, to + begin);
}

MomentumCorrection::Run MomentumCorrection::first_run(int64_t begin, int64_t end) const {
  const auto next =
      std::upper_bound(corrected_.begin(), corrected_.end(), begin,
                       [](int64_t element, const ShardRange& range) { return element < range.end; });
  const bool corrected = next != corrected_.end() && next->begin <= begin;
  if (corrected) return {std::min(end, next->end) - begin, true};
  return {(next == corrected_.end() ? end : std::min(end, next->begin)) - begin, false};
}

}  // namespace annulus
