// What schedule_test sees of collectives, of training steps.
#include <gtest/gtest.h>

#include "tests/collectives/simulated_training.h"

namespace annulus::simulation {
namespace {

class SchedulesOf : public testing::TestWithParam<int> {};

INSTANTIATE_TEST_SUITE_P(Ranks, SchedulesOf, testing::Range(1, kMostRanks + 1));

TEST_P(SchedulesOf, training_sums_every_block_once_and_never_finds_a_ring_full) {
  const int ranks = GetParam();
  for (const int64_t shards : {ranks, ranks + 2, 2 * ranks, 12}) {
    if (shards < ranks) continue;
    for (const Way& way : ways(ranks, shards)) EXPECT_EQ(fault_in_training(way, shards), "");
  }
}

TEST(Schedules, of_training_on_many_ranks_fit_their_rings) {
  const int ranks = kManyRanks.back() / 2;
  for (const int64_t shards : {ranks + 8, 2 * ranks}) {
    for (const Way& way : ways(ranks, shards)) EXPECT_EQ(fault_in_training(way, shards), "");
  }
}

}  // namespace
}  // namespace annulus::simulation
