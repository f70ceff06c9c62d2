#include "runtime/gradient_compression.h"

#include <algorithm>

#include "telemetry/check.h"

namespace annulus {
namespace {

constexpr int64_t kPortion = 4096;  // elements that are rounded at a time, so that they stay in the cache

}  // namespace

GradientCompression::GradientCompression(const TrainConfig& config, const NetworkPlan& network,
                                         const BucketPlan& buckets)
    : parts_(buckets.extents.size()), momentum_(config, network, buckets) {
  if (!compresses_shards(config)) return;
  if (config.compress == "fp16") rounded_ = DataType::kF16;
  if (config.compress == "bf16") rounded_ = DataType::kBf16;
  if (keeps_residuals(config)) {
    top_k_.emplace();
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
    }
    parts_[buckets.bucket_of[i]].push_back(part);
  }
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
    momentum_.apply(at, part.elements, gradient, from.velocity, to.velocity);
    const int64_t k = count_for(step_.ratio, part.unpadded);
    const SparseView sent =
        top_k_->select(k, part.elements, values, from.residual + at, to.residual + at, step_.residual_scale);
    write_dense(sent, part.elements, values);
  }
}

void GradientCompression::round(int64_t n, float* values) {
  for (int64_t begin = 0; begin < n; begin += kPortion) {
    const int64_t count = std::min(kPortion, n - begin);
    narrow(rounded_, count, values + begin, narrow_.data());
    widen(rounded_, count, narrow_.data(), values + begin);
  }
}

}  // namespace annulus
