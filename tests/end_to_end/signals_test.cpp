// Signals, deaths and stopped terminals: a run of the real command ends in order, says why, and leaves no
// process behind; or it goes on as if nothing had been.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>

#include "tests/end_to_end/command.h"

namespace annulus {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using Words = std::vector<std::string>;

// A run that ends when it is told to.
const Words kEndless = {"train",  "--dataset", "synthetic", "--model",   "mlp",       "--workers", "2",
                        "--seed", "7",         "--steps",   "100000000", "--run-dir", "run"};
// Long enough for a signal to meet it in the middle.
const Words kShort = with(kEndless, {"--model", "simplecnn", "--steps", "80", "--batch-size", "64"});

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// As /proc shows it; 0: the process has ended.
char state_of(const Command& run, pid_t pid) {
  for (const ProcessView& process : run.processes()) {
    if (process.pid == pid) return process.state;
  }
  return 0;
}

class Signals : public ::testing::Test {
 protected:
  // Steps that the run files tell of.
  int64_t steps_written() const {
    const std::string metrics = read_file(scratch_.path() / "run" / "metrics.jsonl");
    return std::count(metrics.begin(), metrics.end(), '\n');
  }

  void wait_for_steps(Command& run, int64_t more) const {
    const int64_t before = steps_written();
    run.wait_until(std::to_string(more) + " more steps", [&] { return steps_written() >= before + more; });
  }

  // The weights of kShort when nothing happens to it.
  static const std::string& undisturbed() {
    static const std::string weights = run_annulus(kShort, ScratchDirectory().here()).weights();
    return weights;
  }

  // An end by a failure: no summary counts, but the reason does.
  void expect_failure(const Ended& end, int code, const Words& parts) {
    EXPECT_EQ(end.code, code) << end.out << end.err;
    EXPECT_EQ(end.err.rfind("annulus: ", 0), 0u) << end.err;
    for (const std::string& part : parts)
      EXPECT_TRUE(contains(end.err, part)) << part << " is not in: " << end.err;
    expect_nothing_left(end);
  }

  void expect_summary(const Ended& end) {
    EXPECT_EQ(end.weights().size(), 16u) << end.out << end.err;
    EXPECT_NE(end.line("time "), "") << end.out;
    EXPECT_NE(end.line("speed "), "") << end.out;
  }

  void expect_nothing_left(const Ended& end) {
    for (const ProcessView& process : end.left) ADD_FAILURE() << process.name << " is left";
  }

  // What a worker's death leaves behind is the last committed step: a run of as many has the same weights.
  void expect_death_leaves_a_whole_step(const Words& flags) {
    fs::remove_all(scratch_ / "run");
    const Words words = with(with(kEndless, {"--schedule", "constant", "--shards", "2"}), flags);
    Command run(words, scratch_.here());
    wait_for_steps(run, 20);
    run.signal("annulus:1", SIGKILL);
    const Ended end = run.wait();
    expect_failure(end, 137, {"rank 1", "signal 9", "step"});
    expect_summary(end);
    const std::string summary = read_file(scratch_ / "run/summary.json");
    const std::size_t at = summary.find("\"steps\": ");
    ASSERT_NE(at, std::string::npos) << summary;
    const std::string steps = std::to_string(std::stoll(summary.substr(at + 9)));
    const ScratchDirectory other;
    const Ended repeated = run_annulus(with(words, {"--workers", "1", "--steps", steps}), other.here());
    EXPECT_EQ(repeated.weights(), end.weights()) << steps << " steps";
  }

