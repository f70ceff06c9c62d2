#include "runtime/run_plan.h"

#include <gtest/gtest.h>

#include "parameter_list.h"
#include "runtime/models.h"

namespace annulus {
namespace {

TEST(RunPlan, primitives_are_made_for_the_largest_shard_of_a_full_batch) {
  TrainConfig config;
  for (const auto& [batch, shards, expected] :
       {std::tuple{128, 2, 64}, {128, 3, 43}, {7, 7, 1}, {1, 1, 1}, {100, 12, 9}}) {
    config.batch_size = batch;
    config.shards = shards;
    EXPECT_EQ(nominal_shard(config), expected);
    for (int64_t shard = 0; shard < shards; ++shard) {
      EXPECT_LE(deal(shard, shards, batch).count(), nominal_shard(config));
    }
  }
}

TEST(RunPlan, optimizers_keep_none_one_or_two_moments) {
  TrainConfig config;
  for (const auto& [optimizer, moments] :
       {std::pair{"sgd", 0}, {"momentum", 1}, {"nesterov", 1}, {"adam", 2}, {"adamw", 2}}) {
    config.optimizer = optimizer;
    EXPECT_EQ(moment_arrays(config), moments) << optimizer;
  }
}

TEST(RunPlan, algorithms_go_by_their_names) {
  TrainConfig config;
  for (const auto& [name, algorithm] : {std::pair{"direct", Algorithm::kDirect},
                                        {"ring", Algorithm::kRing},
                                        {"hierarchical", Algorithm::kHierarchical}}) {
    config.algorithm = name;
    EXPECT_EQ(algorithm_of(config), algorithm) << name;
  }
}

TEST(RunPlan, the_segment_is_asked_for_with_the_runs_numbers) {
  TrainConfig config;
  config.workers = 3;
  config.shards = 12;
  config.algorithm = "hierarchical";
  config.optimizer = "sgd";
  const NetworkPlan network = network_of({{0, 1000}, {1, 10}});
  const RunPlan run{.config = config,
                    .dataset = describe_synthetic({1, 4, 4}, 10, 100, 10),
                    .spec = make_network("mlp", {1, 4, 4}, 10),
                    .network = network,
                    .buckets = plan_buckets(network, 1 << 20),
                    .schedule = StepSchedule(config, 1000),
                    .algorithm = algorithm_of(config),
                    .domains = {{0, 3}},
                    .waiting = {}};
  const SegmentInputs inputs = run.segment_inputs();
  EXPECT_EQ(inputs.ranks, 3);
  EXPECT_EQ(inputs.shards, 12);
  EXPECT_EQ(inputs.algorithm, Algorithm::kHierarchical);
  EXPECT_EQ(inputs.domains, run.domains);
  EXPECT_EQ(inputs.state_arrays, 1);
  EXPECT_EQ(inputs.buckets.elements, run.buckets.elements);
  EXPECT_EQ(inputs.dataset.train_count, 100);
  const ExchangePlan exchange = inputs.exchange();
  EXPECT_EQ(exchange.algorithm, Algorithm::kHierarchical);
  EXPECT_EQ(exchange.ranks, 3);
  EXPECT_EQ(exchange.shards, 12);
  EXPECT_EQ(exchange.buckets.size(), run.buckets.extents.size());
  EXPECT_EQ(exchange.domains, run.domains);
}

}  // namespace
}  // namespace annulus
