// kill -9 any worker: a run of the real command goes on and ends with the weights of an undisturbed one, or,
// where it may not go on, says why and leaves a checkpoint from which it can.
#include <filesystem>
#include <regex>

#include "tests/end_to_end/run_with_deaths.h"

namespace annulus {
namespace {

namespace fs = std::filesystem;

// Steps of half a second, so that it can be known in which one a signal comes.
const Words kSlow = with(kShort, {"--batch-size", "2048", "--shards", "4", "--steps", "4"});

std::string name_of(int rank) { return "annulus:" + std::to_string(rank); }

std::string warning_about(int rank, pid_t pid) {
  return "warning: rank " + std::to_string(rank) + R"( \(pid )" + std::to_string(pid) + R"(\))";
}

// The warning about this process names rank, pid and signal, and where it had begun one, the step.
void expect_death_named(const Ended& end, int rank, pid_t pid, const std::string& signal, bool in_step) {
  const std::string pattern = warning_about(rank, pid) + (in_step ? R"(, in step \d+, was)" : ".* was") +
                              " killed by signal " + signal;
  EXPECT_TRUE(std::regex_search(end.out, std::regex(pattern))) << pattern << "\n" << end.out;
}

using Recovery = RunWithDeaths;

TEST_F(Recovery, AWorkerKilledInTheMiddleIsReplaced) {
  const Words words = with(kShort, {"--workers", "3", "--shards", "6"});
  const std::string weights = weights_of(words);
  for (const int rank : {0, 1, 2}) {
    for (const auto& [signal, name] : {std::pair{SIGKILL, R"(9 \(Killed\), not by the out-of-memory killer)"},
                                       std::pair{SIGSEGV, R"(11 \(Segmentation fault\))"}}) {
      again();
      Command run(words, scratch_.here());
      wait_for_steps(run, 10);
      const pid_t pid = run.signal(name_of(rank), signal);
      const Ended end = run.wait();
      expect_undisturbed(end, weights, 1);
      expect_death_named(end, rank, pid, name, true);
      EXPECT_TRUE(contains(end.out, "1 of 3 restarts in 1,000 steps")) << end.out;
      EXPECT_EQ(end.line("restarts   "), "1 process was replaced");
    }
  }
}

TEST_F(Recovery, AWorkerKilledAsSoonAsItIsThereIsReplaced) {
  for (const int rank : {0, 1}) {
    again();
    Command run(kShort, scratch_.here());
    run.wait_until("the worker", [&] { return run.process(name_of(rank)) != 0; });
    const pid_t pid = run.signal(name_of(rank), SIGKILL);
    const Ended end = run.wait();
    expect_undisturbed(end, undisturbed(), 1);
    expect_death_named(end, rank, pid, "9", false);
  }
}

// At any moment of the start: kernels are made, weights drawn, data loaded.
TEST_F(Recovery, AWorkerKilledWhileTheRunStartsIsReplaced) {
  const Words words = with(kShort, {"--dataset", "fashion-mnist", "--steps", "20"});
  const std::string weights = weights_of(words);
  for (int milliseconds = 0; milliseconds < 300; milliseconds += 20) {
    again();
    Command run(words, scratch_.here());
    const int rank = milliseconds / 20 % 2;
    run.wait_until("the worker or the end", [&] { return run.process(name_of(rank)) != 0 || run.ended(); });
    sleep_for_seconds(milliseconds * 1e-3);
    if (run.process(name_of(rank)) == 0) break;
    run.signal(name_of(rank), SIGKILL);
    expect_undisturbed(run.wait(), weights, 1);
  }
}

TEST_F(Recovery, AWorkerKilledInTheLastStepIsReplaced) {
  const std::string weights = weights_of(kSlow);
  for (const int rank : {0, 1}) {
    again();
    Command run(kSlow, scratch_.here());
    wait_for_steps(run, 3);
    const pid_t pid = run.signal(name_of(rank), SIGKILL);
    const Ended end = run.wait();
    expect_undisturbed(end, weights, 1);
    expect_death_named(end, rank, pid, "9", true);
    EXPECT_TRUE(contains(end.out, "), in step 4, was killed")) << end.out;
  }
}

TEST_F(Recovery, AWorkerKilledInTheLastEvaluationIsReplaced) {
  const Words words = with(kShort, {"--dataset", "fashion-mnist", "--steps", "5"});
  const std::string weights = weights_of(words);
  Command run(words, scratch_.here());
  wait_for_steps(run, 5);
  run.signal("annulus:1", SIGKILL);
  const Ended end = run.wait();
  expect_undisturbed(end, weights, 1);
  EXPECT_EQ(count(end.out, "epoch 1: test accuracy"), 1) << end.out;
}

TEST_F(Recovery, DeathsInARowAndAtOnceLeaveTheWeightsAlone) {
  const Words words =
      with(kShort, {"--workers", "3", "--shards", "3", "--steps", "400", "--max-restarts", "100"});
  const std::string weights = weights_of(words);
  int restarts = 0;
  Command run(words, scratch_.here());
  for (const std::vector<int>& ranks :
       std::vector<std::vector<int>>{{0}, {1}, {2}, {0, 1}, {1, 2}, {0, 1, 2}}) {
    if (!wait_for_steps(run, 10)) return;
    for (const int rank : ranks) run.signal(name_of(rank), SIGKILL);
    restarts += static_cast<int>(ranks.size());
  }
  expect_undisturbed(run.wait(), weights, restarts);
}

// Whoever is forked may be killed at any moment, also while others are replaced.
TEST_F(Recovery, DeathsWithoutEndDoNotEndTheRun) {
  const Words words =
      with(kShort, {"--workers", "3", "--shards", "3", "--steps", "200", "--max-restarts", "1000"});
  const std::string weights = weights_of(words);
  Command run(words, scratch_.here());
  unsigned seed = 20;
  for (int death = 0; death < 60; ++death) {
    sleep_for_seconds(rand_r(&seed) % 40 * 1e-3);
    const pid_t worker = run.process(name_of(static_cast<int>(rand_r(&seed) % 3)));
    if (worker > 0) kill(worker, death % 2 == 0 ? SIGKILL : SIGSEGV);
  }
  const Ended end = run.wait();
  expect_undisturbed(end, weights, replacements(end));
  EXPECT_GT(replacements(end), 20);
}

TEST_F(Recovery, DeathsOfWorkersWhileCheckpointsAreWrittenLeaveBothWhole) {
  const Words words = with(kShort, {"--steps", "600", "--checkpoint-every", "2", "--max-restarts", "100"});
  const std::string weights = weights_of(words);
  Command run(words, scratch_.here());
  unsigned seed = 5;
  for (int death = 0; death < 8; ++death) {
    if (!wait_for_steps(run, 8)) return;
    sleep_for_seconds(rand_r(&seed) % 20 * 1e-3);
    run.signal(name_of(death % 2), SIGKILL);
  }
  const Ended end = run.wait();
  expect_undisturbed(end, weights, 8);
  const Ended verified = run_annulus({"checkpoint", "verify", "run/checkpoints"}, scratch_.here());
  EXPECT_EQ(verified.code, 0) << verified.out << verified.err;
}

class RecoveryOf : public Recovery, public ::testing::WithParamInterface<Kind> {};

// Norms are a meeting inside the step; running statistics are state beside the weights.
INSTANTIATE_TEST_SUITE_P(
    Kinds, RecoveryOf,
    ::testing::Values(Kind{"Clip", {"--clip", "0.1"}}, Kind{"Staleness", {"--staleness", "1"}},
                      Kind{"ClipAndStaleness", {"--clip", "0.1", "--staleness", "1"}},
                      Kind{"BatchNorm", {"--model", "net.yaml", "--steps", "600"}},
                      Kind{"Bf16", {"--precision", "bf16"}}, Kind{"Adamw", {"--optimizer", "adamw"}},
                      Kind{"Sgd", {"--optimizer", "sgd"}}, Kind{"Ring", {"--algorithm", "ring"}},
                      Kind{"CommThread", {"--comm-thread", "0"}}),
    [](const auto& info) { return info.param.name; });

TEST_P(RecoveryOf, ARunOfEachKindKeepsItsWeights) {
  if (contains(GetParam().name, "Bf16") && lacks_bf16()) {
    GTEST_SKIP() << "SKIPPED: this processor has no AVX-512";
  }
  write_file(scratch_ / "net.yaml", kResidual);
  const Words words = with(with(kShort, {"--steps", "160"}), GetParam().flags);
  const std::string weights =
      run_annulus(with(words, {"--run-dir", "undisturbed"}), scratch_.here()).weights();
  Command run(words, scratch_.here());
  for (const int rank : {1, 0}) {
    if (!wait_for_steps(run, 10)) return;
    run.signal(name_of(rank), SIGKILL);
  }
  expect_undisturbed(run.wait(), weights, 2);
}

TEST_F(Recovery, AWorkerThatStandsStillIsWarnedAboutAndReplaced) {
  for (const int rank : {0, 1}) {
    again();
    Command run(with(kShort, {"--deadline", "2"}), scratch_.here());
    wait_for_steps(run, 10);
    const pid_t pid = run.signal(name_of(rank), SIGSTOP);
    const Ended end = run.wait();
    expect_undisturbed(end, undisturbed(), 1);
    for (
        const std::string& pattern :
        {warning_about(rank, pid) +
             R"( has shown no sign of life for 1\.\d s in step \d+, .*; after 2 s \(--deadline\) it is repl)",
         warning_about(rank, pid) +
             R"(, in step \d+, has shown no sign of life for [2-9]\.\d s, .* was killed: )"}) {
      EXPECT_TRUE(std::regex_search(end.out, std::regex(pattern))) << pattern << "\n" << end.out;
    }
  }
}

TEST_F(Recovery, AWorkerThatStandsStillWhileTheRunStartsIsReplaced) {
  Command run(with(kShort, {"--deadline", "2"}), scratch_.here());
  run.wait_until("the worker", [&] { return run.process("annulus:1") != 0; });
  run.signal("annulus:1", SIGSTOP);
  expect_undisturbed(run.wait(), undisturbed(), 1);
}

TEST_F(Recovery, AWorkerThatGoesOnBeforeTheDeadlineIsNotReplaced) {
  Command run(with(kShort, {"--deadline", "4"}), scratch_.here());
  wait_for_steps(run, 10);
  const pid_t pid = run.signal("annulus:1", SIGSTOP);
  sleep_for_seconds(2);
  kill(pid, SIGCONT);
  const Ended end = run.wait();
  expect_undisturbed(end, undisturbed(), 0);
  EXPECT_TRUE(contains(end.out, "has shown no sign of life for 1.")) << end.out;
}

// Slow is not hung.

TEST_F(Recovery, FourTimesAsManyWorkersAsCoresAreSlowAndNotReplaced) {
  const Words words =
      with(kShort, {"--shards", "8", "--steps", "30", "--batch-size", "512", "--deadline", "2"});
  const std::string weights = weights_of(words);
  CommandOptions two_cores = scratch_.here();
  two_cores.cpus = {0, 1};
  const Ended end = run_annulus(with(words, {"--workers", "8"}), two_cores);
  expect_undisturbed(end, weights, 0);
  EXPECT_FALSE(contains(end.out, "no sign of life")) << end.out;
}

TEST_F(Recovery, APauseLongerThanTheDeadlineIsForgiven) {
  Command run(with(kShort, {"--deadline", "2"}), scratch_.here());
  wait_for_steps(run, 5);
  kill(run.pid(), SIGTSTP);
  run.wait_until("the launcher to stop", [&] { return state_of(run, run.pid()) == 'T'; });
  sleep_for_seconds(3);
  kill(run.pid(), SIGCONT);
  const Ended end = run.wait();
  expect_undisturbed(end, undisturbed(), 0);
  EXPECT_FALSE(contains(end.out, "no sign of life")) << end.out;
}

// Longer, too, than what workers would wait for each other.
TEST_F(Recovery, ALauncherThatStandsStillIsForgiven) {
  Command run(with(kShort, {"--deadline", "1"}), scratch_.here());
  wait_for_steps(run, 5);
  kill(run.pid(), SIGSTOP);
  run.wait_until("the launcher to stop", [&] { return state_of(run, run.pid()) == 'T'; });
  sleep_for_seconds(5);
  kill(run.pid(), SIGCONT);
  expect_undisturbed(run.wait(), undisturbed(), 0);
}

TEST_F(Recovery, ADeathWhileTheLauncherStandsStillIsMadeGoodWhenItGoesOn) {
  Command run(with(kShort, {"--deadline", "2"}), scratch_.here());
  wait_for_steps(run, 5);
  kill(run.pid(), SIGSTOP);
  run.wait_until("the launcher to stop", [&] { return state_of(run, run.pid()) == 'T'; });
  run.signal("annulus:1", SIGKILL);
  sleep_for_seconds(3);
  kill(run.pid(), SIGCONT);
  expect_undisturbed(run.wait(), undisturbed(), 1);
}

// The end of what may be replaced.

TEST_F(Recovery, RestartsThatAreUsedUpEndTheRunAndLeaveACheckpoint) {
  const Words words = with(kShort, {"--steps", "300", "--max-restarts", "2"});
  const std::string weights = weights_of(words);
  Command run(words, scratch_.here());
  pid_t last = 0;
  for (const int rank : {1, 0, 1}) {
    if (!wait_for_steps(run, 10)) return;
    last = run.signal(name_of(rank), SIGKILL);
  }
  const Ended end = run.wait();
  expect_failure(end, 137,
                 {"rank 1 (pid " + std::to_string(last) + "), in step ", "was killed by signal 9 (Killed)",
                  "2 restarts in 1,000 steps are used up", "raise --max-restarts"});
  expect_summary(end);
  EXPECT_EQ(replacements(end), 2) << end.out;
  EXPECT_EQ(end.line("go on with "), "annulus train --resume run");
  const Ended resumed = run_annulus({"train", "--resume", "latest", "--run-dir", "run"}, scratch_.here());
  expect_undisturbed(resumed, weights, 0);
}

// A limit in 1,000 steps, not of the run.
TEST_F(Recovery, RestartsLongAgoDoNotCount) {
  const Words words =
      with(kEndless, {"--batch-size", "16", "--steps", "3000", "--max-restarts", "1", "--quiet", "on"});
  Command run(words, scratch_.here());
  wait_for_steps(run, 5);
  run.signal("annulus:1", SIGKILL);
  wait_for_steps(run, 1500);
  run.signal("annulus:1", SIGKILL);
  const Ended end = run.wait();
  EXPECT_EQ(end.code, 0) << end.out << end.err;
  EXPECT_EQ(count(end.out, "(1 of 1 restarts in 1,000 steps)"), 2) << end.out;
}

TEST_F(Recovery, WithoutRestartsADeathEndsTheRunWithItsRankAndSignalNamed) {
  for (const int rank : {1, 0}) {
    again();
    Command run(with(kEndless, {"--workers", "3", "--max-restarts", "0"}), scratch_.here());
    wait_for_steps(run, 20);
    const pid_t pid = run.signal(name_of(rank), SIGKILL);
    const Ended end = run.wait();
    expect_failure(end, 137,
                   {"rank " + std::to_string(rank), "pid " + std::to_string(pid), "signal 9", "Killed",
                    "step", "--max-restarts 0"});
    expect_summary(end);
  }
}

TEST_F(Recovery, WithoutRestartsADeathBeforeTheFirstStepEndsTheRun) {
  Command run(with(kEndless, {"--max-restarts", "0"}), scratch_.here());
  run.wait_until("worker 1", [&] { return run.process("annulus:1") != 0; });
  run.signal("annulus:1", SIGSEGV);
  expect_failure(run.wait(), 139, {"rank 1", "signal 11", "Segmentation fault"});
  EXPECT_FALSE(fs::exists(scratch_ / "run/checkpoints")) << "of a run that has done nothing";
}

TEST_F(Recovery, WithoutRestartsAWorkerThatStandsStillEndsTheRun) {
  Command run(with(kEndless, {"--workers", "3", "--deadline", "1", "--max-restarts", "0"}), scratch_.here());
  wait_for_steps(run, 20);
  const pid_t worker = run.signal("annulus:1", SIGSTOP);
  expect_failure(run.wait(), 1,
                 {"rank 1", "pid " + std::to_string(worker), "no sign of life", "step", "--deadline"});
}

}  // namespace
}  // namespace annulus
