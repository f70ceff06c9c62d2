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

BucketPlan plan_buckets(const NetworkPlan& plan, int64_t bucket_bytes) {
  const std::vector<ParameterPlan>& parameters = plan.parameters;
  const int count = static_cast<int>(parameters.size());
  const int64_t capacity = std::max<int64_t>(bucket_bytes / sizeof(float), 1);
  int64_t total = 0;
  for (const ParameterPlan& parameter : parameters) total += elements_of(parameter);

  // Parameters below `last` belong to the last bucket. A layer's parameters stay together.
  const int64_t last_capacity =
      std::min({kLastBucketBytes / static_cast<int64_t>(sizeof(float)), capacity, total / 8});
  int last = 0;
  for (int64_t size = 0; last < count; ++last) {
    size += elements_of(parameters[last]);
    if (size > last_capacity) break;
  }
  while (last > 0 && last < count && parameters[last].layer == parameters[last - 1].layer) --last;

  BucketPlan buckets;
  buckets.bucket_of.resize(count);
  buckets.offsets.resize(count);
  int64_t filled = 0;  // of the bucket under way
  const auto close = [&] {
    BucketExtent& extent = buckets.extents.back();
    extent.blocks = round_up(filled, kBlockElements) / kBlockElements;
    buckets.elements += extent.blocks * kBlockElements;
  };
  for (int i = count - 1; i >= 0; --i) {
    const int64_t size = elements_of(parameters[i]);
    if (buckets.extents.empty() || filled + size > capacity || i == last - 1) {
      if (!buckets.extents.empty()) close();
      buckets.extents.push_back({buckets.elements, 0});
      buckets.first_layer.push_back(0);
      filled = 0;
    }
    buckets.bucket_of[i] = static_cast<int>(buckets.extents.size()) - 1;
    buckets.offsets[i] = buckets.elements + filled;
    buckets.first_layer.back() = parameters[i].layer;
    filled += size;
  }
  close();
  return buckets;
}

std::vector<std::vector<int>> BucketPlan::buckets_by_stage(const NetworkPlan& plan) const {
  std::vector<std::vector<int>> result(plan.stages.size());
  for (std::size_t i = 0; i < bucket_of.size(); ++i) {
    result[plan.stage_of(plan.parameters[i].layer)].push_back(bucket_of[i]);
  }
  for (std::vector<int>& list : result) {
    std::sort(list.begin(), list.end());
    list.erase(std::unique(list.begin(), list.end()), list.end());
  }
  return result;
}

}  // namespace annulus
