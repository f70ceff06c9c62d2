// Checkpoints that runs of the real command write: which, when, and what becomes of the run when they cannot
// be written.
#include <sys/mount.h>

#include <filesystem>

#include "tests/end_to_end/checkpointed_run.h"

namespace annulus {
namespace {

namespace fs = std::filesystem;

using CheckpointWriting = CheckpointedRun;

TEST_F(CheckpointWriting, CheckpointsAreWrittenAtTheStepsAskedForAndAtTheEnd) {
  const Ended end = run(with(kSpaced, {"--checkpoint-every", "12", "--keep", "9"}));
  EXPECT_EQ(checkpoints(), (Names{file_of(12), file_of(24), file_of(36), file_of(40)}));
  EXPECT_TRUE(contains(end.line("checkpoint "), "4 written, 0 failed, 0 left out")) << end.out;
  EXPECT_TRUE(contains(end.out, "run/checkpoints/" + file_of(40) + " (")) << end.out;
  expect_all_intact();
  const Ended shown = run_annulus({"checkpoint", "show", "run/checkpoints"}, scratch_.here());
  EXPECT_TRUE(contains(shown.out, "weights  xxh64=" + end.weights())) << shown.out;
  EXPECT_TRUE(contains(shown.out, "step     40, in epoch 10")) << shown.out;

  struct Case {
    Words flags;
    size_t keep;
    std::vector<int> due;
  };
  for (const auto& [flags, keep, due] :
       std::vector<Case>{{{"--checkpoint-epochs", "1"}, 9, {16, 32, 40}},
                         {{"--checkpoint-epochs", "2", "--checkpoint-every", "15"}, 9, {15, 30, 32, 40}},
                         {{"--checkpoint-every", "10"}, 2, {10, 20, 30, 40}},
                         {{"--checkpoint-every", "8"}, 1, {8, 16, 24, 32, 40}},
                         {{}, 3, {40}}}) {
    again();
    const Ended one = run(with(with(kRun, flags), {"--keep", std::to_string(keep)}));
    EXPECT_EQ(checkpoints(), expected_of(one, keep, due)) << one.out;
    expect_all_intact();
  }
}

TEST_F(CheckpointWriting, ARunDirectoryNeedNotBeUtf8) {
  const Ended end = run(with(kRun, {"--run-dir", "r\xfcn"}));
  EXPECT_EQ(checkpoints("r\xfcn"), Names{file_of(40)});
  EXPECT_TRUE(contains(end.line("checkpoint "), "1 written, 0 failed, 0 left out")) << end.out;
  EXPECT_TRUE(contains(end.out, "/checkpoints/" + file_of(40) + " (")) << end.out;
}

TEST_F(CheckpointWriting, CheckpointsAreWrittenEveryFewMinutes) {
  Command run(with(kEndless, {"--checkpoint-minutes", "0.01", "--keep", "99"}), scratch_.here());
  run.wait_until("three checkpoints", [&] { return checkpoints().size() >= 3; });
  kill(run.pid(), SIGINT);
  const Ended end = run.wait();
  EXPECT_EQ(end.code, 130) << end.out << end.err;
  expect_nothing_left(end);
  expect_all_intact();
}

TEST_F(CheckpointWriting, CheckpointsDoNotChangeTheWeights) {
  const std::string weights = run(with(kRun, {"--run-dir", "none"})).weights();
  EXPECT_EQ(run(with(kRun, {"--checkpoint-every", "1"})).weights(), weights);
}

TEST_F(CheckpointWriting, ASecondCtrlCLeavesWhatWasThere) {
  Command run(with(kEndless, {"--checkpoint-every", "10", "--keep", "2", "--batch-size", "1024"}),
              scratch_.here());
  wait_for_steps(run, 25);
  kill(run.pid(), SIGINT);
  kill(run.pid(), SIGINT);
  const Ended end = run.wait();
  EXPECT_EQ(end.code, 130);
  expect_nothing_left(end);
  expect_all_intact();
}

// Disks that fail.

// What a run says of checkpoints that failed: each, and their number.
void expect_failures(const Ended& end, const std::string& reason) {
  EXPECT_TRUE(contains(end.out, "warning: no checkpoint of step ")) << end.out;
  EXPECT_TRUE(contains(end.out, reason)) << end.out;
  EXPECT_TRUE(contains(end.out, "; training does not depend on it")) << end.out;
  EXPECT_FALSE(contains(end.line("checkpoint "), " 0 failed")) << end.out;
}

TEST_F(CheckpointWriting, ADiskThatIsFullCostsCheckpointsAndNotTheRun) {
  const fs::path disk = scratch_.path() / "disk";
  fs::create_directory(disk);
  if (mount("none", disk.c_str(), "tmpfs", 0, "size=6m") != 0) {
    GTEST_SKIP() << "SKIPPED: a file system cannot be mounted here";
  }
  const Words words = with(kShort, {"--checkpoint-every", "10", "--keep", "9", "--run-dir", "disk/run"});
  const Ended end = run_annulus(words, scratch_.here());
  EXPECT_EQ(end.code, 0) << end.err;
  EXPECT_EQ(end.weights(), undisturbed());
  expect_failures(end, "No space left on device; free space there, or choose another directory");
  expect_nothing_left(end);
  EXPECT_EQ(checkpoints("disk/run"), (Names{file_of(10), file_of(20)}));
  expect_all_intact("disk/run");
  // With room again it goes on.
  EXPECT_EQ(mount("none", disk.c_str(), "tmpfs", MS_REMOUNT, "size=60m"), 0);
  EXPECT_EQ(run({"train", "--resume", "disk/run"}).weights(), undisturbed());
  EXPECT_EQ(umount(disk.c_str()), 0);
}

TEST_F(CheckpointWriting, ADirectoryThatVanishesIsMadeAgain) {
  const Words words = with(kShort, {"--checkpoint-every", "10"});
  Command run(words, scratch_.here());
  if (!run.wait_until("a checkpoint", [&] { return checkpoints().count(file_of(20)) != 0; })) return;
  fs::rename(scratch_ / "run/checkpoints", scratch_ / "taken");
  const Ended end = run.wait();
  EXPECT_EQ(end.code, 0) << end.err;
  EXPECT_EQ(end.weights(), undisturbed());
  EXPECT_TRUE(checkpoints().count(file_of(80)) != 0);
  expect_all_intact();
}

// Root may write anywhere: what it cannot is a file where a directory should be.
TEST_F(CheckpointWriting, ADirectoryThatCannotBeWrittenCostsCheckpointsAndNotTheRun) {
  const Words words = with(kShort, {"--checkpoint-every", "10"});
  Command run(words, scratch_.here());
  if (!run.wait_until("a checkpoint", [&] { return checkpoints().count(file_of(20)) != 0; })) return;
  fs::rename(scratch_ / "run/checkpoints", scratch_ / "taken");
  write_file(scratch_ / "run/checkpoints", "");
  const Ended end = run.wait();
  EXPECT_EQ(end.code, 0) << end.err;
  EXPECT_EQ(end.weights(), undisturbed());
  expect_failures(end, "run/checkpoints");
  expect_nothing_left(end);
}

}  // namespace
}  // namespace annulus
