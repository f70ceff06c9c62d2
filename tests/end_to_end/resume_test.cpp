// --resume: a run of the real command that goes on has the weights of one that never stopped.
#include <chrono>
#include <filesystem>
#include <sstream>

#include "tests/end_to_end/checkpointed_run.h"

namespace annulus {
namespace {

namespace fs = std::filesystem;

class Resume : public CheckpointedRun {
 protected:
  // The one line that refuses the command.
  std::string refusal(const Words& words) {
    const std::vector<std::string> before = scratch_.content();
    const Ended end = run_annulus(words, scratch_.here());
    EXPECT_EQ(end.code, 2) << end.out << end.err;
    EXPECT_EQ(end.out, "");
    EXPECT_EQ(end.err.rfind("annulus: ", 0), 0u) << end.err;
    EXPECT_EQ(scratch_.content(), before);
    expect_nothing_left(end);
    return end.err;
  }
  std::string checkpoint(int step, const std::string& run_dir = "run") const {
    return scratch_ / (run_dir + "/checkpoints/" + file_of(step));
  }
  void flip_a_bit(const std::string& path) const {
    std::string bytes = read_file(path);
    bytes[bytes.size() / 2] ^= 4;
    write_file(path, bytes);
  }
  void cut(const std::string& path) { fs::resize_file(path, fs::file_size(path) / 2); }
  int64_t metrics_with(const std::string& word) const {
    std::istringstream lines(read_file(scratch_ / "run/metrics.jsonl"));
    int64_t count = 0;
    for (std::string line; std::getline(lines, line);) count += contains(line, word) ? 1 : 0;
    return count;
  }
  // A scribe that dies with its launcher has not told of the last moments before a checkpoint.
  void expect_no_step_twice(const std::string& run_dir) const {
    const std::vector<int64_t> steps = steps_told(run_dir);
    EXPECT_TRUE(std::adjacent_find(steps.begin(), steps.end(), std::greater_equal<>()) == steps.end())
        << ::testing::PrintToString(steps);
  }
};

class ResumeOf : public Resume, public ::testing::WithParamInterface<Kind> {};

INSTANTIATE_TEST_SUITE_P(
    Kinds, ResumeOf,
    ::testing::Values(Kind{"Sgd", {"--optimizer", "sgd"}}, Kind{"Momentum", {"--optimizer", "momentum"}},
                      Kind{"Nesterov", {"--optimizer", "nesterov"}}, Kind{"Adam", {"--optimizer", "adam"}},
                      Kind{"Adamw", {"--optimizer", "adamw"}}, Kind{"Bf16", {"--precision", "bf16"}},
                      Kind{"BatchNorm", {"--model", "net.yaml"}},
                      Kind{"Bf16BatchNorm", {"--model", "net.yaml", "--precision", "bf16"}},
                      Kind{"Staleness", {"--staleness", "1"}}, Kind{"Clip", {"--clip", "0.1"}},
                      Kind{"StalenessClipAdam", {"--staleness", "1", "--clip", "0.1", "--optimizer", "adam"}},
                      Kind{"TopK", {"--compress", "topk", "--compress-where", "all"}},
                      Kind{"TopKMomentumCorrection",
                           {"--compress", "topk", "--compress-where", "all", "--momentum-correction", "on",
                            "--optimizer", "nesterov", "--weight-decay", "0.001"}},
                      Kind{"BatchNormStaleness", {"--model", "net.yaml", "--staleness", "1"}},
                      Kind{"Schedule", {"--schedule", "step", "--decay-every", "1", "--warmup", "14"}},
                      Kind{"AugmentDrop",
                           {"--augment", "on", "--last-batch", "drop", "--batch-size", "500"}}),
    [](const auto& info) { return info.param.name; });

// From the middle of an epoch and from its end, on more and on fewer workers.
TEST_P(ResumeOf, AnyCheckpointOfARunLeadsToItsEnd) {
  if (contains(GetParam().name, "Bf16") && lacks_bf16()) {
    GTEST_SKIP() << "SKIPPED: this processor has no AVX-512";
  }
  write_file(scratch_ / "net.yaml", kResidual);
  const Words words = with(kRun, GetParam().flags);
  const std::string weights = run(with(words, {"--run-dir", "undisturbed"})).weights();
  const Ended whole = run(with(words, {"--checkpoint-every", "8", "--keep", "9"}));
  EXPECT_EQ(whole.weights(), weights);
  EXPECT_EQ(checkpoints(), expected_of(whole, 9, {8, 16, 24, 32, 40}));
  for (const auto& [step, workers] :
       std::vector<std::pair<int, std::string>>{{8, "1"}, {16, "2"}, {24, "4"}, {32, "1"}}) {
    if (checkpoints().count(file_of(step)) == 0) continue;
    const std::string run_dir = "from" + std::to_string(step);
    const Ended end =
        run({"train", "--resume", checkpoint(step), "--workers", workers, "--run-dir", run_dir});
    EXPECT_EQ(end.weights(), weights) << "from step " << step << " on " << workers << " workers\n" << end.out;
    expect_each_step_once(run_dir, step + 1, 40);
  }
}

struct Stop {
  const char* name;
  int signal, code;
};

class ResumeAfter : public Resume, public ::testing::WithParamInterface<Stop> {};

INSTANTIATE_TEST_SUITE_P(Signals, ResumeAfter,
                         ::testing::Values(Stop{"CtrlC", SIGINT, 130}, Stop{"Termination", SIGTERM, 143},
                                           Stop{"User", SIGUSR1, 138}, Stop{"Hangup", SIGHUP, 129},
                                           Stop{"LauncherKilled", SIGKILL, 137}),
                         [](const auto& info) { return info.param.name; });

// Twice in a row, in the same directory.
TEST_P(ResumeAfter, AStoppedRunGoesOnAsIfNothingHadBeen) {
  const Words words = with(kShort, {"--steps", "300", "--checkpoint-every", "7"});
  const std::string weights = weights_of(words);
  const bool killed = GetParam().signal == SIGKILL;
  for (int part = 0; part < 2; ++part) {
    Command run(part == 0 ? words : Words{"train", "--resume", "latest", "--run-dir", "run"},
                scratch_.here());
    // One more than there are already: those behind the checkpoint are taken away.
    if (!wait_for_steps(run, 20)) return;
    kill(run.pid(), GetParam().signal);
    const Ended end = run.wait();
    EXPECT_EQ(end.code, GetParam().code) << end.out << end.err;
    expect_no_process_left();
    if (killed) continue;
    expect_nothing_left(end);
    const std::string step =
        end.line("stopped by " + std::string(strsignal(GetParam().signal)) + " after step ");
    ASSERT_NE(step, "") << end.out;
    EXPECT_EQ(*checkpoints().rbegin(), file_of(std::stoi(step)));
    EXPECT_EQ(end.line("go on with "), "annulus train --resume run") << end.out;
    expect_each_step_once("run", 1, std::stoi(step));
  }
  const Ended end = run({"train", "--resume", "latest", "--run-dir", "run"});
  EXPECT_EQ(end.weights(), weights) << end.out;
  if (killed) {
    expect_no_step_twice("run");
  } else {
    expect_each_step_once("run", 1, 300);
  }
  EXPECT_TRUE(contains(read_file(scratch_ / "run/summary.json"), weights));
  expect_all_intact();
}

TEST_F(Resume, ALauncherKilledAtAnyMomentLeavesAnIntactCheckpoint) {
  const Words words = with(kShort, {"--steps", "600", "--checkpoint-every", "1", "--keep", "2"});
  const std::string weights = weights_of(words);
  unsigned seed = 11;
  Words next = words;
  for (int kills = 0; kills < 10; ++kills) {
    Command run(next, scratch_.here());
    if (!run.wait_until("a checkpoint", [&] { return !checkpoints().empty() && steps_written() > 0; }))
      return;
    std::this_thread::sleep_for(std::chrono::milliseconds(rand_r(&seed) % 300));
    kill(run.pid(), SIGKILL);
    run.wait();
    next = {"train", "--resume", "latest", "--run-dir", "run"};
  }
  const Ended end = run(next);
  EXPECT_EQ(end.weights(), weights) << end.out;
  EXPECT_FALSE(contains(end.out, "skipped")) << end.out;
  expect_no_step_twice("run");
  EXPECT_LE(checkpoints().size(), 2u);
  expect_all_intact();
}

TEST_F(Resume, LatestIsThatOfTheRunThatMadeOneLast) {
  for (const std::string& part : {std::string("first"), std::string("second")}) {
    run(with(kRun, {"--run-dir", "runs/" + part, "--steps", part == "first" ? "9" : "11"}));
  }
  const Ended end = run({"train", "--resume", "latest", "--steps", "14"});
  EXPECT_TRUE(contains(end.out, "runs/second/checkpoints/" + file_of(14))) << end.out;
  EXPECT_EQ(checkpoints("runs/second"), (Names{file_of(11), file_of(14)}));
  // Not without a word from another one.
  for (const int step : {11, 14}) flip_a_bit(checkpoint(step, "runs/second"));
  const Ended other = run({"train", "--resume", "latest", "--steps", "12"});
  EXPECT_TRUE(contains(other.out, "runs/second/checkpoints: none of its 2 checkpoints can be used"))
      << other.out;
  EXPECT_EQ(checkpoints("runs/first"), (Names{file_of(9), file_of(12)}));
}

TEST_F(Resume, ADirectoryIsMeantHoweverItIsWritten) {
  run(with(kRun, {"--steps", "3"}));
  int steps = 3;
  for (const std::string& name : {std::string("run"), std::string("./run/"), std::string("run/checkpoints/"),
                                  scratch_ / "run", std::string("run/../run/checkpoints")}) {
    const std::string next = std::to_string(++steps);
    const Ended end = run({"train", "--resume", name, "--steps", next});
    EXPECT_EQ(end.line("run files  "), "run") << name;
  }
  EXPECT_TRUE(checkpoints().count(file_of(steps)) != 0);
}

TEST_F(Resume, TheCheckpointHasItsOwnNetwork) {
  write_file(scratch_ / "net.yaml", kResidual);
  const Words words = with(kSpaced, {"--model", "net.yaml"});
  const std::string weights = run(with(words, {"--run-dir", "undisturbed"})).weights();
  run(with(words, {"--checkpoint-every", "10", "--keep", "9"}));
  fs::remove(scratch_ / "net.yaml");
  EXPECT_EQ(run({"train", "--resume", checkpoint(20), "--run-dir", "again"}).weights(), weights);
  // Nor is the run's copy needed, nor anything else of it.
  fs::copy(checkpoint(20), scratch_ / "kept.safetensors");
  fs::remove_all(scratch_ / "run");
  fs::remove_all(scratch_ / "again");
  const Ended end = run({"train", "--resume", "kept.safetensors", "--run-dir", "elsewhere"});
  EXPECT_EQ(end.weights(), weights);
  // And what that one leaves is enough again.
  EXPECT_EQ(run({"train", "--config", "elsewhere/config.yaml", "--run-dir", "repeated"}).weights(), weights);
}

TEST_F(Resume, FlagsOfTheCommandLineWinOverTheCheckpoint) {
  run(with(kRun, {"--steps", "10"}));
  const Ended end = run({"train", "--resume", "run", "--batch-size", "256", "--steps", "20", "--lr", "0.001",
                         "--quiet", "off"});
  EXPECT_TRUE(contains(end.out, "batch 256 in 4 shards")) << end.out;
  EXPECT_TRUE(contains(end.out, "lr 0.001, 20 steps")) << end.out;
  EXPECT_TRUE(contains(end.out, "goes on after step 10 from ")) << end.out;
  EXPECT_EQ(end.line("time ").find("for 10 steps after step 10, 2,560 images") == std::string::npos, false)
      << end.out;
  EXPECT_TRUE(contains(read_file(scratch_ / "run/config.yaml"), "batch-size: 256\n"));
  // Both ends of a part are evaluated, though with other batches both lie in epoch 1.
  EXPECT_EQ(metrics_with("test_loss"), 2);
}

TEST_F(Resume, ARunElsewhereLeavesTheFirstOneAlone) {
  const Words words = with(kSpaced, {"--checkpoint-every", "10", "--keep", "9"});
  const std::string weights = run(words).weights();
  const Names before = checkpoints();
  const std::string metrics = read_file(scratch_ / "run/metrics.jsonl");
  const Ended end = run({"train", "--resume", "run/checkpoints/" + file_of(20), "--run-dir", "elsewhere"});
  EXPECT_EQ(end.weights(), weights);
  EXPECT_FALSE(contains(end.out, "directory of its own")) << end.out;
  EXPECT_EQ(checkpoints(), before);
  EXPECT_EQ(read_file(scratch_ / "run/metrics.jsonl"), metrics);
  EXPECT_EQ(checkpoints("elsewhere"), (Names{file_of(30), file_of(40)}));
  expect_each_step_once("elsewhere", 21, 40);
}

TEST_F(Resume, FromAnOlderCheckpointARunGetsADirectoryOfItsOwn) {
  const std::string weights = run(with(kSpaced, {"--checkpoint-every", "10", "--keep", "9"})).weights();
  const Names before = checkpoints();
  const Ended end = run({"train", "--resume", "run/checkpoints/" + file_of(20)});
  EXPECT_TRUE(contains(end.out, "warning: run/checkpoints/" + file_of(20) +
                                    " is not the latest checkpoint of its run (" + file_of(40) +
                                    " is), so this run gets a directory of its own"))
      << end.out;
  EXPECT_EQ(end.weights(), weights);
  EXPECT_EQ(checkpoints(), before);
  EXPECT_TRUE(contains(end.line("run files  "), "runs/")) << end.out;
  // Who insists is refused.
  EXPECT_TRUE(contains(refusal({"train", "--resume", "run/checkpoints/" + file_of(20), "--run-dir", "run"}),
                       "--run-dir run: holds a run already"));
}

TEST_F(Resume, ADamagedCheckpointIsNamedAndTheOneBeforeItTaken) {
  const Words words = with(kSpaced, {"--checkpoint-every", "10", "--keep", "9"});
  const std::string weights = run(words).weights();
  flip_a_bit(checkpoint(40));
  cut(checkpoint(30));
  const Ended end = run({"train", "--resume", "latest", "--run-dir", "run"});
  for (const int step : {40, 30}) {
    EXPECT_TRUE(contains(end.out, "warning: skipped run/checkpoints/" + file_of(step) + ": ")) << end.out;
  }
  EXPECT_EQ(end.weights(), weights);
  expect_each_step_once("run", 1, 40);
  expect_all_intact();  // the damaged ones were written again

  // One that is named is that of the run, too, if only damaged ones are later.
  flip_a_bit(checkpoint(40));
  const Ended named = run({"train", "--resume", "run/checkpoints/" + file_of(30)});
  EXPECT_EQ(named.weights(), weights);
  EXPECT_FALSE(contains(named.out, "directory of its own")) << named.out;
  EXPECT_EQ(checkpoints().size(), 4u);
  expect_all_intact();
}

TEST_F(Resume, DamagedLaterCheckpointsDoNotPushIntactOnesOut) {
  run(with(kSpaced, {"--checkpoint-every", "10", "--keep", "9"}));
  for (const int step : {20, 30, 40}) flip_a_bit(checkpoint(step));
  run({"train", "--resume", "latest", "--run-dir", "run", "--steps", "15", "--keep", "2"});
  EXPECT_EQ(checkpoints(), (Names{file_of(10), file_of(15), file_of(20), file_of(30), file_of(40)}));
}

TEST_F(Resume, WithoutAnIntactCheckpointTheReasonIsClear) {
  run(with(kSpaced, {"--checkpoint-every", "20"}));
  flip_a_bit(checkpoint(40));
  cut(checkpoint(20));
  const std::string damaged = refusal({"train", "--resume", "latest", "--run-dir", "run"});
  for (const std::string& part : {std::string("none of its 2 checkpoints can be used"),
                                  file_of(40) + ": it is damaged", file_of(20) + ": "}) {
    EXPECT_TRUE(contains(damaged, part)) << part << "\n" << damaged;
  }
  EXPECT_TRUE(contains(refusal({"train", "--resume", "run/checkpoints/" + file_of(40)}), "it is damaged"));
  fs::remove_all(scratch_ / "run/checkpoints");
  EXPECT_TRUE(contains(refusal({"train", "--resume", "latest", "--run-dir", "run"}),
                       "--resume latest: run has no checkpoints; name"));
  EXPECT_TRUE(contains(refusal({"train", "--resume", "latest"}), "--resume latest: no run in "));
  fs::create_directory(scratch_ / "empty");
  EXPECT_TRUE(contains(refusal({"train", "--resume", "empty"}), "there is no checkpoint"));
  EXPECT_TRUE(
      contains(refusal({"train", "--resume", "lastest"}),
               "--resume lastest: there is no such file; give latest, a checkpoint or a run's directory"));
  EXPECT_TRUE(contains(refusal({"train", "--resume", "run/config.yaml"}), "run/config.yaml: "));
}

TEST_F(Resume, ARunThatIsDoneIsNotDoneAgain) {
  run(kRun);
  const std::string text = refusal({"train", "--resume", "run"});
  EXPECT_TRUE(
      contains(text, "is of step 40, and the run has 40 steps: nothing is left to do; give more --epochs"))
      << text;
  EXPECT_EQ(run({"train", "--resume", "run", "--steps", "42"}).code, 0);
}

TEST_F(Resume, WhatDoesNotFitIsNamed) {
  run(with(kRun, {"--steps", "10"}));
  const Words resumed = {"train", "--resume", "run", "--steps", "20"};
  for (const auto& [flag, value, before] :
       std::vector<std::array<std::string, 3>>{{"--model", "simplecnn", "mlp"},
                                               {"--optimizer", "adam", "momentum"},
                                               {"--optimizer", "sgd", "momentum"},
                                               {"--staleness", "1", "0"}}) {
    const std::string text = refusal(with(resumed, {flag, value}));
    EXPECT_TRUE(contains(text, "does not go with " + flag + " " + value + " (it is of a run with " + before +
                                   "); leave that out"))
        << text;
  }
  // This one has the same moments.
  run(with(resumed, {"--optimizer", "nesterov"}));
}

// The end of a Command's life is that of all others.
TEST_F(Resume, TwoRunsAtOnceInOneDirectoryAreRefused) {
  run(with(kRun, {"--steps", "3"}));
  const Words words = {"train", "--resume", "run", "--steps", "1000000"};
  Command first(words, scratch_.here());
  wait_for_steps(first, 5);
  Command second(words, scratch_.here());
  const Ended refused = second.wait();
  EXPECT_EQ(refused.code, 2) << refused.out;
  EXPECT_TRUE(contains(refused.err, ": a run is under way in it; wait until it has ended")) << refused.err;
  kill(first.pid(), SIGINT);
  const Ended end = first.wait();
  EXPECT_EQ(end.code, 130) << end.err;
  expect_nothing_left(end);
  expect_each_step_once("run", 1, std::stoi(end.line("stopped by Interrupt after step ")));
}

}  // namespace
}  // namespace annulus
