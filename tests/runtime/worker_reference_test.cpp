// Whole training runs against a reference that shares nothing with them.
#include <gtest/gtest.h>

#include "tests/runtime/reference_run.h"

namespace annulus {
namespace {

struct Case {
  const char* name;
  NetworkSpec (*spec)();
  int workers;
  int64_t shards;
  const char* optimizer;
  const char* algorithm;
  int domains = 1;
  const char* comm_thread = "inline";
};

class TrainingOf : public testing::TestWithParam<Case> {};

// Eight steps of single precision on weights and gradients around one: 2^-24 for each of some ten roundings
// in a row a step, and the rate keeps errors from growing. Central differences add 1e-9.
constexpr double kBound = 5e-6;
constexpr int kSteps = 8;

TEST_P(TrainingOf, follows_the_reference_in_weights_loss_and_accuracy) {
  TrainConfig config = config_of(GetParam().workers, GetParam().shards, kSteps);
  config.optimizer = GetParam().optimizer;
  // Adam divides by roots of squared gradients, which are far less exact where they are close to zero.
  if (uses_adam(config)) config.epsilon = 0.01;
  config.algorithm = GetParam().algorithm;
  config.comm_thread = GetParam().comm_thread;
  Training training(GetParam().spec(), config, GetParam().domains);
  Reference reference(training);
  ASSERT_GE(training.run().buckets.extents.size(), 2U);

  ASSERT_EQ(training.train(), "");
  ASSERT_EQ(training.committed(), static_cast<uint32_t>(kSteps));
  for (int64_t step = 1; step <= kSteps; ++step) reference.step(step);

  const auto weights = training.weights();
  double worst = 0, moved = 0;
  for (std::size_t p = 0; p < weights.size(); ++p) {
    for (std::size_t i = 0; i < weights[p].size(); ++i) {
      worst = std::max(worst, std::abs(weights[p][i] - reference.weights[p][i]));
      moved = std::max(moved, std::abs(reference.weights[p][i]));
    }
  }
  EXPECT_LT(worst, kBound) << "largest weight " << moved;

  for (int64_t step = 1; step <= kSteps; ++step) {
    LossSum sum;
    for (int rank = 0; rank < config.workers; ++rank) {
      StepRecord record;
      ASSERT_TRUE(training.segment().rank(rank).steps.read(step - 1, record));
      EXPECT_EQ(record.step, static_cast<uint64_t>(step));
      EXPECT_EQ(record.compute_ns + record.comm_ns + record.sync_ns, record.end_ns - record.begin_ns);
      EXPECT_GE(record.hidden_ns, 0);
      sum += {.loss_units = record.loss_units, .images = record.images, .not_finite = record.not_finite};
    }
    EXPECT_EQ(sum.images, training.run().schedule.images(step).count);
    EXPECT_NEAR(sum.mean_loss(), reference.losses[step - 1], kBound) << "step " << step;
  }

  LossSum tested;
  for (int rank = 0; rank < config.workers; ++rank) {
    // Epochs are three steps: two whole ones, and the one in which the run ends.
    ASSERT_EQ(training.segment().rank(rank).evaluations.written(), 3U);
    EvalRecord record;
    ASSERT_TRUE(training.segment().rank(rank).evaluations.read(2, record));
    EXPECT_EQ(record.epoch, 3U);
    EXPECT_EQ(record.step, static_cast<uint64_t>(kSteps));
    tested += {.loss_units = record.loss_units, .correct = record.correct, .images = record.images};
  }
  const auto [correct, loss] = reference.evaluate();
  EXPECT_EQ(tested.images, 17);
  EXPECT_EQ(tested.correct, correct);
  EXPECT_NEAR(tested.mean_loss(), loss, kBound);
}

INSTANTIATE_TEST_SUITE_P(
    AllWays, TrainingOf,
    testing::Values(Case{"mlp_one_rank", tiny_mlp, 1, 1, "momentum", "direct"},
                    Case{"mlp_one_rank_many_shards", tiny_mlp, 1, 5, "sgd", "direct"},
                    Case{"mlp_two_ranks", tiny_mlp, 2, 2, "nesterov", "direct"},
                    Case{"mlp_three_ranks_uneven_shards", tiny_mlp, 3, 7, "momentum", "direct"},
                    // The last batch of an epoch has 7 images: five of the twelve shards are empty.
                    Case{"mlp_three_ranks_empty_shards", tiny_mlp, 3, 12, "momentum", "direct"},
                    Case{"mlp_three_ranks_ring", tiny_mlp, 3, 7, "momentum", "ring"},
                    Case{"mlp_four_ranks_hierarchical", tiny_mlp, 4, 8, "momentum", "hierarchical", 2},
                    Case{"mlp_two_ranks_two_threads", tiny_mlp, 2, 4, "momentum", "direct", 1, "sibling"},
                    Case{"mlp_two_ranks_adam", tiny_mlp, 2, 4, "adam", "direct"},
                    Case{"mlp_three_ranks_adamw_ring", tiny_mlp, 3, 6, "adamw", "ring"},
                    Case{"cnn_one_rank", tiny_cnn, 1, 1, "momentum", "direct"},
                    Case{"cnn_three_ranks", tiny_cnn, 3, 3, "nesterov", "direct"},
                    Case{"resnet_one_rank", tiny_resnet, 1, 1, "momentum", "direct"},
                    Case{"resnet_two_ranks_many_shards", tiny_resnet, 2, 5, "momentum", "direct"},
                    Case{"resnet_three_ranks_empty_shards", tiny_resnet, 3, 12, "nesterov", "direct"},
                    Case{"resnet_three_ranks_ring", tiny_resnet, 3, 3, "sgd", "ring"},
                    Case{"resnet_two_ranks_adam", tiny_resnet, 2, 2, "adam", "direct"}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace annulus
