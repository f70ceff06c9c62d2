// What workers leave alone while a checkpoint is made.
#include <gtest/gtest.h>

#include "runtime/worker.h"
#include "tests/runtime/training.h"

namespace annulus {
namespace {

// Staleness and communication thread.
class Held : public testing::TestWithParam<std::pair<int, const char*>> {};
INSTANTIATE_TEST_SUITE_P(AllWays, Held,
                         testing::Values(std::pair{0, "inline"}, std::pair{1, "inline"},
                                         std::pair{0, "sibling"}, std::pair{1, "sibling"}),
                         [](const auto& info) {
                           return fmt::format("staleness_{}_{}", info.param.first, info.param.second);
                         });

std::vector<float> state_of(const Training& training, uint32_t step) {
  const CheckpointState state = training.segment().state_after(step);
  std::vector<float> all;
  for (const float* array : {state.weights, state.moments[0], state.moments[1], state.previous}) {
    if (array != nullptr) all.insert(all.end(), array, array + training.run().buckets.elements);
  }
  return all;
}

TEST_P(Held, a_generation_is_overwritten_only_once_it_has_been_copied) {
  TrainConfig config = config_of(3, 3, 14);
  config.staleness = GetParam().first;
  config.comm_thread = GetParam().second;
  Training undisturbed(tiny_mlp(), config);
  ASSERT_EQ(undisturbed.train(), "");

  config.checkpoint_every = 4;
  Training training(tiny_mlp(), config);
  SegmentHeader& header = training.segment().header();
  const auto wait_for = [&](const auto& ready) {
    while (!ready() && header.wait.abort == 0) std::this_thread::yield();
  };
  std::thread writer([&] {
    for (const uint32_t step : {4U, 8U, 12U}) {
      wait_for([&] { return header.checkpoint_step == step; });
      wait_for([&] { return training.committed() != Versions::kNone && training.committed() >= step; });
      const std::vector<float> state = state_of(training, step);
      // All ranks can make one more step, and no rank can begin the update of the one after.
      wait_for([&] { return training.committed() == step + 1; });
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      EXPECT_EQ(training.committed(), step + 1);
      EXPECT_EQ(state_of(training, step), state);
      EXPECT_EQ(header.checkpoint_step, step);
      header.copied_step = step;
      training.segment().wake_all();
    }
  });
  ASSERT_EQ(training.train(), "");
  writer.join();
  EXPECT_EQ(training.committed(), 14U);
  EXPECT_EQ(training.checksum(), undisturbed.checksum());
}

TEST(Checkpoint, of_the_next_step_is_chosen_where_the_launcher_wants_one) {
  Training training(tiny_mlp(), config_of(2, 2, 1'000'000));
  SegmentHeader& header = training.segment().header();
  std::thread launcher([&] {
    while (training.segment().rank(1).steps.written() < 5) std::this_thread::yield();
    EXPECT_EQ(header.checkpoint_step, 0U);
    header.checkpoint_wanted = 1;
    while (header.checkpoint_step == 0) std::this_thread::yield();
    EXPECT_GE(header.checkpoint_step, 5U);
    header.copied_step = header.checkpoint_step.load();
    header.stop_requested = 1;
    training.segment().wake_all();
  });
  ASSERT_EQ(training.train(), "");
  launcher.join();
}

}  // namespace
}  // namespace annulus
