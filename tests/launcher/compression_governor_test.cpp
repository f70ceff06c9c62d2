#include "launcher/compression_governor.h"

#include <gtest/gtest.h>

#include <random>

namespace annulus {
namespace {

constexpr double kWhole = 100e6;  // bytes of a step

// A link and a bridge on which everything takes as long as it says, save for noise.
struct World {
  double gbit_per_s = 1;
  double cpu_ns_per_byte = 0.5;
  double fixed_ns = 0;  // of the bridge's processor time, whatever the bytes
  double coding_ms = 20;
  int ranks = 1;

  WireUse step(double bytes, double link_noise_ns = 0) const {
    const double cpu_ns = fixed_ns + cpu_ns_per_byte * bytes / ranks + coding_ms * 1e6;
    return {.bytes = static_cast<int64_t>(bytes),
            .unacknowledged_ns = static_cast<int64_t>(bytes * 8 / gbit_per_s + link_noise_ns),
            .cpu_ns = static_cast<int64_t>(ranks * cpu_ns),
            .encode_ns = static_cast<int64_t>(0.75 * ranks * coding_ms * 1e6),
            .decode_ns = static_cast<int64_t>(0.25 * ranks * coding_ms * 1e6)};
  }
};

std::optional<CompressionEstimate> after(const World& world, double bytes, int steps = 1000) {
  CompressionGovernor governor(kWhole, world.ranks);
  for (int i = 0; i < CompressionGovernor::kSkipped + steps; ++i) governor.add(world.step(bytes), true);
  return governor.estimate();
}

TEST(CompressionGovernor, compression_pays_on_a_slow_link) {
  const auto estimate = after({.gbit_per_s = 1}, 1e6);
  ASSERT_TRUE(estimate);
  EXPECT_TRUE(estimate->pays());
  EXPECT_DOUBLE_EQ(estimate->coding_ms, 20);
  EXPECT_NEAR(estimate->saved_wire_ms, 792, 0.01);
  EXPECT_NEAR(estimate->gbit_per_s, 1, 1e-6);
  EXPECT_NEAR(estimate->saved_cpu_ms, 49.5, 0.01);
}

TEST(CompressionGovernor, compression_does_not_pay_on_a_fast_link) {
  const auto estimate = after({.gbit_per_s = 200, .cpu_ns_per_byte = 0.1}, 1e6);
  ASSERT_TRUE(estimate);
  EXPECT_FALSE(estimate->pays());
  EXPECT_NEAR(estimate->saved_cpu_ms, 9.9, 0.01);
}

TEST(CompressionGovernor, what_whole_gradients_take_of_the_processor_counts_too) {
  const auto estimate = after({.gbit_per_s = 200, .cpu_ns_per_byte = 0.5}, 1e6);
  ASSERT_TRUE(estimate);
  EXPECT_TRUE(estimate->pays());
}

TEST(CompressionGovernor, a_small_saving_does_not_pay_where_a_large_one_would) {
  const World world{.gbit_per_s = 10, .cpu_ns_per_byte = 0.1};
  EXPECT_TRUE(after(world, 1e6)->pays());
  EXPECT_FALSE(after(world, 90e6)->pays());
  EXPECT_FALSE(after(world, 110e6)->pays()) << "more than whole gradients";
  EXPECT_EQ(after(world, 110e6)->saved_wire_ms, 0);
}

TEST(CompressionGovernor, says_nothing_after_too_few_steps) {
  const World fast{.gbit_per_s = 200, .cpu_ns_per_byte = 0.1};
  EXPECT_FALSE(after(fast, 50e6, CompressionGovernor::kFewest - 1));
  EXPECT_TRUE(after(fast, 50e6, CompressionGovernor::kFewest));
}

TEST(CompressionGovernor, steps_of_the_falling_ratio_do_not_count_as_what_is_sent) {
  CompressionGovernor governor(kWhole, 1);
  const World world{.gbit_per_s = 200, .cpu_ns_per_byte = 0.1};
  for (int i = 0; i < 10 * CompressionGovernor::kFewest; ++i) governor.add(world.step(50e6), false);
  EXPECT_FALSE(governor.estimate());
}

TEST(CompressionGovernor, says_nothing_where_nothing_is_compressed) {
  CompressionGovernor governor(0, 1);
  for (int i = 0; i < 1000; ++i) governor.add(World{}.step(1e6), true);
  EXPECT_FALSE(governor.estimate());
}

// Else small messages would let whole gradients seem to take as many wake-ups.
TEST(CompressionGovernor, a_falling_ratio_tells_what_bytes_cost_from_what_steps_cost) {
  const World world{.gbit_per_s = 100, .cpu_ns_per_byte = 0.1, .fixed_ns = 1e6};
  const auto constant = after(world, 1e6);
  EXPECT_NEAR(constant->saved_cpu_ms, 9.9 + 99, 0.1);
  EXPECT_TRUE(constant->pays()) << "as far as can be told";

  CompressionGovernor governor(kWhole, 1);
  for (int i = 0; i < 200; ++i) governor.add(world.step(25e6 - i * 0.12e6), false);
  for (int i = 0; i < 200; ++i) governor.add(world.step(1e6), true);
  const auto estimate = governor.estimate();
  ASSERT_TRUE(estimate);
  EXPECT_NEAR(estimate->saved_cpu_ms, 9.9, 0.01);
  EXPECT_NEAR(estimate->saved_wire_ms, 7.92, 0.01);
  EXPECT_FALSE(estimate->pays());
}

TEST(CompressionGovernor, is_sure_only_where_noise_leaves_no_doubt) {
  // Whole gradients take 9.9 + 9.9 ms more, and coding 18: rates that are told a half too high or too low
  // from step to step must not make the difference.
  const World world{.gbit_per_s = 80, .cpu_ns_per_byte = 0.1, .coding_ms = 18};
  std::mt19937 random(1);
  std::normal_distribution<double> noise(0, 0.05e6);
  for (int run = 0; run < 100; ++run) {
    CompressionGovernor governor(kWhole, 1);
    for (int i = 0; i < 200; ++i) governor.add(world.step(1e6, noise(random)), true);
    ASSERT_TRUE(governor.estimate());
    EXPECT_TRUE(governor.estimate()->pays());
  }
}

TEST(CompressionGovernor, times_are_those_of_a_rank) {
  const auto one = after({.gbit_per_s = 10, .ranks = 1}, 2e6),
             four = after({.gbit_per_s = 10, .ranks = 4}, 2e6);
  EXPECT_DOUBLE_EQ(four->coding_ms, one->coding_ms);
  EXPECT_DOUBLE_EQ(four->saved_wire_ms, one->saved_wire_ms);
  EXPECT_NEAR(four->saved_cpu_ms, one->saved_cpu_ms / 4, 0.01);
}

TEST(CompressionGovernor, says_nothing_where_the_kernel_knows_no_rate) {
  CompressionGovernor governor(kWhole, 1);
  for (int i = 0; i < 1000; ++i) governor.add({.bytes = 1'000'000, .encode_ns = 1'000'000}, true);
  EXPECT_FALSE(governor.estimate());
}

TEST(CompressionGovernor, describes_what_it_has_found) {
  EXPECT_EQ(
      describe({.coding_ms = 12, .saved_wire_ms = 3, .saved_cpu_ms = 1.234, .gbit_per_s = 9.24}),
      "--compress topk takes 12.00 ms a step to encode and decode, and saves at most 3.00 ms on the way "
      "(at 9.2 Gbit/s or more) and 1.23 ms of other processor time: --compress none would be faster here");
}

}  // namespace
}  // namespace annulus
