// kill -9 anything: a run of the real command goes on and ends with the weights of an undisturbed one, or,
// where it may not go on, says why and leaves a checkpoint from which it can.
#include <chrono>
#include <filesystem>
#include <regex>

#include "tests/end_to_end/run_under_way.h"

namespace annulus {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

// Steps of half a second, so that it can be known in which one a signal comes.
const Words kSlow = with(kShort, {"--batch-size", "2048", "--shards", "4", "--steps", "4"});

std::string name_of(int rank) { return "annulus:" + std::to_string(rank); }

void sleep_for_seconds(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

int64_t count(const std::string& text, const std::string& part) {
  int64_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

// That the run tells of, beside warnings of what may come.
int replacements(const Ended& end) { return static_cast<int>(count(end.out, " restarts in 1,000 steps)")); }

class Recovery : public RunUnderWay {
 protected:
  // The run has ended as if nothing had been, but says that `restarts` processes were replaced.
  void expect_undisturbed(const Ended& end, const std::string& weights, int restarts) {
    EXPECT_EQ(end.code, 0) << end.out << end.err;
    EXPECT_EQ(end.err, "");
    EXPECT_EQ(end.weights(), weights) << end.out;
    EXPECT_EQ(replacements(end), restarts) << end.out;
    if (restarts > 0) {
      EXPECT_EQ(end.line("restarts   ").rfind(std::to_string(restarts) + " process", 0), 0u) << end.out;
    }
    expect_nothing_left(end);
    expect_each_step_once();
  }

  // What was done again is told once.
  void expect_each_step_once() {
    const std::string metrics = read_file(scratch_ / "run/metrics.jsonl");
    int64_t step = 0;
    std::istringstream lines(metrics);
    for (std::string line; std::getline(lines, line);) {
      const std::string start = "{\"step\":";
      if (line.rfind(start, 0) != 0) continue;
      EXPECT_EQ(std::stoll(line.substr(start.size())), step + 1) << "after step " << step;
      step = std::stoll(line.substr(start.size()));
    }
    EXPECT_GT(step, 0);
  }

  // The warning about this process names rank, pid and signal, and where it had begun one, the step.
  static void expect_death_named(const Ended& end, int rank, pid_t pid, const std::string& signal,
                                 bool in_step) {
    const std::string pattern = fmt_pattern(rank, pid) + (in_step ? R"(, in step \d+, was)" : ".* was") +
                                " killed by signal " + signal;
    EXPECT_TRUE(std::regex_search(end.out, std::regex(pattern))) << pattern << "\n" << end.out;
  }
  static std::string fmt_pattern(int rank, pid_t pid) {
    return "warning: rank " + std::to_string(rank) + R"( \(pid )" + std::to_string(pid) + R"(\))";
  }

  void again() { fs::remove_all(scratch_ / "run"); }
};

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
        {fmt_pattern(rank, pid) +
             R"( has shown no sign of life for 1\.\d s in step \d+, .*; after 2 s \(--deadline\) it is repl)",
         fmt_pattern(rank, pid) +
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

// Helpers.

TEST_F(Recovery, AKilledLoaderIsStartedAgain) {
  const Words words = with(kShort, {"--dataset", "fashion-mnist", "--steps", "20"});
  const std::string weights = weights_of(words);
  for (const int deaths : {1, 3}) {
    again();
    Command run(words, scratch_.here());
    pid_t last = 0;
    for (int death = 0; death < deaths; ++death) {
      ASSERT_TRUE(run.wait_until("a loader", [&] {
        const pid_t loader = run.process("annulus:load");
        return loader != 0 && loader != last;
      }));
      last = run.signal("annulus:load", SIGKILL);
    }
    const Ended end = run.wait();
    expect_undisturbed(end, weights, deaths);
    EXPECT_TRUE(contains(end.out, "the loader was killed by signal 9 (Killed)")) << end.out;
  }
}

TEST_F(Recovery, ALoaderKilledOnceMoreThanAllowedEndsTheRun) {
  Command run(with(kEndless, {"--dataset", "fashion-mnist", "--max-restarts", "0"}), scratch_.here());
  ASSERT_TRUE(run.wait_until("the loader", [&] { return run.process("annulus:load") != 0; }));
  run.signal("annulus:load", SIGKILL);
  expect_failure(run.wait(), 137, {"the loader", "signal 9", "Killed", "--max-restarts 0"});
  EXPECT_TRUE(scratch_.content().empty()) << ::testing::PrintToString(scratch_.content());
}

TEST_F(Recovery, KillingThePlannerEndsTheCommandWithAMessage) {
  // It lives for milliseconds, so it takes a few runs to meet it.
  for (int attempt = 0; attempt < 200; ++attempt) {
    Command run(kEndless, scratch_.here());
    const auto planned = [&] { return !scratch_.content().empty(); };
    bool met = false;
    run.wait_until("the planner", [&] {
      const pid_t planner = run.process("annulus:plan");
      met = planner != 0 && kill(planner, SIGKILL) == 0;
      return met || planned();
    });
    // A planner that was done when the signal came leaves a run under way.
    if (met && run.wait_until("the end or a run", [&] { return run.process("annulus") == 0 || planned(); }) &&
        !planned()) {
      const Ended end = run.wait();
      expect_failure(end, 1, {"annulus:plan", "signal 9", "Killed", "dmesg"});
      EXPECT_TRUE(scratch_.content().empty()) << ::testing::PrintToString(scratch_.content());
      return;
    }
    kill(run.pid(), SIGKILL);
    run.wait();
    expect_no_process_left();
    fs::remove_all(scratch_ / "run");
  }
  FAIL() << "the planner was never met";
}

TEST_F(Recovery, AKilledScribeIsReplacedAndTellsOfEachStepOnce) {
  const Words words = with(kShort, {"--steps", "200"});
  const std::string weights = weights_of(words);
  Command run(words, scratch_.here());
  for (int death = 0; death < 3; ++death) {
    wait_for_steps(run, 8);
    run.signal("annulus:scribe", SIGKILL);
  }
  const Ended end = run.wait();
  expect_undisturbed(end, weights, 0);
  EXPECT_EQ(count(end.out, "warning: the scribe was killed by signal 9 (Killed): it is replaced"), 3)
      << end.out;
  EXPECT_TRUE(contains(read_file(scratch_ / "run/summary.json"), weights));
}

TEST_F(Recovery, AScribeKilledAgainAndAgainCostsTheRunFilesAndNotTheRun) {
  Command run(with(kShort, {"--steps", "400"}), scratch_.here());
  wait_for_steps(run, 5);
  pid_t last = 0;
  for (int death = 0; death < 4; ++death) {
    ASSERT_TRUE(run.wait_until("a scribe", [&] {
      const pid_t scribe = run.process("annulus:scribe");
      return scribe != 0 && scribe != last;
    }));
    last = run.signal("annulus:scribe", SIGKILL);
  }
  const Ended end = run.wait();
  EXPECT_EQ(end.code, 0) << end.err;
  EXPECT_TRUE(contains(end.out, "warning: the run files are incomplete: the scribe was killed by signal 9"))
      << end.out;
  expect_nothing_left(end);
}

TEST_F(Recovery, KillingTheLauncherLeavesNoProcess) {
  Command run(kEndless, scratch_.here());
  wait_for_steps(run, 20);
  EXPECT_GE(run.processes().size(), 4u);  // launcher, two workers, scribe
  kill(run.pid(), SIGKILL);
  EXPECT_EQ(run.wait().code, 137);
  expect_no_process_left();
}

TEST_F(Recovery, KillingTheLauncherWhileEverythingIsPausedLeavesNoProcess) {
  Command run(kEndless, scratch_.here());
  wait_for_steps(run, 20);
  kill(run.pid(), SIGTSTP);
  run.wait_until("the launcher to stop", [&] { return state_of(run, run.pid()) == 'T'; });
  kill(run.pid(), SIGKILL);
  EXPECT_EQ(run.wait().code, 137);
  expect_no_process_left();
}

// Checkpoint writers.

// Stops the process, if it is still there; true once it has come to a halt.
bool stands_still(const Command& run, pid_t pid) {
  return pid > 0 && kill(pid, SIGSTOP) == 0 && state_of(run, pid) == 'T';
}

TEST_F(Recovery, KillingWritersCostsCheckpointsAndNotTheRun) {
  const Words words = with(kShort, {"--steps", "200", "--checkpoint-every", "3", "--keep", "4"});
  const std::string weights = weights_of(words);
  Command run(words, scratch_.here());
  unsigned seed = 3;
  int killed = 0;
  while (killed < 15 && run.wait_until("a writer or the end", [&] {
    return run.process("annulus:save") != 0 || steps_written() > 190;
  }) && steps_written() <= 190) {
    sleep_for_seconds(rand_r(&seed) % 15 * 1e-3);
    const pid_t writer = run.process("annulus:save");
    if (writer > 0 && kill(writer, SIGKILL) == 0) ++killed;
    run.wait_until("its end", [&] { return run.process("annulus:save") != writer; });
  }
  const Ended end = run.wait();
  expect_undisturbed(end, weights, 0);
  EXPECT_GT(killed, 0);
  const int64_t failed =
      count(end.out, "its writer was killed by signal 9 (Killed); training does not depend on it");
  EXPECT_GT(failed, 0) << end.out;
  EXPECT_LE(failed, killed);
  EXPECT_TRUE(contains(end.line("checkpoint "), " " + std::to_string(failed) + " failed")) << end.out;
  const Ended verified = run_annulus({"checkpoint", "verify", "run/checkpoints"}, scratch_.here());
  EXPECT_EQ(verified.code, 0) << verified.out << verified.err;
  EXPECT_EQ(count(verified.out, ": ok, step "), 4) << verified.out;
}

TEST_F(Recovery, AWriterThatStandsStillIsKilledAtTheDeadline) {
  Command run(with(kShort, {"--checkpoint-every", "10", "--deadline", "1"}), scratch_.here());
  run.wait_until("a writer that stands still",
                 [&] { return stands_still(run, run.process("annulus:save")); });
  const Ended end = run.wait();
  expect_undisturbed(end, undisturbed(), 0);
  EXPECT_TRUE(contains(end.out, "its writer made no progress for 1 s (--deadline) and was killed"))
      << end.out;
  EXPECT_TRUE(contains(end.line("checkpoint "), " 1 failed")) << end.out;
}

TEST_F(Recovery, TheLastCheckpointMayTakeLong) {
  for (const Words& flags : {Words{}, Words{"--checkpoint-every", "30", "--keep", "9"}}) {
    // Its writer lives for milliseconds, so it may take a few runs to meet it.
    bool met = false;
    for (int attempt = 0; attempt < 20 && !met; ++attempt) {
      again();
      Command run(with(kShort, flags), scratch_.here());
      wait_for_steps(run, 70);
      pid_t writer = 0;
      run.wait_until("the last writer or the end", [&] {
        writer = run.process("annulus:0") == 0 ? run.process("annulus:save") : 0;
        met = stands_still(run, writer);
        return met || run.ended();
      });
      if (met) {
        sleep_for_seconds(0.5);
        kill(writer, SIGCONT);
      }
      const Ended end = run.wait();
      expect_undisturbed(end, undisturbed(), 0);
      EXPECT_FALSE(contains(end.out, "warning: ")) << end.out;
      EXPECT_TRUE(contains(end.line("checkpoint "), " 0 failed, 0 left out")) << end.out;
      for (const fs::directory_entry& entry : fs::directory_iterator(scratch_ / "run/checkpoints")) {
        const std::string name = entry.path().filename();
        const Ended shown = run_annulus({"checkpoint", "show", entry.path()}, scratch_.here());
        EXPECT_EQ(contains(shown.out, undisturbed()), name == "step-0000000080.safetensors") << name;
      }
    }
    EXPECT_TRUE(met) << "the last writer was never met";
  }
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

}  // namespace
}  // namespace annulus
