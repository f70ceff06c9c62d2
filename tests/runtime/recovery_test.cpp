// The launcher's side of a recovery, with ranks as threads that give up, park and go on.
#include "runtime/recovery.h"

#include <gtest/gtest.h>

#include "tests/runtime/training.h"

namespace annulus {
namespace {

TEST(Recovery, waits_for_every_rank_that_lives) {
  Training training(tiny_mlp(), config_of(3, 3, 2));
  const Segment& segment = training.segment();
  Recovery recovery(segment);
  EXPECT_FALSE(recovery.under_way());
  recovery.begin();
  EXPECT_TRUE(recovery.under_way());
  EXPECT_EQ(segment.header().wait.abort, 1U);
  const uint32_t attempt = recovery.attempt();
  EXPECT_NE(attempt, kNoAttempt);
  EXPECT_FALSE(recovery.all_parked({false, true, false}));
  segment.rank(0).control.parked = attempt;
  EXPECT_FALSE(recovery.all_parked({false, true, false}));
  segment.rank(2).control.parked = attempt - 1;  // out of date
  EXPECT_FALSE(recovery.all_parked({false, true, false}));
  segment.rank(2).control.parked = attempt;
  EXPECT_TRUE(recovery.all_parked({false, true, false}));
  EXPECT_FALSE(recovery.all_parked({false, false, false}));
}

TEST(Recovery, rewinds_to_the_smallest_version_and_empties_the_rings) {
  TrainConfig config = config_of(2, 2, 2);
  config.clip = 1;
  Training training(tiny_mlp(), config);
  const Segment& segment = training.segment();
  Versions versions = segment.versions();
  for (int bucket = 0; bucket < versions.buckets(); ++bucket) {
    versions.store(0, bucket, 8);
    versions.store(1, bucket, bucket == 0 ? 8 : 7);
  }
  SpscRing ring = segment.ring(0, 1);
  ASSERT_TRUE(ring.sender().try_send({}));
  (void)ring.receiver();
  segment.rank(0).state = RankState::kTraining;
  auto* const meeting = reinterpret_cast<std::atomic<uint32_t>*>(segment.norms());  // rank 0's word
  meeting->store(8);

  Recovery recovery(segment);
  recovery.begin();
  segment.rank(0).control.parked = recovery.attempt();
  const uint32_t attempt = recovery.attempt();
  recovery.rewind({false, true}, 6, 7);
  for (int rank = 0; rank < 2; ++rank) {
    EXPECT_EQ(segment.rank(rank).state, RankState::kStarting);
    EXPECT_EQ(segment.rank(rank).control.parked, attempt);
    for (int bucket = 0; bucket < versions.buckets(); ++bucket) EXPECT_EQ(versions.load(rank, bucket), 7U);
  }
  EXPECT_EQ(*meeting, 7U);
  EXPECT_EQ(segment.header().evaluated_step, 6U);
  // The ends can be claimed again, and nothing of the old attempt is in the ring.
  (void)ring.sender();
  EXPECT_EQ(ring.receiver().peek(), nullptr);
  EXPECT_EQ(segment.header().attempt, attempt);
  recovery.release();
  EXPECT_EQ(segment.header().wait.abort, 0U);
  EXPECT_EQ(segment.header().attempt, attempt + 1);
  EXPECT_FALSE(recovery.under_way());
}

TEST(Recovery, tells_of_a_committed_step_in_the_place_of_a_rank_that_could_not) {
  Training training(tiny_mlp(), config_of(2, 2, 9));
  const Segment& segment = training.segment();
  segment.reset_exchange(5);
  for (int rank = 0; rank < 2; ++rank) {
    segment.rank(rank).steps.push({.step = 4});
    segment.rank(rank).unfinished = {.step = 5, .attempt = 1, .images = 6};
  }
  segment.rank(0).steps.push({.step = 5, .images = 6});
  Recovery recovery(segment);
  const auto records = [&](int rank) { return segment.rank(rank).steps.written(); };
  for (int deaths = 0; deaths < 2; ++deaths) {  // once is enough
    recovery.begin();
    recovery.rewind({true, true}, 0, segment.versions().committed());
    EXPECT_EQ(records(0), 2U);
    ASSERT_EQ(records(1), 2U);
    StepRecord last;
    ASSERT_TRUE(segment.rank(1).steps.read(1, last));
    EXPECT_EQ(last.step, 5U);
    EXPECT_EQ(last.images, 6);
  }
  // Of a step that is done again nobody tells.
  segment.rank(1).unfinished.step = 6;
  recovery.rewind({true, true}, 0, segment.versions().committed());
  EXPECT_EQ(records(1), 2U);
}

TEST(Recovery, of_a_death_in_step_1_tells_of_no_step) {
  Training training(tiny_mlp(), config_of(2, 2, 9));
  const Segment& segment = training.segment();
  segment.reset_exchange(0);
  segment.rank(0).unfinished = {.step = 1, .attempt = 1, .images = 6};  // rank 1 has not begun it
  Recovery recovery(segment);
  recovery.begin();
  recovery.rewind({true, true}, 0, segment.versions().committed());
  for (int rank = 0; rank < 2; ++rank) EXPECT_EQ(segment.rank(rank).steps.written(), 0U);
}

// Aborts a run of threads again and again at any moment: the same bits as undisturbed.
TEST(Recovery, of_a_run_that_is_aborted_again_and_again_leaves_the_bits_alone) {
  for (const auto& [staleness, clip] : {std::pair{0, 0.0}, {0, 0.1}, {1, 0.1}}) {
    TrainConfig config = config_of(3, 3, 200);
    config.staleness = staleness;
    config.clip = clip;
    Training undisturbed(tiny_resnet(), config);
    ASSERT_EQ(undisturbed.train(), "");
    Training training(tiny_resnet(), config);
    int recoveries = 0;
    const std::string failure = training.train(training.run(), [&] {
      Recovery recovery(training.segment());
      const std::vector<bool> dead(3);
      std::mt19937 random(5);
      while (!training.finished()) {
        std::this_thread::sleep_for(std::chrono::microseconds(random() % 5000));
        recovery.begin();
        while (!recovery.all_parked(dead)) std::this_thread::yield();
        recovery.rewind(dead, 0, training.segment().versions().committed());
        recovery.release();
        ++recoveries;
        // Often enough a step comes through.
        std::this_thread::sleep_for(std::chrono::milliseconds(random() % 10));
      }
    });
    EXPECT_EQ(failure, "");
    EXPECT_EQ(training.committed(), 200U);
    EXPECT_EQ(training.checksum(), undisturbed.checksum());
    EXPECT_GT(recoveries, 3);
  }
}

}  // namespace
}  // namespace annulus
