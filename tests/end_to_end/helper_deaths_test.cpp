// kill -9 anything but a worker: loader, planner, scribe, launcher, writers of checkpoints. A run of the real
// command goes on as if nothing had been, or ends with the reason; no process is left.
#include <filesystem>

#include "tests/end_to_end/run_with_deaths.h"

namespace annulus {
namespace {

namespace fs = std::filesystem;

using HelperDeaths = RunWithDeaths;

TEST_F(HelperDeaths, AKilledLoaderIsStartedAgain) {
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

TEST_F(HelperDeaths, ALoaderKilledOnceMoreThanAllowedEndsTheRun) {
  Command run(with(kEndless, {"--dataset", "fashion-mnist", "--max-restarts", "0"}), scratch_.here());
  ASSERT_TRUE(run.wait_until("the loader", [&] { return run.process("annulus:load") != 0; }));
  run.signal("annulus:load", SIGKILL);
  expect_failure(run.wait(), 137, {"the loader", "signal 9", "Killed", "--max-restarts 0"});
  EXPECT_TRUE(scratch_.content().empty()) << ::testing::PrintToString(scratch_.content());
}

TEST_F(HelperDeaths, KillingThePlannerEndsTheCommandWithAMessage) {
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

TEST_F(HelperDeaths, AKilledScribeIsReplacedAndTellsOfEachStepOnce) {
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

TEST_F(HelperDeaths, AScribeKilledAgainAndAgainCostsTheRunFilesAndNotTheRun) {
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

TEST_F(HelperDeaths, KillingTheLauncherLeavesNoProcess) {
  Command run(kEndless, scratch_.here());
  wait_for_steps(run, 20);
  EXPECT_GE(run.processes().size(), 4u);  // launcher, two workers, scribe
  kill(run.pid(), SIGKILL);
  EXPECT_EQ(run.wait().code, 137);
  expect_no_process_left();
}

TEST_F(HelperDeaths, KillingTheLauncherWhileEverythingIsPausedLeavesNoProcess) {
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

TEST_F(HelperDeaths, KillingWritersCostsCheckpointsAndNotTheRun) {
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

TEST_F(HelperDeaths, AWriterThatStandsStillIsKilledAtTheDeadline) {
  Command run(with(kShort, {"--checkpoint-every", "10", "--deadline", "1"}), scratch_.here());
  run.wait_until("a writer that stands still",
                 [&] { return stands_still(run, run.process("annulus:save")); });
  const Ended end = run.wait();
  expect_undisturbed(end, undisturbed(), 0);
  EXPECT_TRUE(contains(end.out, "its writer made no progress for 1 s (--deadline) and was killed"))
      << end.out;
  EXPECT_TRUE(contains(end.line("checkpoint "), " 1 failed")) << end.out;
}

TEST_F(HelperDeaths, TheLastCheckpointMayTakeLong) {
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

}  // namespace
}  // namespace annulus
