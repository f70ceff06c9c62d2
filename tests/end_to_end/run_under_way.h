// What tests have in common that do something to a run of the real command while it is under way.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <numeric>
#include <sstream>
#include <string>
#include <vector>

#include "tests/end_to_end/command.h"

namespace annulus {

using Words = std::vector<std::string>;

// A run that ends when it is told to.
inline const Words kEndless = {"train",  "--dataset", "synthetic", "--model",   "mlp",       "--workers", "2",
                               "--seed", "7",         "--steps",   "100000000", "--run-dir", "run"};
// Long enough for something to meet it in the middle.
inline const Words kShort = with(kEndless, {"--model", "simplecnn", "--steps", "80", "--batch-size", "64"});

// A run with these flags, and what its test is called.
struct Kind {
  const char* name;
  Words flags;
};

// For --model: a network with running statistics, which are state beside the weights.
inline const char* const kResidual = R"(layers:
  - conv: {out: 8, kernel: 3, stride: 2, padding: 1}
  - batch_norm: {relu: true}
  - residual: {relu: true, layers: [conv: {out: 8, kernel: 3, padding: 1}, batch_norm]}
  - linear: {out: classes}
)";

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// As /proc shows it; 0: the process has ended.
inline char state_of(const Command& run, pid_t pid) {
  for (const ProcessView& process : run.processes()) {
    if (process.pid == pid) return process.state;
  }
  return 0;
}

class RunUnderWay : public ::testing::Test {
 protected:
  // Steps that the run files tell of.
  int64_t steps_written() const {
    const std::string metrics = read_file(scratch_.path() / "run" / "metrics.jsonl");
    return std::count(metrics.begin(), metrics.end(), '\n');
  }

  bool wait_for_steps(Command& run, int64_t more) const {
    const int64_t before = steps_written();
    return run.wait_until(std::to_string(more) + " more steps",
                          [&] { return steps_written() >= before + more; });
  }

  // The steps of which a run's files tell, in their order.
  std::vector<int64_t> steps_told(const std::string& run_dir) const {
    std::istringstream lines(read_file(scratch_ / (run_dir + "/metrics.jsonl")));
    const std::string start = "{\"step\":";
    std::vector<int64_t> steps;
    for (std::string line; std::getline(lines, line);) {
      if (line.rfind(start, 0) == 0) steps.push_back(std::stoll(line.substr(start.size())));
    }
    return steps;
  }
  void expect_each_step_once(const std::string& run_dir, int64_t first, int64_t last) const {
    std::vector<int64_t> expected(last + 1 - first);
    std::iota(expected.begin(), expected.end(), first);
    EXPECT_EQ(steps_told(run_dir), expected) << run_dir;
  }

  // Makes room for another run.
  void again() { std::filesystem::remove_all(scratch_ / "run"); }

  // The weights of a run when nothing happens to it.
  static std::string weights_of(const Words& words) {
    return run_annulus(words, ScratchDirectory().here()).weights();
  }
  static const std::string& undisturbed() {
    static const std::string weights = weights_of(kShort);
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

  // No process, and no file that was to be renamed.
  void expect_nothing_left(const Ended& end) {
    for (const ProcessView& process : end.left) ADD_FAILURE() << process.name << " is left";
    for (const std::string& name : scratch_.content())
      EXPECT_FALSE(name.ends_with(".tmp")) << name << " is left";
  }

  ScratchDirectory scratch_;
};

}  // namespace annulus
