#include "kernels/arena_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace annulus {
namespace {

// Largest sum of sizes alive at one moment: no plan can do with less.
int64_t lower_bound_of(const std::vector<ArenaBuffer>& buffers) {
  int64_t largest = 0;
  for (const ArenaBuffer& at : buffers) {
    int64_t alive = 0;
    for (const ArenaBuffer& other : buffers) {
      if (other.first_use <= at.first_use && at.first_use <= other.last_use)
        alive += (other.bytes + 63) / 64 * 64;
    }
    largest = std::max(largest, alive);
  }
  return largest;
}

void expect_sound(const std::vector<ArenaBuffer>& buffers, const ArenaPlan& plan) {
  ASSERT_EQ(plan.offsets.size(), buffers.size());
  EXPECT_EQ(plan.bytes % ArenaPlan::kAlignment, 0);
  for (size_t a = 0; a < buffers.size(); ++a) {
    EXPECT_GE(plan.offsets[a], 0);
    EXPECT_EQ(plan.offsets[a] % ArenaPlan::kAlignment, 0);
    EXPECT_LE(plan.offsets[a] + buffers[a].bytes, plan.bytes);
    for (size_t b = 0; b < a; ++b) {
      const bool together =
          buffers[a].first_use <= buffers[b].last_use && buffers[b].first_use <= buffers[a].last_use;
      const bool apart = plan.offsets[a] + buffers[a].bytes <= plan.offsets[b] ||
                         plan.offsets[b] + buffers[b].bytes <= plan.offsets[a];
      EXPECT_TRUE(!together || apart || buffers[a].bytes == 0 || buffers[b].bytes == 0)
          << "buffers " << a << " and " << b;
    }
  }
}

TEST(ArenaPlan, OfNothingIsEmpty) {
  const ArenaPlan plan = plan_arena({});
  EXPECT_EQ(plan.bytes, 0);
  EXPECT_TRUE(plan.offsets.empty());
}

TEST(ArenaPlan, BuffersThatNeverMeetShareBytes) {
  const std::vector<ArenaBuffer> buffers{{1000, 0, 1}, {1000, 2, 3}, {500, 4, 9}};
  const ArenaPlan plan = plan_arena(buffers);
  expect_sound(buffers, plan);
  EXPECT_EQ(plan.bytes, 1024);
}

TEST(ArenaPlan, ABufferStillReadInTheMomentOfAnothersWriteIsKept) {
  const std::vector<ArenaBuffer> buffers{{64, 0, 1}, {64, 1, 2}};
  EXPECT_EQ(plan_arena(buffers).bytes, 128);
}

TEST(ArenaPlan, TakesTheSmallestGapThatFits) {
  // At moment 2 the gaps are 256 bytes (after the first leaves) and 128 bytes (after the third leaves).
  const std::vector<ArenaBuffer> buffers{{1024, 0, 1}, {960, 0, 9}, {512, 0, 1}, {448, 0, 9}, {384, 2, 3}};
  const ArenaPlan plan = plan_arena(buffers);
  expect_sound(buffers, plan);
  EXPECT_EQ(plan.offsets[4], plan.offsets[2]);
  EXPECT_EQ(plan.bytes, 1024 + 960 + 512 + 448);
}

TEST(ArenaPlan, RandomBuffersNeverOverlapAndWasteLittle) {
  std::mt19937 random(7);
  double waste = 0;
  constexpr int kRounds = 300;
  for (int round = 0; round < kRounds; ++round) {
    std::vector<ArenaBuffer> buffers(random() % 24);
    for (ArenaBuffer& buffer : buffers) {
      buffer.bytes = static_cast<int64_t>(random() % 3000);
      buffer.first_use = static_cast<int>(random() % 16);
      buffer.last_use = buffer.first_use + static_cast<int>(random() % 6);
    }
    const ArenaPlan plan = plan_arena(buffers);
    expect_sound(buffers, plan);
    const int64_t least = lower_bound_of(buffers);
    EXPECT_GE(plan.bytes, least);
    if (least > 0) waste += static_cast<double>(plan.bytes) / static_cast<double>(least) - 1;
    EXPECT_EQ(plan.offsets, plan_arena(buffers).offsets);
  }
  EXPECT_LT(waste / kRounds, 0.05);
}

}  // namespace
}  // namespace annulus