  ScratchDirectory scratch_;
};

TEST_F(Signals, CtrlCEndsTheRunWithTheSummarySoFar) {
  Command run(kEndless, scratch_.here());
  wait_for_steps(run, 20);
  kill(run.pid(), SIGINT);
  const Ended end = run.wait();
  EXPECT_EQ(end.code, 130) << end.err;
  EXPECT_NE(end.line("stopped by Interrupt after step "), "") << end.out;
  expect_summary(end);
  expect_nothing_left(end);
  // What was asked for is not lost: the files tell of every step of the summary.
  EXPECT_EQ(std::to_string(steps_written()), end.line("stopped by Interrupt after step "));
  EXPECT_TRUE(contains(read_file(scratch_ / "run/summary.json"), end.weights()));
}

TEST_F(Signals, TerminationEndsTheRunWithTheSummarySoFar) {
  Command run(kEndless, scratch_.here());
  wait_for_steps(run, 20);
  kill(run.pid(), SIGTERM);
  const Ended end = run.wait();
  EXPECT_EQ(end.code, 143) << end.err;
  EXPECT_NE(end.line("stopped by Terminated after step "), "") << end.out;
  expect_summary(end);
  expect_nothing_left(end);
}

TEST_F(Signals, AStoppedRunHasTheWeightsOfARunWithThatManySteps) {
  Words words = with(kEndless, {"--schedule", "constant"});
  Command run(words, scratch_.here());
  wait_for_steps(run, 20);
  kill(run.pid(), SIGINT);
  const Ended end = run.wait();
  const std::string steps = end.line("stopped by Interrupt after step ");
  ASSERT_NE(steps, "");
  const Ended again = run_annulus(with(words, {"--steps", steps, "--run-dir", "again"}), scratch_.here());
  EXPECT_EQ(again.weights(), end.weights());
}

TEST_F(Signals, ASecondCtrlCEndsTheRunAtOnce) {
  // Steps of minutes: the first one asks for the end of a step, which nobody wants to wait for.
  Command run({"train", "--dataset", "synthetic", "--workers", "2", "--batch-size", "2000000", "--shards",
               "20000", "--steps", "9"},
              scratch_.here());
  run.wait_until("worker 1",
                 [&] { return run.process("annulus:1") != 0 && run.process("annulus:load") == 0; });
  std::this_thread::sleep_for(std::chrono::seconds(1));  // into the first step
  kill(run.pid(), SIGINT);
  std::this_thread::sleep_for(std::chrono::milliseconds(700));
  EXPECT_NE(run.process("annulus:0"), 0) << "the step under way was given up";
  kill(run.pid(), SIGINT);
  const Ended end = run.wait();
  EXPECT_EQ(end.code, 130) << end.err;
  expect_nothing_left(end);
}

TEST_F(Signals, CtrlCWhileTheRunStartsLeavesNothing) {
  Command run(kEndless, scratch_.here());
  run.wait_until("the loader", [&] { return run.process("annulus:load") != 0; });
  kill(run.pid(), SIGINT);
  const Ended end = run.wait();
  EXPECT_EQ(end.code, 130) << end.err;
  expect_nothing_left(end);
}

TEST_F(Signals, AHangupUnderNohupIsIgnored) {
  CommandOptions nohup = scratch_.here();
  nohup.ignored_signals = {SIGHUP};
  Command run(kEndless, nohup);
  wait_for_steps(run, 5);
  kill(run.pid(), SIGHUP);
  wait_for_steps(run, 100);
  kill(run.pid(), SIGTERM);
  EXPECT_EQ(run.wait().code, 143);
}

TEST_F(Signals, CtrlZStopsAllProcessesAndFgGoesOnToTheSameWeights) {
  Command run(kShort, scratch_.here());
  wait_for_steps(run, 5);
  const pid_t workers[] = {run.process("annulus:0"), run.process("annulus:1")};
  const auto all_stopped = [&] {
    return state_of(run, run.pid()) == 'T' && state_of(run, workers[0]) == 'T' &&
           state_of(run, workers[1]) == 'T';
  };
  for (int pause = 0; pause < 2; ++pause) {
    kill(run.pid(), SIGTSTP);
    ASSERT_TRUE(run.wait_until("launcher and workers to stop", all_stopped));
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    EXPECT_TRUE(all_stopped());
    const int64_t steps = steps_written();  // by now the scribe has written what was done before
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    EXPECT_EQ(steps_written(), steps);
    kill(run.pid(), SIGCONT);
    run.wait_until("the launcher to go on", [&] { return !all_stopped(); });
  }
  const Ended end = run.wait();
  EXPECT_EQ(end.code, 0) << end.err;
  EXPECT_EQ(end.weights(), undisturbed());
  expect_nothing_left(end);
}

TEST_F(Signals, APauseLongerThanTheDeadlineIsForgiven) {
  Command run(with(kShort, {"--deadline", "2"}), scratch_.here());
  wait_for_steps(run, 5);
  kill(run.pid(), SIGTSTP);
  std::this_thread::sleep_for(std::chrono::seconds(3));
  kill(run.pid(), SIGCONT);
  const Ended end = run.wait();
  EXPECT_EQ(end.code, 0) << end.err;
}

TEST_F(Signals, KillingAWorkerEndsTheRunWithItsRankAndSignalNamed) {
  for (const char* rank : {"1", "0"}) {
    fs::remove_all(scratch_ / "run");
    Command run(with(kEndless, {"--workers", "3"}), scratch_.here());
    wait_for_steps(run, 20);
    const auto killed = Clock::now();
    const pid_t worker = run.signal(std::string("annulus:") + rank, SIGKILL);
    const Ended end = run.wait();
    const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - killed);
    RecordProperty(std::string("milliseconds_after_death_of_rank_") + rank, static_cast<int>(took.count()));
    expect_failure(
        end, 137,
        {std::string("rank ") + rank, "pid " + std::to_string(worker), "signal 9", "Killed", "step"});
    expect_summary(end);
  }
}

