#include "runtime/buckets.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "parameter_list.h"

namespace annulus {
namespace {

constexpr int64_t kFloat = sizeof(float);

// Elements that a parameter takes in a bucket.
int64_t room_for(int64_t elements) {
  return (elements + kParameterAlignment - 1) / kParameterAlignment * kParameterAlignment;
}

std::vector<int> members(const BucketPlan& plan, int bucket) {
  std::vector<int> parameters;
  for (std::size_t i = 0; i < plan.bucket_of.size(); ++i) {
    if (plan.bucket_of[i] == bucket) parameters.push_back(static_cast<int>(i));
  }
  return parameters;
}

int64_t filled(const NetworkPlan& network, const std::vector<int>& parameters) {
  int64_t sum = 0;
  for (const int i : parameters) sum += room_for(network.parameters[i].layout.padded_elements());
  return sum;
}

// What must hold for every plan.
void expect_sound(const NetworkPlan& network, const BucketPlan& plan, int64_t bucket_bytes) {
  ASSERT_EQ(plan.bucket_of.size(), network.parameters.size());
  ASSERT_EQ(plan.offsets.size(), network.parameters.size());
  ASSERT_EQ(plan.first_layer.size(), plan.extents.size());
  int64_t next = 0;
  for (std::size_t bucket = 0; bucket < plan.extents.size(); ++bucket) {
    const BucketExtent& extent = plan.extents[bucket];
    EXPECT_EQ(extent.offset, next);  // one after another, without a hole
    EXPECT_GT(extent.blocks, 0);
    next = extent.offset + extent.blocks * kBlockElements;
    const std::vector<int> own = members(plan, static_cast<int>(bucket));
    ASSERT_FALSE(own.empty());
    EXPECT_TRUE(own.size() == 1 || filled(network, own) * kFloat <= bucket_bytes);
    EXPECT_LT(extent.blocks * kBlockElements - filled(network, own), kBlockElements);
    int first = network.parameters[own[0]].layer;
    for (const int i : own) first = std::min(first, network.parameters[i].layer);
    EXPECT_EQ(plan.first_layer[bucket], first);
  }
  EXPECT_EQ(plan.elements, next);

  std::vector<std::pair<int64_t, int64_t>> places;  // of parameters
  for (std::size_t i = 0; i < plan.offsets.size(); ++i) {
    const BucketExtent& extent = plan.extents[plan.bucket_of[i]];
    const int64_t end = plan.offsets[i] + network.parameters[i].layout.padded_elements();
    EXPECT_EQ(plan.offsets[i] % kParameterAlignment, 0);
    EXPECT_GE(plan.offsets[i], extent.offset);
    EXPECT_LE(end, extent.offset + extent.blocks * kBlockElements);
    if (i > 0) {
      EXPECT_LE(plan.bucket_of[i], plan.bucket_of[i - 1]) << "buckets follow backward";
    }
    places.emplace_back(plan.offsets[i], end);
  }
  std::sort(places.begin(), places.end());
  for (std::size_t i = 1; i < places.size(); ++i) EXPECT_LE(places[i - 1].second, places[i].first);
}

TEST(Buckets, hold_every_parameter_once_in_backward_order_whatever_the_sizes) {
  std::mt19937 random(5);
  for (int round = 0; round < 300; ++round) {
    std::vector<ParameterSize> sizes;
    const int layers = 1 + static_cast<int>(random() % 12);
    for (int layer = 0; layer < layers; ++layer) {
      sizes.push_back({layer, 1 + static_cast<int64_t>(random() % (random() % 2 ? 300'000 : 700))});
      if (random() % 4) sizes.push_back({layer, 1 + static_cast<int64_t>(random() % 900)});
    }
    const int64_t bucket_bytes = 1 + static_cast<int64_t>(random() % 2'000'000);
    const NetworkPlan network = network_of(sizes);
    SCOPED_TRACE(
        fmt::format("round {}, {} parameters, buckets of {} bytes", round, sizes.size(), bucket_bytes));
    expect_sound(network, plan_buckets(network, bucket_bytes), bucket_bytes);
    if (testing::Test::HasFailure()) return;
  }
}

TEST(Buckets, are_filled_from_the_last_parameter_on_until_the_next_does_not_fit) {
  // 8,192 elements are 32 KiB; the first layer is too large for a bucket of its own at the end.
  const NetworkPlan network = network_of({{0, 8192}, {1, 8192}, {2, 8192}, {3, 8192}, {4, 8192}});
  const BucketPlan plan = plan_buckets(network, 65536);
  EXPECT_EQ(plan.bucket_of, (std::vector{2, 1, 1, 0, 0}));
  EXPECT_EQ(plan.offsets, (std::vector<int64_t>{32768, 24576, 16384, 8192, 0}));
  EXPECT_EQ(plan.first_layer, (std::vector{3, 1, 0}));
  EXPECT_EQ(plan.extents.size(), 3U);
  EXPECT_EQ(plan.elements, 5 * 8192);
}

TEST(Buckets, a_parameter_larger_than_the_bucket_size_has_one_of_its_own) {
  const NetworkPlan network = network_of({{0, 4096}, {1, 100'000}, {2, 4096}});
  const BucketPlan plan = plan_buckets(network, 65536);
  EXPECT_EQ(members(plan, plan.bucket_of[1]), (std::vector{1}));
  EXPECT_EQ(plan.extents[plan.bucket_of[1]].blocks, 25);
  expect_sound(network, plan, 65536);
}

TEST(Buckets, what_forward_uses_first_is_a_small_last_bucket) {
  // SimpleCNN's sizes: the convolutions are a tenth of the model.
  const NetworkPlan network =
      network_of({{0, 288}, {0, 32}, {2, 18'432}, {2, 64}, {4, 204'800}, {4, 128}, {5, 1280}, {5, 10}});
  const BucketPlan plan = plan_buckets(network, 25 << 20);
  EXPECT_EQ(plan.bucket_of, (std::vector{1, 1, 1, 1, 0, 0, 0, 0}));
  EXPECT_EQ(plan.first_layer, (std::vector{4, 0}));
}

TEST(Buckets, the_last_bucket_is_at_most_an_eighth_of_the_model_and_one_mebibyte) {
  for (const int64_t scale : {1, 64}) {
    std::vector<ParameterSize> sizes;
    for (int layer = 0; layer < 40; ++layer) sizes.push_back({layer, 16'384 * scale});
    const NetworkPlan network = network_of(sizes);
    const BucketPlan plan = plan_buckets(network, int64_t{1} << 40);
    ASSERT_EQ(plan.extents.size(), scale == 1 ? 2U : 1U);  // one layer of the large model is 4 MiB
    if (scale > 1) continue;
    const int64_t last = filled(network, members(plan, 1));
    EXPECT_LE(last, 40 * 16'384 / 8);
    EXPECT_GT(last, 40 * 16'384 / 8 - 16'384) << "as much as fits";
    EXPECT_LE(last * kFloat, 1 << 20);
  }
  std::vector<ParameterSize> sizes;
  for (int layer = 0; layer < 400; ++layer) sizes.push_back({layer, 16'384});  // 64 KiB each, 25 MiB in all
  const NetworkPlan network = network_of(sizes);
  const BucketPlan plan = plan_buckets(network, int64_t{1} << 40);
  EXPECT_EQ(members(plan, 1).size(), 16U);  // one MiB, though an eighth of the model is three
}

TEST(Buckets, a_layers_parameters_are_together_in_the_last_bucket_or_not_in_it_at_all) {
  // An eighth of the model has room for layers 0 and 1 without the last parameter of layer 1.
  const NetworkPlan network = network_of({{0, 1024}, {1, 1024}, {1, 1024}, {1, 1024}, {2, 20'480}});
  const BucketPlan plan = plan_buckets(network, 25 << 20);
  EXPECT_EQ(plan.bucket_of, (std::vector{1, 0, 0, 0, 0}));
}

TEST(Buckets, a_stage_reads_every_bucket_that_one_of_its_parameters_is_in) {
  NetworkPlan network = network_of({{0, 8192}, {2, 8192}, {2, 8192}, {3, 8192}});
  const BucketPlan plan = plan_buckets(network, 65536);
  ASSERT_EQ(plan.bucket_of, (std::vector{1, 1, 0, 0}));
  network.stages = {{0, 1}, {1, 1}, {2, 1}, {3, 1}, {4, 1}};
  EXPECT_EQ(plan.buckets_by_stage(network), (std::vector<std::vector<int>>{{1}, {}, {0, 1}, {0}, {}}));
  network.stages = {{0, 3}, {3, 1}, {4, 1}};
  EXPECT_EQ(plan.buckets_by_stage(network), (std::vector<std::vector<int>>{{0, 1}, {0}, {}}));
}

TEST(Buckets, no_stage_waits_for_running_statistics) {
  NetworkPlan network = network_of({{0, 8192}, {1, 64}, {1, 64}, {1, 64}, {2, 8192}});
  network.parameters[2].role = ParameterRole::kRunningMean;
  network.parameters[3].role = ParameterRole::kRunningVariance;
  network.stages = {{0, 1}, {1, 1}, {2, 1}};
  const BucketPlan plan = plan_buckets(network, 32768);
  ASSERT_EQ(plan.bucket_of, (std::vector{2, 1, 3, 3, 0}));
  EXPECT_EQ(plan.buckets_by_stage(network), (std::vector<std::vector<int>>{{2}, {1}, {0}}));
}

}  // namespace
}  // namespace annulus
