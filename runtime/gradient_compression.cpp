#include "runtime/gradient_compression.h"

#include <algorithm>

#include "runtime/optimizer_step.h"
#include "telemetry/check.h"

namespace annulus {
namespace {

constexpr int64_t kPortion = 4096;  // elements that are rounded at a time, so that they stay in the cache

}  // namespace

GradientCompression::GradientCompression(const TrainConfig& config, const NetworkPlan& network,
                                         const BucketPlan& buckets)
    : parts_(buckets.extents.size()) {
  if (!compresses_shards(config)) return;
  if (config.compress == "fp16") rounded_ = DataType::kF16;
  if (config.compress == "bf16") rounded_ = DataType::kBf16;
  if (keeps_residuals(config)) {
    top_k_.emplace();
    if (corrects_momentum(config)) velocity_ = sgd_step(config, 0);
  } else {
    narrow_.resize(kPortion * sizeof(uint16_t));
  }
  for (int i = 0; i < std::ssize(network.parameters); ++i) {
    const ParameterPlan& parameter = network.parameters[i];
    if (is_statistic(parameter.role)) continue;
    Part part{.offset = buckets.offsets[i], .elements = parameter.layout.padded_elements()};
    if (top_k_) {
      if (!has_residual(parameter.role)) continue;
      part.unpadded = parameter.layout.elements();
      // The update takes the space between two parameters as well, where all is zero.
      const int64_t blocks = (part.elements + kParameterAlignment - 1) / kParameterAlignment;
      if (velocity_) corrected_.push_back({part.offset, part.offset + blocks * kParameterAlignment});
    }
    parts_[buckets.bucket_of[i]].push_back(part);
  }
  std::sort(corrected_.begin(), corrected_.end(),
            [](const ShardRange& a, const ShardRange& b) { return a.begin < b.begin; });
}

void GradientCompression::apply(int bucket, float* gradient, const ShardState& from, const ShardState& to) {
  for (const Part& part : parts_[bucket]) {
    const int64_t at = part.offset;
    float* const values = gradient + at;
    if (!top_k_) {
      round(part.elements, values);
      continue;
    }
    CHECK(from.residual != nullptr && to.residual != nullptr);
    if (velocity_) {
      CHECK(from.velocity != nullptr && to.velocity != nullptr);
      velocity_update(*velocity_, part.elements, values, from.velocity + at, to.velocity + at);
    }
    const int64_t k = count_for(step_.ratio, part.unpadded);
    const SparseView sent =
        top_k_->select(k, part.elements, values, from.residual + at, to.residual + at, step_.residual_scale);
    write_dense(sent, part.elements, values);
  }
}

GradientCompression::Run GradientCompression::momentum_of(int64_t begin, int64_t end) const {
  const auto next =
      std::upper_bound(corrected_.begin(), corrected_.end(), begin,
                       [](int64_t element, const ShardRange& range) { return element < range.end; });
  const bool corrected = next != corrected_.end() && next->begin <= begin;
  if (corrected) return {std::min(end, next->end) - begin, true};
  return {(next == corrected_.end() ? end : std::min(end, next->begin)) - begin, false};
}

void GradientCompression::round(int64_t n, float* values) {
  for (int64_t begin = 0; begin < n; begin += kPortion) {
    const int64_t count = std::min(kPortion, n - begin);
    narrow(rounded_, count, values + begin, narrow_.data());
    widen(rounded_, count, narrow_.data(), values + begin);
  }
}

}  // namespace annulus
