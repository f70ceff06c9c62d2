#include "kernels/stage_plan.h"

#include <gtest/gtest.h>

#include "runtime/models.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

int64_t filled_up(int64_t images, int64_t portion) { return (images + portion - 1) / portion * portion; }

TEST(Portion, IsTheLargestOneThatNeedsTheFewestImagesToFillUp) {
  EXPECT_EQ(choose_portion(128, 8), 8);
  EXPECT_EQ(choose_portion(128, 5), 4);
  EXPECT_EQ(choose_portion(120, 7), 6);
  EXPECT_EQ(choose_portion(43, 8), 4);    // 44; 8 would need 48
  EXPECT_EQ(choose_portion(43, 12), 11);  // 44
  EXPECT_EQ(choose_portion(7, 5), 4);
}

TEST(Portion, IsAllImagesWhereTheyFit) {
  EXPECT_EQ(choose_portion(7, 7), 7);
  EXPECT_EQ(choose_portion(1, 100), 1);
}

TEST(Portion, IsWithinItsBoundsAndNoOtherNeedsFewerImages) {
  for (int64_t most = 1; most <= 20; ++most) {
    for (int64_t images = most + 1; images <= 300; ++images) {
      const int64_t portion = choose_portion(images, most);
      ASSERT_LE(portion, most);
      ASSERT_GE(2 * portion, most);
      const int64_t filled = filled_up(images, portion);
      for (int64_t other = (most + 1) / 2; other <= most; ++other) {
        ASSERT_LE(filled, filled_up(images, other)) << images << " in portions of at most " << most;
        ASSERT_TRUE(other <= portion || filled < filled_up(images, other)) << images << " " << most;
      }
    }
  }
}

std::vector<StagePlan> stages(int trunk, int64_t portion, int layers, int64_t batch) {
  std::vector<StagePlan> all{{0, trunk, portion}};
  for (int k = trunk; k < layers; ++k) all.push_back({k, 1, batch});
  return all;
}

TEST(Stages, OfSimpleCnnAreTheTrunkAndEachLinearLayer) {
  const NetworkSpec spec = make_network("simplecnn", {3, 32, 32}, 10);
  const Staging staging = plan_stages(spec, 128, 1);
  EXPECT_EQ(staging.batch, 128);
  EXPECT_EQ(staging.stages, stages(4, 8, 6, 128));
  // pool1 reads and writes the most.
  const int64_t eight_images = 8 * 4 * (32 * 30 * 30 + 32 * 15 * 15);
  EXPECT_EQ(plan_stages(spec, 128, 1, DataType::kF32, eight_images - 1).stages, stages(4, 4, 6, 128));
  EXPECT_EQ(plan_stages(spec, 128, 1, DataType::kF32, eight_images).stages, stages(4, 8, 6, 128));
}

TEST(Stages, OfNetworksWithoutATrunkTakeAllImagesAtOnce) {
  const Staging staging = plan_stages(make_network("mlp", {1, 28, 28}, 10), 43, 1);
  EXPECT_EQ(staging.batch, 43);
  EXPECT_EQ(staging.stages, (std::vector<StagePlan>{{0, 1, 43}, {1, 1, 43}, {2, 1, 43}}));
}

TEST(Stages, RoundTheBatchUpToWholePortions) {
  const Staging staging = plan_stages(make_network("simplecnn", {3, 32, 32}, 10), 43, 1);
  EXPECT_EQ(staging.batch, 45);
  EXPECT_EQ(staging.stages, stages(4, 9, 6, 45));
}

TEST(Stages, OfMoreThreadsHaveLargerPortions) {
  EXPECT_EQ(plan_stages(make_network("simplecnn", {3, 32, 32}, 10), 128, 4).stages, stages(4, 32, 6, 128));
}

TEST(Stages, OfImagesLargerThanTheRoomHavePortionsOfOne) {
  EXPECT_EQ(plan_stages(make_network("simplecnn", {3, 512, 512}, 10), 6, 1).stages, stages(4, 1, 6, 6));
}

TEST(Stages, OfAnImpossibleNetworkAreTheUsersError) {
  NetworkSpec spec = make_network("simplecnn", {3, 32, 32}, 10);
  spec.input = {3, 4, 4};
  EXPECT_THROW(plan_stages(spec, 8, 1), UserError);
}

}  // namespace
}  // namespace annulus