// It has a meeting inside each step.
TEST_F(Signals, KillingAWorkerOfAClippedRunLeavesTheCommittedStepWhole) {
  for (const char* staleness : {"0", "1"}) {
    expect_death_leaves_a_whole_step({"--clip", "0.1", "--staleness", staleness});
  }
}

// The running statistics of the committed step are as whole as its weights.
TEST_F(Signals, KillingAWorkerOfAResidualRunLeavesTheCommittedStepWhole) {
  write_file(scratch_ / "net.yaml", R"(layers:
  - conv: {out: 8, kernel: 3, stride: 2, padding: 1}
  - batch_norm: {relu: true}
  - residual: {relu: true, layers: [conv: {out: 8, kernel: 3, padding: 1}, batch_norm]}
  - linear: {out: classes}
)");
  expect_death_leaves_a_whole_step({"--model", scratch_ / "net.yaml"});
}

TEST_F(Signals, KillingAWorkerBeforeTheFirstStepEndsTheRun) {
  Command run(kEndless, scratch_.here());
  run.wait_until("worker 1", [&] { return run.process("annulus:1") != 0; });
  run.signal("annulus:1", SIGSEGV);
  expect_failure(run.wait(), 139, {"rank 1", "signal 11", "Segmentation fault"});
}

TEST_F(Signals, KillingTheLauncherLeavesNoProcess) {
  Command run(kEndless, scratch_.here());
  wait_for_steps(run, 20);
  EXPECT_GE(run.processes().size(), 4u);  // launcher, two workers, scribe
  kill(run.pid(), SIGKILL);
  EXPECT_EQ(run.wait().code, 137);
  expect_no_process_left();
}

TEST_F(Signals, KillingTheLauncherWhileEverythingIsPausedLeavesNoProcess) {
  Command run(kEndless, scratch_.here());
  wait_for_steps(run, 20);
  kill(run.pid(), SIGTSTP);
  run.wait_until("the launcher to stop", [&] { return state_of(run, run.pid()) == 'T'; });
  kill(run.pid(), SIGKILL);
  EXPECT_EQ(run.wait().code, 137);
  expect_no_process_left();
}

TEST_F(Signals, AWorkerThatStandsStillIsNamedAfterTheDeadline) {
  Command run(with(kEndless, {"--workers", "3", "--deadline", "1"}), scratch_.here());
  wait_for_steps(run, 20);
  const pid_t worker = run.signal("annulus:1", SIGSTOP);
  expect_failure(run.wait(), 1,
                 {"rank 1", "pid " + std::to_string(worker), "no sign of life", "step", "--deadline"});
}

