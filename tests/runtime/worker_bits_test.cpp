// Whole training runs against serial ones with the same kernels, and against each other: bit by bit.
#include <gtest/gtest.h>

#include <set>
#include <tuple>

#include "tests/runtime/serial_run.h"

namespace annulus {
namespace {

// Nine steps of eight to twelve images, three of them an epoch's last and smaller batch.
TEST(Training, has_the_bits_of_a_serial_run_with_and_without_delay) {
  for (const auto& [spec, workers, shards, optimizer] : {std::tuple{&tiny_mlp, 1, 1, "sgd"},
                                                         {&tiny_mlp, 1, 5, "momentum"},
                                                         {&tiny_mlp, 2, 7, "nesterov"},
                                                         {&tiny_mlp, 3, 12, "momentum"},
                                                         {&tiny_mlp, 2, 4, "adam"},
                                                         {&tiny_mlp, 3, 6, "adamw"},
                                                         {&tiny_resnet, 1, 5, "momentum"},
                                                         {&tiny_resnet, 3, 12, "adamw"}}) {
    std::set<uint64_t> seen;
    for (const auto& [staleness, comm_thread] :
         {std::pair{0, "inline"}, {1, "inline"}, {0, "sibling"}, {1, "sibling"}}) {
      TrainConfig config = config_of(workers, shards, 9);
      config.comm_thread = comm_thread;
      config.optimizer = optimizer;
      config.staleness = staleness;
      Training training(spec(), config);
      SerialRun serial(training);
      for (int64_t step = 1; step <= 9; ++step) serial.step(step);
      ASSERT_EQ(training.train(), "");
      EXPECT_EQ(training.committed(), 9U);
      EXPECT_EQ(training.checksum(), serial.checksum())
          << workers << " ranks, " << shards << " shards, staleness " << staleness << ", " << comm_thread;
      seen.insert(serial.checksum());
    }
    EXPECT_EQ(seen.size(), 2U) << "staleness has no effect";
  }
}

TEST(Training, with_delay_has_the_bits_of_a_serial_run_whatever_the_network_and_algorithm) {
  for (NetworkSpec (*const spec)() : {tiny_mlp, tiny_cnn, large_images, tiny_resnet}) {
    for (const char* algorithm : {"direct", "hierarchical", "ring"}) {
      TrainConfig config = config_of(2, 4, 7);
      config.algorithm = algorithm;
      config.staleness = 1;
      Training training(spec(), config);
      SerialRun serial(training);
      for (int64_t step = 1; step <= 7; ++step) serial.step(step);
      ASSERT_EQ(training.train(), "");
      EXPECT_EQ(training.checksum(), serial.checksum()) << training.run().spec.name << ", " << algorithm;
    }
  }
}

TEST(Training, augments_each_image_by_itself_anew_in_every_epoch) {
  std::set<uint64_t> seen;
  for (const bool augment : {false, true}) {
    TrainConfig config = config_of(2, 4, 9);
    config.augment = augment;
    Training training(tiny_cnn(), config);
    SerialRun serial(training);
    for (int64_t step = 1; step <= 9; ++step) serial.step(step);
    ASSERT_EQ(training.train(), "");
    EXPECT_EQ(training.checksum(), serial.checksum());
    seen.insert(training.checksum());
  }
  EXPECT_EQ(seen.size(), 2U);
}

// Gradients have norms on both sides of the limit, so that some steps are clipped and others are not.
TEST(Training, with_clipping_has_the_bits_of_a_serial_run) {
  for (const int staleness : {0, 1}) {
    for (const char* comm_thread : {"inline", "sibling"}) {
      for (const auto& [spec, optimizer, clip] : {std::tuple{&tiny_mlp, "momentum", 0.6},
                                                  {&tiny_mlp, "adamw", 0.6},
                                                  {&tiny_resnet, "momentum", 2.5}}) {
        TrainConfig config = config_of(3, 6, 9);
        config.optimizer = optimizer;
        config.staleness = staleness;
        config.comm_thread = comm_thread;
        config.clip = clip;
        Training training(spec(), config);
        SerialRun serial(training);
        for (int64_t step = 1; step <= 9; ++step) serial.step(step);
        const auto [least, most] = std::minmax_element(serial.norms.begin(), serial.norms.end());
        ASSERT_LT(*least, config.clip);
        ASSERT_GT(*most, config.clip);
        ASSERT_EQ(training.train(), "");
        EXPECT_EQ(training.checksum(), serial.checksum())
            << optimizer << ", staleness " << staleness << ", " << comm_thread;
        for (int rank = 0; rank < 3; ++rank) {
          for (uint64_t step = 1; step <= 9; ++step) {
            StepRecord record;
            ASSERT_TRUE(training.segment().rank(rank).steps.read(step - 1, record));
            // A delayed update is finished with its step only where an evaluation follows.
            const bool evaluated = training.run().schedule.images(static_cast<int64_t>(step)).evaluated;
            const uint64_t finished = staleness == 0 || evaluated ? step : step - 1;
            EXPECT_EQ(record.gradient_norm, finished == 0 ? 0 : serial.norms[finished - 1]) << step;
          }
        }
      }
    }
  }
}

void expect_same_bits_with_everything_at_once(const NetworkSpec& spec) {
  uint64_t expected = 0;
  for (const int workers : {1, 2, 3, 4}) {
    for (const char* algorithm : {"direct", "hierarchical"}) {
      TrainConfig config;
      config.accumulate = 12 / workers;
      config = resolved(config, workers);
      config.batch_size = 12;
      config.steps = 9;
      config.optimizer = "adamw";
      config.learning_rate = 0.01;
      config.weight_decay = 0.05;
      config.warmup = 4;
      config.clip = 0.5;
      config.augment = true;
      config.algorithm = algorithm;
      Training training(spec, config);
      ASSERT_EQ(training.train(), "");
      if (expected == 0) expected = training.checksum();
      EXPECT_EQ(training.checksum(), expected) << workers << " ranks, " << algorithm;
    }
  }
}

TEST(Training, with_everything_at_once_has_the_same_bits_on_any_number_of_ranks) {
  expect_same_bits_with_everything_at_once(tiny_cnn());
  expect_same_bits_with_everything_at_once(tiny_resnet());
}

// The data set is smaller than the batch, so that most shards are empty from the first step on.
TEST(Training, with_delay_and_empty_first_shards_has_the_bits_of_a_serial_run) {
  for (const int staleness : {0, 1}) {
    TrainConfig config = config_of(3, 48, 4);
    config.batch_size = 64;
    config.staleness = staleness;
    Training training(tiny_mlp(), config);
    ASSERT_EQ(training.run().schedule.images(1).count, 31);
    SerialRun serial(training);
    for (int64_t step = 1; step <= 4; ++step) serial.step(step);
    ASSERT_EQ(training.train(), "");
    EXPECT_EQ(training.checksum(), serial.checksum()) << "staleness " << staleness;
  }
}

TEST(Training, has_the_same_bits_on_any_number_of_ranks_with_equal_shards) {
  for (NetworkSpec (*const spec)() : {tiny_mlp, tiny_resnet}) {
    uint64_t expected = 0;
    for (const int workers : {1, 2, 3, 4}) {
      Training training(spec(), config_of(workers, 12, 9));
      ASSERT_EQ(training.train(), "");
      if (workers == 1) expected = training.checksum();
      EXPECT_EQ(training.checksum(), expected) << workers << " ranks, " << training.run().spec.name;
    }
  }
}

TEST(Training, in_portions_has_the_same_bits_on_any_number_of_ranks_with_equal_shards) {
  uint64_t expected = 0;
  for (const int workers : {1, 2, 3, 4}) {
    Training training(large_images(), config_of(workers, 5, 9));
    ASSERT_EQ(training.run().network.stages[0], (StagePlan{0, 2, 1}));
    ASSERT_EQ(training.run().network.batch, 3);
    ASSERT_EQ(training.train(), "");
    if (workers == 1) expected = training.checksum();
    EXPECT_EQ(training.checksum(), expected) << workers << " ranks";
  }
}

// Twelve portions in one shard, and one in each of twelve shards: the same sums in another order.
TEST(Training, in_portions_agrees_with_training_in_shards) {
  Training portions(large_images(), config_of(1, 1, 8)), shards(large_images(), config_of(1, 12, 8));
  ASSERT_EQ(portions.train(), "");
  ASSERT_EQ(shards.train(), "");
  const auto a = portions.weights(), b = shards.weights();
  for (std::size_t p = 0; p < a.size(); ++p) {
    for (std::size_t i = 0; i < a[p].size(); ++i) ASSERT_NEAR(a[p][i], b[p][i], 5e-6);
  }
}

TEST(Training, with_hierarchical_has_the_bits_of_direct) {
  TrainConfig config = config_of(4, 12, 9);
  Training direct(tiny_mlp(), config);
  ASSERT_EQ(direct.train(), "");
  config.algorithm = "hierarchical";
  for (const int domains : {1, 2, 4}) {
    Training hierarchical(tiny_mlp(), config, domains);
    ASSERT_EQ(hierarchical.train(), "");
    EXPECT_EQ(hierarchical.checksum(), direct.checksum()) << domains << " domains";
  }
}

TEST(Training, with_ring_has_the_same_bits_from_run_to_run) {
  TrainConfig config = config_of(3, 12, 9);
  config.algorithm = "ring";
  Training first(tiny_mlp(), config), second(tiny_mlp(), config);
  ASSERT_EQ(first.train(), "");
  ASSERT_EQ(second.train(), "");
  EXPECT_EQ(first.checksum(), second.checksum());
}

}  // namespace
}  // namespace annulus
