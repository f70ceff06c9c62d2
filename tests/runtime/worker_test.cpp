// What a worker does beside its sums: evaluates, stops, gives up, refuses.
#include "runtime/worker.h"

#include <gtest/gtest.h>

#include "tests/runtime/serial_run.h"

namespace annulus {
namespace {

TEST(Training, evaluates_as_often_as_asked_for) {
  for (const auto& [every, expected] : {std::pair{2, std::vector<int>{2, 4, 5}}, {0, {5}}}) {
    TrainConfig config = config_of(2, 2, 13);  // three steps an epoch
    config.eval_every = every;
    Training training(tiny_mlp(), config);
    ASSERT_EQ(training.train(), "");
    std::vector<int> epochs;
    const EvalRing& evaluations = training.segment().rank(1).evaluations;
    for (uint64_t i = 0; i < evaluations.written(); ++i) {
      EvalRecord record;
      ASSERT_TRUE(evaluations.read(i, record));
      epochs.push_back(static_cast<int>(record.epoch));
    }
    EXPECT_EQ(epochs, expected);
  }
}

// Evaluations are of all updates: those of a run with delay equal the last ones of runs that end there.
TEST(Training, with_delay_evaluates_what_all_updates_have_made) {
  TrainConfig config = config_of(2, 4, 7);
  config.staleness = 1;
  config.schedule = "constant";
  Training training(tiny_mlp(), config);
  ASSERT_EQ(training.train(), "");
  for (uint64_t evaluation = 0; evaluation < 3; ++evaluation) {
    for (int rank = 0; rank < 2; ++rank) {
      EvalRecord record, expected;
      ASSERT_TRUE(training.segment().rank(rank).evaluations.read(evaluation, record));
      config.steps = static_cast<int64_t>(record.step);
      Training part(tiny_mlp(), config);
      ASSERT_EQ(part.train(), "");
      ASSERT_EQ(part.segment().rank(rank).evaluations.written(), evaluation + 1);
      ASSERT_TRUE(part.segment().rank(rank).evaluations.read(evaluation, expected));
      EXPECT_EQ(record.step, expected.step);
      EXPECT_EQ(record.loss_units, expected.loss_units);
      EXPECT_EQ(record.correct, expected.correct);
    }
  }
}

// Staleness and communication thread.
class Stopped : public testing::TestWithParam<std::pair<int, const char*>> {
 protected:
  TrainConfig config() const {
    TrainConfig config = config_of(3, 3, 1'000'000);
    config.staleness = GetParam().first;
    config.comm_thread = GetParam().second;
    return config;
  }
};
INSTANTIATE_TEST_SUITE_P(AllWays, Stopped,
                         testing::Values(std::pair{0, "inline"}, std::pair{1, "inline"},
                                         std::pair{0, "sibling"}, std::pair{1, "sibling"}),
                         [](const auto& info) {
                           return fmt::format("staleness_{}_{}", info.param.first, info.param.second);
                         });

TEST_P(Stopped, training_ends_on_all_ranks_with_the_same_step) {
  Training training(tiny_mlp(), config());
  std::thread launcher([&] {
    while (training.segment().rank(2).steps.written() < 5) std::this_thread::yield();
    training.segment().header().stop_requested = 1;
  });
  ASSERT_EQ(training.train(), "");
  launcher.join();
  const uint32_t last = training.segment().header().last_step;
  EXPECT_GE(last, 5U);
  EXPECT_LT(last, 1'000'000U);
  EXPECT_EQ(training.committed(), last);
  for (int rank = 0; rank < 3; ++rank) {
    EXPECT_EQ(training.segment().rank(rank).steps.written(), last);
    for (int bucket = 0; bucket < training.segment().versions().buckets(); ++bucket) {
      EXPECT_EQ(training.segment().versions().load(rank, bucket), last);
    }
  }
  SerialRun serial(training);
  for (int64_t step = 1; step <= last; ++step) serial.step(step);
  EXPECT_EQ(training.checksum(), serial.checksum());
}

TEST_P(Stopped, training_that_is_aborted_parks_every_rank) {
  Training training(tiny_mlp(), config());
  std::thread launcher([&] {
    while (training.segment().rank(0).steps.written() < 3) std::this_thread::yield();
    training.segment().header().wait.abort = 1;
    training.segment().wake_all();
  });
  EXPECT_EQ(training.train(), "");
  launcher.join();
  const SegmentHeader& header = training.segment().header();
  for (int rank = 0; rank < 3; ++rank) {
    EXPECT_EQ(training.segment().rank(rank).control.parked, header.attempt) << "rank " << rank;
  }
  EXPECT_GE(training.committed(), 2U);
}

TEST(Training, writes_every_byte_of_both_generations_even_where_nothing_changes) {
  TrainConfig config = config_of(2, 2, 2);
  config.learning_rate = 1e-30;  // too small to change a weight
  config.schedule = "constant";
  Training training(tiny_mlp(), config);
  // Moments of generation 0 start as zeros; generation 1 as junk, which must be gone after the first step.
  std::fill_n(training.segment().weights(1), training.run().buckets.elements, 1e30f);
  ASSERT_EQ(training.train(), "");
  for (int64_t i = 0; i < training.run().buckets.elements; ++i) {
    ASSERT_EQ(training.segment().weights(0)[i], training.segment().weights(1)[i]) << "element " << i;
  }
}

TEST(Training, with_other_kernels_than_planned_is_refused) {
  Training training(tiny_mlp(), config_of(1, 1, 2));
  RunPlan other = training.run();
  other.spec = tiny_cnn();
  EXPECT_NE(training.train(other).find("plans other kernels"), std::string::npos);
}

}  // namespace
}  // namespace annulus