TEST_F(Signals, KillingTheLoaderEndsTheRunWithAMessage) {
  Command run(with(kEndless, {"--dataset", "fashion-mnist"}), scratch_.here());
  ASSERT_TRUE(run.wait_until("the loader", [&] { return run.process("annulus:load") != 0; }));
  run.signal("annulus:load", SIGKILL);
  expect_failure(run.wait(), 137, {"the loader", "signal 9", "Killed", "dmesg"});
  EXPECT_TRUE(scratch_.content().empty()) << ::testing::PrintToString(scratch_.content());
}

TEST_F(Signals, KillingThePlannerEndsTheCommandWithAMessage) {
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

TEST_F(Signals, KillingTheScribeCostsTheRunFilesAndNotTheRun) {
  Command run(kShort, scratch_.here());
  wait_for_steps(run, 5);
  run.signal("annulus:scribe", SIGKILL);
  const Ended end = run.wait();
  EXPECT_EQ(end.code, 0) << end.err;
  EXPECT_EQ(end.weights(), undisturbed());
  EXPECT_TRUE(contains(end.out, "warning: the run files are incomplete: the scribe was killed by signal 9"))
      << end.out;
  expect_nothing_left(end);
}

TEST_F(Signals, AStdoutThatIsClosedDoesNotEndTheRun) {
  Command run(kShort, scratch_.here());
  run.wait_until("the first line", [&] { return contains(run.out(), "\n"); });
  run.close_stdout();
  const Ended end = run.wait();
  EXPECT_EQ(end.code, 0) << end.err;
  EXPECT_TRUE(contains(read_file(scratch_ / "run/summary.json"), undisturbed()));
  expect_nothing_left(end);
}

TEST_F(Signals, APipeThatNobodyReadsDoesNotStopTraining) {
  CommandOptions unread = scratch_.here();
  unread.reads = false;
  Command run(kEndless, unread);
  wait_for_steps(run, 20);
  wait_for_steps(run, 300);
  kill(run.pid(), SIGKILL);
  run.wait();
  expect_no_process_left();
}

TEST_F(Signals, KeysOnATerminalStopPauseAndEndTheRun) {
  CommandOptions terminal = scratch_.here();
  terminal.terminal = true;
  Command run(kEndless, terminal);
  wait_for_steps(run, 20);
  // Ctrl-S: the terminal takes no more output, the run goes on.
  run.type("\x13");
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  const std::string shown = run.out();
  wait_for_steps(run, 300);
  EXPECT_EQ(run.out(), shown);
  // Ctrl-Q: it shows again.
  run.type("\x11");
  run.wait_until("output after Ctrl-Q", [&] { return run.out().size() > shown.size() + 100; });
  // Ctrl-Z stops, SIGCONT (fg) goes on.
  run.type("\x1a");
  run.wait_until("the launcher to stop", [&] { return state_of(run, run.pid()) == 'T'; });
  kill(run.pid(), SIGCONT);
  wait_for_steps(run, 100);
  // Ctrl-C ends.
  run.type("\x03");
  const Ended end = run.wait();
  EXPECT_EQ(end.code, 130) << end.err;
  EXPECT_TRUE(contains(end.out, "weights xxh64=")) << end.out;
  expect_nothing_left(end);
}

TEST_F(Signals, ARunEndsThoughItsTerminalStaysStopped) {
  CommandOptions terminal = scratch_.here();
  terminal.terminal = true;
  Command run(kShort, terminal);
  run.wait_until("the first line", [&] { return contains(run.out(), "\n"); });
  run.type("\x13");
  const Ended end = run.wait();
  EXPECT_EQ(end.code, 0) << end.err;
  EXPECT_TRUE(contains(read_file(scratch_ / "run/summary.json"), undisturbed()));
  expect_nothing_left(end);
}

}  // namespace
}  // namespace annulus
