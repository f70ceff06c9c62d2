#include "telemetry/progress.h"

#include <gtest/gtest.h>

#include <cmath>

namespace annulus {
namespace {

constexpr int64_t kMs = 1'000'000;

// A step of `ms` milliseconds that begins at `begin_ms`: 60 % compute, 30 % exchange, 10 % waiting.
StepSummary step_at(uint64_t step, int64_t begin_ms, int64_t ms, int64_t images = 100) {
  return {.step = step,
          .begin_ns = begin_ms * kMs,
          .end_ns = (begin_ms + ms) * kMs,
          .compute_ns = 0.6 * ms * kMs,
          .comm_ns = 0.3 * ms * kMs,
          .sync_ns = 0.1 * ms * kMs,
          .hidden_ns = 0.2 * ms * kMs,
          .images = images,
          .loss = 0.43123};
}

TEST(Progress, line_has_epoch_step_loss_speed_times_and_what_is_left) {
  Progress progress(2345, 469);
  for (uint64_t step = 1; step <= 512; ++step) progress.add(step_at(step, 10 * (step - 1), 10));
  EXPECT_EQ(
      progress.line(),
      "epoch 2/5  step 512/2345  loss 0.4312  10,000 images/s  T_compute 6.00  T_comm 3.00  T_sync 1.00 "
      "ms  ETA 0:18");
}

// A step that sends so many bytes, with 4 ms on the way, 3 to encode and 2 to decode where they are `packed`.
StepSummary sending_step(uint64_t step, int64_t bytes, bool packed) {
  StepSummary summary = step_at(step, 10 * static_cast<int64_t>(step), 10);
  summary.wire = {.bytes = bytes, .link_ns = 4 * kMs, .cpu_ns = 7 * kMs};
  if (packed) summary.wire.encode_ns = 3 * kMs, summary.wire.decode_ns = 2 * kMs;
  return summary;
}

TEST(Progress, line_has_what_a_step_sends_to_other_hosts) {
  const auto line = [](double whole_bytes, int64_t bytes, bool packed) {
    Progress progress(20, 10, whole_bytes);
    for (uint64_t step = 1; step <= 3; ++step) progress.add(sending_step(step, bytes, packed));
    return progress.line();
  };
  const std::string before =
                        "epoch 1/2  step 3/20  loss 0.4312  10,000 images/s  T_compute 6.00  T_comm 3.00  "
                        "T_sync 1.00 ms  ",
                    after = "  ETA 0:00";
  EXPECT_EQ(line(4e6, 500'000, true),
            before + "wire 0.50 MB, 87.5 % less, 4.00 ms  encode 3.00  decode 2.00 ms" + after);
  EXPECT_EQ(line(4e6, 2'000'000, false), before + "wire 2.00 MB, 50.0 % less, 4.00 ms" + after);
  EXPECT_EQ(line(4e6, 5'000'000, true),
            before + "wire 5.00 MB, -25.0 % less, 4.00 ms  encode 3.00  decode 2.00 ms" + after);
  EXPECT_EQ(line(0, 4'001'000, false), before + "wire 4.00 MB, 4.00 ms" + after) << "nothing is compressed";
}

TEST(Progress, means_have_what_a_step_sends_to_other_hosts) {
  Progress progress(20, 10, 4e6);
  progress.add(sending_step(1, 900'000, true));
  progress.add(sending_step(2, 400'000, true));
  progress.add(sending_step(3, 200'000, true));
  EXPECT_EQ(progress.means().wire_bytes, 300'000);
  EXPECT_EQ(progress.means().wire_ms, 4);
  EXPECT_EQ(progress.means().encode_ms, 3);
  EXPECT_EQ(progress.means().decode_ms, 2);
}

TEST(WireSaved, is_the_share_of_whole_gradients_that_was_not_sent) {
  EXPECT_EQ(wire_saved(25, 100), 0.75);
  EXPECT_EQ(wire_saved(100, 100), 0);
  EXPECT_EQ(wire_saved(150, 100), -0.5);
  EXPECT_EQ(wire_saved(100, 0), 0) << "nothing is compressed";
}

TEST(Progress, line_grows_with_what_is_known) {
  Progress progress(20, 10);
  EXPECT_EQ(progress.line(), "epoch 1/2  step 0/20");
  progress.add(step_at(1, 0, 500));
  EXPECT_EQ(progress.line(), "epoch 1/2  step 1/20  loss 0.4312");
  progress.add(step_at(2, 500, 10));
  EXPECT_NE(progress.line().find("images/s"), std::string::npos);
}

TEST(Progress, the_last_step_of_an_epoch_belongs_to_it) {
  Progress progress(20, 10);
  progress.add(step_at(10, 0, 10));
  EXPECT_EQ(progress.line().substr(0, 22), "epoch 1/2  step 10/20 ");
  progress.add(step_at(11, 10, 10));
  EXPECT_EQ(progress.line().substr(0, 22), "epoch 2/2  step 11/20 ");
}

TEST(Progress, a_begun_epoch_counts_in_their_number) {
  EXPECT_EQ(Progress(21, 10).line(), "epoch 1/3  step 0/21");
}

TEST(Progress, a_loss_that_is_no_number_is_shown_as_such) {
  Progress progress(20, 10);
  StepSummary step = step_at(1, 0, 10);
  step.loss = std::nan("");
  progress.add(step);
  EXPECT_NE(progress.line().find("loss nan"), std::string::npos) << progress.line();
}

TEST(Progress, means_leave_the_first_step_out) {
  Progress progress(20, 10);
  progress.add(step_at(1, 0, 900));
  EXPECT_EQ(progress.means().step_ms, 0);
  progress.add(step_at(2, 900, 10));
  progress.add(step_at(3, 910, 30));
  const Progress::Means means = progress.means();
  EXPECT_DOUBLE_EQ(means.step_ms, 20);
  EXPECT_DOUBLE_EQ(means.compute_ms, 12);
  EXPECT_DOUBLE_EQ(means.comm_ms, 6);
  EXPECT_DOUBLE_EQ(means.sync_ms, 2);
  EXPECT_DOUBLE_EQ(means.hidden_ms, 4);
  EXPECT_DOUBLE_EQ(means.images_per_s, 200 / 0.040);
  EXPECT_EQ(progress.steps_done(), 3U);
  EXPECT_EQ(progress.images(), 300);
  EXPECT_EQ(progress.first_step_end_ns(), 900 * kMs);
}

TEST(Progress, an_evaluation_between_steps_is_not_counted) {
  Progress with(20, 10), without(20, 10);
  for (uint64_t step = 1; step <= 10; ++step) {
    without.add(step_at(step, 10 * step, 10));
    with.add(step_at(step, 10 * step + (step > 5 ? 5000 : 0), 10));
  }
  EXPECT_DOUBLE_EQ(with.means().images_per_s, without.means().images_per_s);
  EXPECT_EQ(with.line(), without.line());
}

TEST(Progress, steps_that_overlap_last_from_end_to_end) {
  // Ranks run ahead: the next step begins before the last rank has finished this one.
  Progress progress(20, 10);
  for (uint64_t step = 1; step <= 10; ++step) progress.add(step_at(step, 8 * step, 10));
  EXPECT_DOUBLE_EQ(progress.means().images_per_s, 100 / 0.008);
}

TEST(Progress, the_line_shows_the_last_seconds_and_the_means_the_whole_run) {
  Progress progress(4000, 4000);
  int64_t now = 0;
  for (uint64_t step = 1; step <= 3000; ++step) {
    const int64_t ms = step <= 1500 ? 40 : 10;
    progress.add(step_at(step, now, ms));
    now += ms;
  }
  EXPECT_NE(progress.line().find("  10,000 images/s  T_compute 6.00 "), std::string::npos) << progress.line();
  EXPECT_NE(progress.line().find("ETA 0:10"), std::string::npos) << progress.line();
  EXPECT_NEAR(progress.means().images_per_s, 4000, 10);
}

TEST(Progress, sums_of_a_moving_window_do_not_drift_below_zero) {
  // Means over three ranks are no whole numbers; what comes in must go out again.
  Progress progress(100'000, 100'000);
  int64_t now = 0;
  for (uint64_t step = 1; step <= 20'000; ++step) {
    StepSummary summary = step_at(step, now, 10);
    now += 10;
    summary.sync_ns = step <= 10'000 ? (1e6 + static_cast<double>(step % 7)) / 3 : 0;
    progress.add(summary);
  }
  EXPECT_NE(progress.line().find("T_sync 0.00 ms"), std::string::npos) << progress.line();
}

TEST(WithThousands, puts_a_comma_between_groups_of_three) {
  EXPECT_EQ(with_thousands(0), "0");
  EXPECT_EQ(with_thousands(999), "999");
  EXPECT_EQ(with_thousands(1000), "1,000");
  EXPECT_EQ(with_thousands(12345678), "12,345,678");
  EXPECT_EQ(with_thousands(100000), "100,000");
  EXPECT_EQ(with_thousands(-1), "-1");
  EXPECT_EQ(with_thousands(-100), "-100");
  EXPECT_EQ(with_thousands(-123456), "-123,456");
}

TEST(FormatDuration, has_minutes_and_seconds_and_hours_where_there_are_any) {
  EXPECT_EQ(format_duration(0), "0:00");
  EXPECT_EQ(format_duration(0.4), "0:00");
  EXPECT_EQ(format_duration(9.6), "0:10");
  EXPECT_EQ(format_duration(59.5), "1:00");
  EXPECT_EQ(format_duration(75.2), "1:15");
  EXPECT_EQ(format_duration(3599.6), "1:00:00");
  EXPECT_EQ(format_duration(3661), "1:01:01");
  EXPECT_EQ(format_duration(360000), "100:00:00");
}

}  // namespace
}  // namespace annulus
