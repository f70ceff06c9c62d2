#include "runtime/step_schedule.h"

#include <gtest/gtest.h>

#include <cmath>

#include "telemetry/error.h"

namespace annulus {
namespace {

TrainConfig config_of(int64_t batch, const std::string& last_batch, int64_t epochs) {
  TrainConfig config;
  config.batch_size = batch;
  config.last_batch = last_batch;
  config.epochs = epochs;
  return config;
}

TEST(StepSchedule, keep_ends_an_epoch_with_a_smaller_batch) {
  const StepSchedule schedule(config_of(30, "keep", 2), 100);
  EXPECT_EQ(schedule.steps_per_epoch(), 4);
  EXPECT_EQ(schedule.steps(), 8);
  EXPECT_EQ(schedule.epochs(), 2);
  const StepImages last = schedule.images(4), next = schedule.images(5);
  EXPECT_EQ(last.epoch, 0);
  EXPECT_EQ(last.begin, 90);
  EXPECT_EQ(last.count, 10);
  EXPECT_TRUE(last.ends_epoch);
  EXPECT_EQ(next.epoch, 1);
  EXPECT_EQ(next.begin, 0);
  EXPECT_EQ(next.count, 30);
  EXPECT_FALSE(next.ends_epoch);
}

TEST(StepSchedule, drop_leaves_the_rest_of_an_epoch_out) {
  const StepSchedule schedule(config_of(30, "drop", 3), 100);
  EXPECT_EQ(schedule.steps_per_epoch(), 3);
  EXPECT_EQ(schedule.steps(), 9);
  EXPECT_EQ(schedule.images(3).count, 30);
  EXPECT_TRUE(schedule.images(3).ends_epoch);
  EXPECT_EQ(schedule.images(4).epoch, 1);
}

TEST(StepSchedule, every_epoch_visits_every_place_once) {
  for (const int64_t images : {1, 7, 32, 33, 63, 64, 100}) {
    const StepSchedule schedule(config_of(32, "keep", 3), images);
    int64_t next = 0, epoch = 0;
    for (int64_t step = 1; step <= schedule.steps(); ++step) {
      const StepImages part = schedule.images(step);
      EXPECT_EQ(part.epoch, epoch);
      EXPECT_EQ(part.begin, next);
      EXPECT_GT(part.count, 0);
      next = part.begin + part.count;
      EXPECT_EQ(part.ends_epoch, next == images);
      if (part.ends_epoch) next = 0, ++epoch;
    }
    EXPECT_EQ(epoch, 3);
    EXPECT_EQ(next, 0);
  }
}

TEST(StepSchedule, steps_win_over_epochs_and_a_begun_epoch_counts) {
  TrainConfig config = config_of(30, "keep", 50);
  config.steps = 9;
  const StepSchedule schedule(config, 100);
  EXPECT_EQ(schedule.steps(), 9);
  EXPECT_EQ(schedule.epochs(), 3);
  EXPECT_EQ(schedule.images(9).epoch, 2);
}

TEST(StepSchedule, a_batch_larger_than_the_data_set_is_kept_as_it_is_or_refused) {
  const StepSchedule kept(config_of(128, "keep", 2), 100);
  EXPECT_EQ(kept.steps(), 2);
  EXPECT_EQ(kept.images(1).count, 100);
  try {
    StepSchedule(config_of(128, "drop", 2), 100);
    FAIL() << "not one whole batch";
  } catch (const UserError& error) {
    const std::string text = error.what();
    for (const char* word : {"--batch-size 128", "100 images", "--last-batch keep"}) {
      EXPECT_NE(text.find(word), std::string::npos) << text;
    }
  }
}

TEST(StepSchedule, refuses_more_steps_than_versions_can_count) {
  TrainConfig config = config_of(1, "keep", 1);
  config.steps = (int64_t{1} << 31) - 1;
  EXPECT_NO_THROW(StepSchedule(config, 100));
  config.steps = int64_t{1} << 31;
  EXPECT_THROW(StepSchedule(config, 100), UserError);
  config.steps.reset();
  config.epochs = int64_t{1} << 31;
  EXPECT_THROW(StepSchedule(config, 1), UserError);
}

TEST(StepSchedule, evaluates_every_so_many_epochs_and_at_the_end) {
  TrainConfig config = config_of(10, "keep", 7);
  const auto epochs = [&](int64_t every) {
    config.eval_every = every;
    const StepSchedule schedule(config, 25);  // 3 steps an epoch
    std::vector<int64_t> evaluated;
    for (int64_t step = 1; step <= schedule.steps(); ++step) {
      const StepImages images = schedule.images(step);
      if (!images.evaluated) continue;
      EXPECT_TRUE(images.ends_epoch || step == schedule.steps());
      evaluated.push_back(images.epoch + 1);
    }
    return evaluated;
  };
  EXPECT_EQ(epochs(1), (std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(epochs(3), (std::vector<int64_t>{3, 6, 7}));
  EXPECT_EQ(epochs(7), (std::vector<int64_t>{7}));
  EXPECT_EQ(epochs(0), (std::vector<int64_t>{7}));
  config.steps = 8;  // ends inside the third epoch
  EXPECT_EQ(epochs(2), (std::vector<int64_t>{2, 3}));
}

TEST(StepSchedule, constant_rate_stays) {
  TrainConfig config = config_of(10, "keep", 1);
  config.schedule = "constant";
  config.learning_rate = 0.02;
  const StepSchedule schedule(config, 100);
  for (int64_t step = 1; step <= 10; ++step) EXPECT_EQ(schedule.learning_rate(step), 0.02f);
}

TEST(StepSchedule, cosine_falls_from_the_rate_through_its_half_towards_zero) {
  TrainConfig config = config_of(10, "keep", 1);
  config.schedule = "cosine";
  config.learning_rate = 0.2;
  const StepSchedule schedule(config, 120);  // 12 steps
  EXPECT_FLOAT_EQ(schedule.learning_rate(1), 0.2f);
  EXPECT_FLOAT_EQ(schedule.learning_rate(5), 0.15f);  // a third done: (1 + cos 60 degrees) / 2
  EXPECT_FLOAT_EQ(schedule.learning_rate(7), 0.1f);
  EXPECT_FLOAT_EQ(schedule.learning_rate(9), 0.05f);
  EXPECT_NEAR(schedule.learning_rate(12), 0.1 * (1 - 0.9659258262890683), 1e-8);  // cos 165 degrees
  for (int64_t step = 2; step <= 12; ++step) {
    EXPECT_LT(schedule.learning_rate(step), schedule.learning_rate(step - 1));
  }
}

TEST(StepSchedule, warm_up_rises_evenly_to_the_rate_and_the_schedule_takes_over_there) {
  TrainConfig config = config_of(10, "keep", 1);
  config.learning_rate = 0.2;
  config.warmup = 4;
  config.schedule = "constant";
  const StepSchedule constant(config, 120);  // 12 steps
  config.schedule = "cosine";
  const StepSchedule cosine(config, 120);
  for (int64_t step = 1; step <= 4; ++step) {
    const auto expected = static_cast<float>(0.05 * static_cast<double>(step));
    EXPECT_FLOAT_EQ(constant.learning_rate(step), expected);
    EXPECT_FLOAT_EQ(cosine.learning_rate(step), expected);
  }
  for (int64_t step = 5; step <= 12; ++step) EXPECT_EQ(constant.learning_rate(step), 0.2f);
  EXPECT_FLOAT_EQ(cosine.learning_rate(5), 0.2f);
  EXPECT_FLOAT_EQ(cosine.learning_rate(7), 0.1f * (1 + 0.70710678f));  // 45 degrees
  EXPECT_FLOAT_EQ(cosine.learning_rate(9), 0.1f);  // half of the eight steps that are left
  EXPECT_FLOAT_EQ(cosine.learning_rate(11), 0.1f * (1 - 0.70710678f));
}

TEST(StepSchedule, warm_up_may_last_for_the_whole_run_but_not_longer) {
  TrainConfig config = config_of(10, "keep", 1);
  config.learning_rate = 0.2;
  config.warmup = 12;
  const StepSchedule schedule(config, 120);
  EXPECT_FLOAT_EQ(schedule.learning_rate(12), 0.2f);
  config.warmup = 13;
  const auto refusal = [&] {
    try {
      StepSchedule(config, 120);
    } catch (const UserError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(refusal(), "--warmup 13: longer than the run of 12 steps; give at most 12, or more --epochs");
  config.steps = 5;
  EXPECT_EQ(refusal(), "--warmup 13: longer than the run of 5 steps; give at most 5, or more --steps");
}

TEST(StepSchedule, step_drops_by_the_factor_after_every_so_many_epochs) {
  TrainConfig config = config_of(10, "keep", 7);
  config.schedule = "step";
  config.learning_rate = 0.8;
  config.decay_every = 2;
  config.decay_factor = 0.5;
  config.warmup = 3;
  const StepSchedule schedule(config, 45);  // 5 steps an epoch
  EXPECT_FLOAT_EQ(schedule.learning_rate(1), 0.8f / 3);
  EXPECT_EQ(schedule.learning_rate(4), 0.8f);
  EXPECT_EQ(schedule.learning_rate(10), 0.8f);
  EXPECT_EQ(schedule.learning_rate(11), 0.4f);
  EXPECT_EQ(schedule.learning_rate(20), 0.4f);
  EXPECT_EQ(schedule.learning_rate(21), 0.2f);
  EXPECT_EQ(schedule.learning_rate(31), 0.1f);
  EXPECT_EQ(schedule.learning_rate(35), 0.1f);
}

TEST(StepSchedule, step_drops_to_a_tenth_every_thirty_epochs_unless_told_otherwise) {
  TrainConfig config = config_of(10, "keep", 100);
  config.schedule = "step";
  config.learning_rate = 0.5;
  const StepSchedule schedule(config, 10);
  EXPECT_EQ(schedule.learning_rate(30), 0.5f);
  EXPECT_FLOAT_EQ(schedule.learning_rate(31), 0.05f);
  EXPECT_FLOAT_EQ(schedule.learning_rate(61), 0.005f);
  EXPECT_FLOAT_EQ(schedule.learning_rate(91), 0.0005f);
}

TEST(StepSchedule, the_share_that_is_sent_falls_by_one_factor_from_a_quarter_over_the_warm_up) {
  TrainConfig config = config_of(10, "keep", 4);
  config.ratio = 0.01;
  config.ratio_warmup = 2;
  const StepSchedule schedule(config, 50);  // 5 steps an epoch
  EXPECT_EQ(schedule.top_k(1).ratio, 0.25);
  EXPECT_DOUBLE_EQ(schedule.top_k(6).ratio, 0.05);
  for (int64_t step = 2; step <= 11; ++step) {
    EXPECT_NEAR(schedule.top_k(step).ratio / schedule.top_k(step - 1).ratio, std::pow(0.04, 0.1), 1e-12)
        << step;
  }
  EXPECT_EQ(schedule.top_k(11).ratio, 0.01);
  EXPECT_EQ(schedule.top_k(20).ratio, 0.01);

  config.ratio_warmup = 0;
  EXPECT_EQ(StepSchedule(config, 50).top_k(1).ratio, 0.01);
  config.ratio = 0.5;
  config.ratio_warmup = 2;
  EXPECT_EQ(StepSchedule(config, 50).top_k(1).ratio, 0.5);
}

TEST(StepSchedule, residuals_count_at_the_rate_of_the_step_that_they_are_from) {
  TrainConfig config = config_of(10, "keep", 2);
  config.schedule = "step";
  config.decay_every = 1;
  config.decay_factor = 0.25;
  config.warmup = 2;
  const StepSchedule schedule(config, 50);  // 5 steps an epoch
  EXPECT_EQ(schedule.top_k(1).residual_scale, 1);
  EXPECT_EQ(schedule.top_k(2).residual_scale, 0.5F);
  EXPECT_EQ(schedule.top_k(3).residual_scale, 1);
  EXPECT_EQ(schedule.top_k(6).residual_scale, 4);
  config.decay_factor = 1e-30;  // 4e-62 is 0 as a float
  config.epochs = 4;
  for (const int64_t step : {11, 12}) EXPECT_EQ(StepSchedule(config, 50).top_k(step).residual_scale, 1);
}

TEST(StepScheduleDeathTest, steps_count_from_one) {
  const StepSchedule schedule(config_of(10, "keep", 1), 100);
  EXPECT_DEATH(schedule.images(0), "step >= 1");
}

}  // namespace
}  // namespace annulus
