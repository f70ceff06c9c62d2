// Signals and stopped terminals: a run of the real command ends in order, says why, and leaves no process
// behind; or it goes on as if nothing had been. Deaths are the affair of recovery_test and
// helper_deaths_test.
#include <sys/resource.h>

#include <chrono>

#include "tests/end_to_end/run_under_way.h"

namespace annulus {
namespace {

using Signals = RunUnderWay;

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
