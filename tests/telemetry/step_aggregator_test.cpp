#include "telemetry/step_aggregator.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>

namespace annulus {
namespace {

constexpr int64_t kNat = 1 << 24;  // loss units

// The rings of a few ranks, and what an aggregator makes of them.
class Ranks {
 public:
  explicit Ranks(int count)
      : aggregator(
            count, [this](int rank) -> const StepRing& { return parts_[rank]->steps; },
            [this](int rank) -> const EvalRing& { return parts_[rank]->evaluations; }) {
    for (int rank = 0; rank < count; ++rank) parts_.push_back(std::make_unique<Part>());
  }
  void push(int rank, const StepRecord& record) { parts_[rank]->steps.push(record); }
  void push(int rank, const EvalRecord& record) { parts_[rank]->evaluations.push(record); }

  // Steps that this call has completed.
  std::vector<StepSummary> poll() {
    std::vector<StepSummary> steps;
    aggregator.poll([&](const StepSummary& step) { steps.push_back(step); },
                    [&](const EvalSummary& evaluation) { evaluations.push_back(evaluation); });
    return steps;
  }

 private:
  struct Part {
    StepRing steps;
    EvalRing evaluations;
  };
  std::vector<std::unique_ptr<Part>> parts_;

 public:
  StepAggregator aggregator;
  std::vector<EvalSummary> evaluations;
};

TEST(StepAggregator, puts_one_step_of_all_ranks_together) {
  Ranks ranks(2);
  ranks.push(
      0, StepRecord{.step = 1,
                    .begin_ns = 100,
                    .end_ns = 1000,
                    .compute_ns = 600,
                    .comm_ns = 200,
                    .sync_ns = 100,
                    .hidden_ns = 50,
                    .loss_units = 3 * kNat,
                    .images = 2,
                    .wire = {.bytes = 1000, .link_ns = 60, .cpu_ns = 40, .encode_ns = 8, .decode_ns = 4}});
  ranks.push(
      1, StepRecord{.step = 1,
                    .begin_ns = 90,
                    .end_ns = 990,
                    .compute_ns = 700,
                    .comm_ns = 150,
                    .sync_ns = 50,
                    .hidden_ns = 10,
                    .loss_units = 5 * kNat,
                    .images = 2,
                    .wire = {.bytes = 1001, .link_ns = 80, .cpu_ns = 41, .encode_ns = 9, .decode_ns = 5}});
  const std::vector<StepSummary> steps = ranks.poll();
  ASSERT_EQ(steps.size(), 1U);
  EXPECT_EQ(steps[0].step, 1U);
  EXPECT_EQ(steps[0].begin_ns, 90);
  EXPECT_EQ(steps[0].end_ns, 1000);
  EXPECT_EQ(steps[0].compute_ns, 650);
  EXPECT_EQ(steps[0].comm_ns, 175);
  EXPECT_EQ(steps[0].sync_ns, 75);
  EXPECT_EQ(steps[0].hidden_ns, 30);
  EXPECT_EQ(steps[0].images, 4);
  EXPECT_EQ(steps[0].loss, 2.0);
  EXPECT_EQ(steps[0].slowest_rank, 1);
  // Together; but their bytes were on the way at the same time.
  EXPECT_EQ(steps[0].wire,
            (WireUse{.bytes = 2001, .link_ns = 70, .cpu_ns = 81, .encode_ns = 17, .decode_ns = 9}));
}

TEST(StepAggregator, waits_for_late_ranks_and_reports_steps_in_order) {
  Ranks ranks(3);
  for (const uint64_t step : {1, 2}) ranks.push(2, StepRecord{.step = step, .images = 1});
  EXPECT_TRUE(ranks.poll().empty());
  for (const uint64_t step : {1, 2}) ranks.push(0, StepRecord{.step = step, .images = 1});
  EXPECT_TRUE(ranks.poll().empty());
  ranks.push(1, StepRecord{.step = 1, .images = 1});
  std::vector<StepSummary> steps = ranks.poll();
  ASSERT_EQ(steps.size(), 1U);
  EXPECT_EQ(steps[0].step, 1U);
  EXPECT_EQ(steps[0].images, 3);
  ranks.push(1, StepRecord{.step = 2, .images = 1});
  ranks.push(1, StepRecord{.step = 3, .images = 1});
  steps = ranks.poll();
  ASSERT_EQ(steps.size(), 1U);
  EXPECT_EQ(steps[0].step, 2U);
  EXPECT_TRUE(ranks.poll().empty());
}

TEST(StepAggregator, reports_several_steps_of_one_poll_in_order) {
  Ranks ranks(2);
  for (int rank = 0; rank < 2; ++rank) {
    for (uint64_t step = 1; step <= 5; ++step) ranks.push(rank, StepRecord{.step = step});
  }
  const std::vector<StepSummary> steps = ranks.poll();
  ASSERT_EQ(steps.size(), 5U);
  for (uint64_t i = 0; i < 5; ++i) EXPECT_EQ(steps[i].step, i + 1);
}

TEST(StepAggregator, counts_what_was_overwritten_and_drops_steps_that_can_never_be_whole) {
  Ranks ranks(2);
  const uint64_t lost = 100, all = StepRing::capacity() + lost;
  for (uint64_t step = 1; step <= all; ++step) ranks.push(0, StepRecord{.step = step, .images = 1});
  std::vector<StepSummary> steps = ranks.poll();  // too late for rank 0's first records
  EXPECT_TRUE(steps.empty());
  EXPECT_EQ(ranks.aggregator.lost(), lost);
  for (uint64_t step = 1; step <= all; ++step) {
    ranks.push(1, StepRecord{.step = step, .images = 1});
    if (step % 1000 != 0) continue;
    for (const StepSummary& summary : ranks.poll()) steps.push_back(summary);
  }
  for (const StepSummary& summary : ranks.poll()) steps.push_back(summary);
  EXPECT_EQ(ranks.aggregator.lost(), lost) << "rank 1 was read in time";
  ASSERT_EQ(steps.size(), StepRing::capacity());
  for (uint64_t i = 0; i < steps.size(); ++i) {
    EXPECT_EQ(steps[i].step, lost + 1 + i);
    EXPECT_EQ(steps[i].images, 2);
  }
}

TEST(StepAggregator, one_image_that_is_not_finite_makes_the_loss_no_number) {
  Ranks ranks(2);
  ranks.push(0, StepRecord{.step = 1, .loss_units = kNat, .images = 4});
  ranks.push(1, StepRecord{.step = 1, .loss_units = kNat, .images = 4, .not_finite = 1});
  ranks.push(0, StepRecord{.step = 2, .loss_units = kNat, .images = 4});
  ranks.push(1, StepRecord{.step = 2, .loss_units = kNat, .images = 4});
  const std::vector<StepSummary> steps = ranks.poll();
  ASSERT_EQ(steps.size(), 2U);
  EXPECT_TRUE(std::isnan(steps[0].loss));
  EXPECT_EQ(steps[1].loss, 0.25);
}

TEST(StepAggregator, a_step_without_images_has_no_loss) {
  Ranks ranks(1);
  ranks.push(0, StepRecord{.step = 1});
  const std::vector<StepSummary> steps = ranks.poll();
  ASSERT_EQ(steps.size(), 1U);
  EXPECT_TRUE(std::isnan(steps[0].loss));
}

TEST(StepAggregator, puts_one_evaluation_of_all_ranks_together) {
  Ranks ranks(2);
  ranks.push(1, EvalRecord{.epoch = 1, .step = 20, .loss_units = 6 * kNat, .correct = 9, .images = 12});
  ranks.poll();
  EXPECT_TRUE(ranks.evaluations.empty());
  ranks.push(0, EvalRecord{.epoch = 1, .step = 20, .loss_units = 4 * kNat, .correct = 6, .images = 8});
  ranks.poll();
  ASSERT_EQ(ranks.evaluations.size(), 1U);
  EXPECT_EQ(ranks.evaluations[0].epoch, 1U);
  EXPECT_EQ(ranks.evaluations[0].step, 20U);
  EXPECT_EQ(ranks.evaluations[0].images, 20);
  EXPECT_EQ(ranks.evaluations[0].accuracy, 0.75);
  EXPECT_EQ(ranks.evaluations[0].loss, 0.5);
}

TEST(StepAggregator, counts_a_step_that_was_done_again_once_and_as_it_was_done_last) {
  Ranks ranks(2);
  const auto record = [](uint64_t step, uint64_t attempt, int64_t nats) {
    return StepRecord{.step = step, .attempt = attempt, .loss_units = nats * kNat, .images = 1};
  };
  ranks.push(0, record(1, 1, 1));
  ranks.push(1, record(1, 1, 1));
  ranks.push(0, record(2, 1, 5));  // rank 1 dies in it
  EXPECT_EQ(ranks.poll().size(), 1U);
  ranks.push(1, record(2, 2, 3));
  EXPECT_TRUE(ranks.poll().empty());
  ranks.push(0, record(2, 2, 3));
  const std::vector<StepSummary> steps = ranks.poll();
  ASSERT_EQ(steps.size(), 1U);
  EXPECT_EQ(steps[0].step, 2U);
  EXPECT_EQ(steps[0].images, 2);
  EXPECT_DOUBLE_EQ(steps[0].loss, 3);
}

TEST(StepAggregator, forgets_what_an_earlier_attempt_has_left_of_a_step_even_when_it_is_read_late) {
  Ranks ranks(2);
  ranks.push(1, StepRecord{.step = 1, .attempt = 2, .loss_units = kNat, .images = 1});
  ranks.push(0, StepRecord{.step = 1, .attempt = 1, .loss_units = 9 * kNat, .images = 1});
  EXPECT_TRUE(ranks.poll().empty());
  ranks.push(0, StepRecord{.step = 1, .attempt = 2, .loss_units = kNat, .images = 1});
  const std::vector<StepSummary> steps = ranks.poll();
  ASSERT_EQ(steps.size(), 1U);
  EXPECT_DOUBLE_EQ(steps[0].loss, 1);
}

TEST(StepAggregator, tells_of_an_evaluation_that_was_made_again_once) {
  Ranks ranks(2);
  EXPECT_EQ(ranks.aggregator.evaluated_step(), 0U);
  for (const uint64_t attempt : {1, 2}) {
    for (int rank = 0; rank < 2; ++rank) {
      ranks.push(rank, EvalRecord{.epoch = 1, .attempt = attempt, .step = 10, .correct = 1, .images = 2});
    }
    ranks.poll();
  }
  EXPECT_EQ(ranks.evaluations.size(), 1U);
  EXPECT_EQ(ranks.aggregator.evaluated_step(), 10U);
}

}  // namespace
}  // namespace annulus
