#include "runtime/buckets.h"

#include <algorithm>

namespace annulus {
namespace {

constexpr int64_t kLastBucketBytes = 1 << 20;

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

int64_t elements_of(const ParameterPlan& parameter) {
  return round_up(parameter.layout.padded_elements(), kParameterAlignment);
}

}  // namespace

BucketPlan plan_buckets(const NetworkPlan& plan, int64_t bucket_bytes, bool whole_weights) {
  const std::vector<ParameterPlan>& parameters = plan.parameters;
  const int count = static_cast<int>(parameters.size());
  const int64_t capacity = std::max<int64_t>(bucket_bytes / sizeof(float), 1);
  std::vector<int> trained, statistics;  // numbers of parameters
  int64_t total = 0;                     // elements of the former
  for (int i = 0; i < count; ++i) {
    (is_statistic(parameters[i].role) ? statistics : trained).push_back(i);
    if (!is_statistic(parameters[i].role)) total += elements_of(parameters[i]);
  }

  // The first `last` of those that are trained belong to their last bucket. A layer's parameters stay
  // together.
  const int trained_count = static_cast<int>(trained.size());
  const int64_t last_capacity =
      std::min({kLastBucketBytes / static_cast<int64_t>(sizeof(float)), capacity, total / 8});
  int last = 0;
  for (int64_t size = 0; last < trained_count; ++last) {
    size += elements_of(parameters[trained[last]]);
    if (size > last_capacity) break;
  }
  const auto layer_of = [&](int k) { return parameters[trained[k]].layer; };
  while (last > 0 && last < trained_count && layer_of(last) == layer_of(last - 1)) --last;

  BucketPlan buckets;
  buckets.bucket_of.resize(count);
  buckets.offsets.resize(count);
  int64_t filled = 0;  // of the bucket under way
  const auto close = [&] {
    if (buckets.extents.empty()) return;
    BucketExtent& extent = buckets.extents.back();
    extent.blocks = round_up(filled, kBlockElements) / kBlockElements;
    buckets.elements += extent.blocks * kBlockElements;
  };
  const auto open = [&] {
    close();
    buckets.extents.push_back({buckets.elements, 0});
    buckets.first_layer.push_back(0);
    filled = 0;
  };
  const auto append = [&](int i) {
    if (whole_weights && has_residual(parameters[i].role)) {
      filled = round_up(filled, kBlockElements);
      buckets.extents.back().cuts.push_back(filled / kBlockElements);
    }
    buckets.bucket_of[i] = static_cast<int>(buckets.extents.size()) - 1;
    buckets.offsets[i] = buckets.elements + filled;
    filled += elements_of(parameters[i]);
  };
  for (int k = trained_count - 1; k >= 0; --k) {
    const int64_t size = elements_of(parameters[trained[k]]);
    if (buckets.extents.empty() || filled + size > capacity || k == last - 1) open();
    append(trained[k]);
    buckets.first_layer.back() = layer_of(k);
  }
  if (!statistics.empty()) open();
  buckets.statistics = buckets.elements;
  for (const int i : statistics) append(i);
  close();
  if (statistics.empty()) buckets.statistics = buckets.elements;
  return buckets;
}

std::vector<std::vector<int>> BucketPlan::buckets_by_stage(const NetworkPlan& plan) const {
  std::vector<std::vector<int>> result(plan.stages.size());
  for (std::size_t i = 0; i < bucket_of.size(); ++i) {
    if (is_statistic(plan.parameters[i].role)) continue;
    result[plan.stage_of(plan.parameters[i].layer)].push_back(bucket_of[i]);
  }
  for (std::vector<int>& list : result) {
    std::sort(list.begin(), list.end());
    list.erase(std::unique(list.begin(), list.end()), list.end());
  }
  return result;
}

}  // namespace annulus
