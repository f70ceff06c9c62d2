// Runs of the real command on several hosts: the bits of one box, and what becomes of the run when a worker,
// a host or a connection is lost.
#include <gtest/gtest.h>

#include <deque>
#include <set>
#include <sstream>

#include "tests/end_to_end/network_of_hosts.h"
#include "tests/end_to_end/run_with_deaths.h"

namespace annulus {
namespace {

const Words kBox = {"train", "--dataset",    "synthetic", "--model",   "mlp", "--seed",
                    "5",     "--batch-size", "128",       "--steps",   "60",  "--quiet",
                    "on",    "--lr",         "0.01",      "--run-dir", "run"};
const Words kRun = with(kBox, {"--hosts", "hosts"});
const Words kLong = with(kRun, {"--steps", "100000000"});
// Each host keeps what it has not sent, and the momentum of its own gradients.
const Words kTopK = with(kRun, {"--compress", "topk", "--ratio", "0.05", "--optimizer", "nesterov",
                                "--weight-decay", "0.001", "--shards", "4", "--model", "net.yaml"});
const Words kCorrected = with(kTopK, {"--momentum-correction", "on"});

class HostsRunTest : public OnHosts {
 protected:
  // Starts the command by hand on every host.
  void start(const Words& command, int count) {
    for (int host = 0; host < count; ++host) commands_.emplace_back(by_hand(command, host), on(host));
  }
  Command& host(int node) { return commands_[node]; }
  std::string run_dir(int node) const { return node == 0 ? "run" : "run/node-" + std::to_string(node); }

  bool wait_for_steps(int node, int64_t steps) {
    return host(node).wait_until(std::to_string(steps) + " steps", [&] {
      const std::string metrics = read_file(scratch_.path() / run_dir(node) / "metrics.jsonl");
      return std::count(metrics.begin(), metrics.end(), '\n') >= steps;
    });
  }
  std::string last_checkpoint(int node) const {
    std::string last;
    std::error_code none;
    for (const auto& entry :
         std::filesystem::directory_iterator(scratch_.path() / run_dir(node) / "checkpoints", none)) {
      last = std::max(last, entry.path().filename().string());
    }
    return last;
  }
  // The weights that all these hosts agree on.
  std::string weights_of_all(int count, int code = 0) {
    std::string weights;
    for (int node = 0; node < count; ++node) {
      const Ended end = host(node).wait();
      EXPECT_EQ(end.code, code) << node << ": " << end.out << end.err;
      if (node == 0) weights = end.weights();
      EXPECT_EQ(end.weights(), weights) << node << ": " << end.out << end.err;
    }
    EXPECT_EQ(weights.size(), 16u);
    return weights;
  }
  // On this box alone, from new weights. Not while the hosts run: its end ends all below the test.
  std::string weights_of_box(const Words& flags) {
    const ScratchDirectory scratch;
    return run_annulus(with(kBox, flags), scratch.here()).weights();
  }
  // All but `lost` end for this reason, at the same step.
  void expect_end(int count, int lost, const std::string& reason) {
    std::string weights;
    for (int node = 0; node < count; ++node) {
      if (node == lost) continue;
      const Ended end = host(node).wait();
      EXPECT_NE(end.code, 0) << end.out;
      EXPECT_EQ(std::count(end.err.begin(), end.err.end(), '\n'), 1) << "not one line: " << end.err;
      EXPECT_TRUE(contains(end.err, reason)) << end.err;
      if (weights.empty()) weights = end.weights();
      EXPECT_EQ(end.weights(), weights) << node;
      EXPECT_NE(last_checkpoint(node), "") << node;
    }
    EXPECT_EQ(weights.size(), 16u);
  }

  std::deque<Command> commands_;
};

TEST_F(HostsRunTest, BySshAndByHandTheBitsAreThoseOfOneBox) {
  make_hosts(2);
  if (IsSkipped()) return;
  const std::string box = weights_of_box({"--workers", "2"});
  const Ended ssh = run_annulus(kRun, on(0));
  EXPECT_EQ(ssh.code, 0) << ssh.out << ssh.err;
  EXPECT_EQ(ssh.weights(), box) << ssh.out;
  EXPECT_TRUE(contains(ssh.out, "hosts      2; this one is " + network_->name(0))) << ssh.out;
  start(with(kRun, {"--run-dir", "by_hand"}), 2);
  EXPECT_EQ(weights_of_all(2), box);
  expect_no_process_left();
}

TEST_F(HostsRunTest, SlotsAreWorkersAndShardsAreOfAllHosts) {
  make_hosts(2);
  if (IsSkipped()) return;
  write_file(scratch_ / "hosts", network_->hosts_file("slots=2"));
  const Ended end = run_annulus(with(kRun, {"--accumulate", "2"}), on(0));
  EXPECT_EQ(end.code, 0) << end.err;
  EXPECT_TRUE(contains(read_file(scratch_ / "run/config.yaml"), "shards: 8")) << end.out;
  EXPECT_EQ(end.weights(), weights_of_box({"--workers", "2", "--shards", "8"}));
}

TEST_F(HostsRunTest, ALostWorkerHealsAndTheOthersNoticeAPause) {
  make_hosts(3);
  if (IsSkipped()) return;
  start(with(kRun, {"--steps", "200"}), 3);
  ASSERT_TRUE(wait_for_steps(1, 20));
  host(1).signal("annulus:0", SIGKILL);
  ASSERT_TRUE(wait_for_steps(0, 60));
  host(0).signal("annulus:0", SIGSEGV);
  host(2).signal("annulus:0", SIGKILL);
  const std::string weights = weights_of_all(3);
  commands_.clear();
  start(with(kRun, {"--steps", "200", "--run-dir", "undisturbed"}), 3);
  EXPECT_EQ(weights_of_all(3), weights);
  const std::string said = read_file(scratch_ / "run/summary.json");
  EXPECT_TRUE(contains(said, "\"restarts\": 1")) << said;
}

TEST_F(HostsRunTest, TopKWithMomentumCorrectionHasTheSameBitsForAnyNumberOfWorkers) {
  make_hosts(2);
  if (IsSkipped()) return;
  write_file(scratch_ / "net.yaml", kResidual);
  std::set<std::string> weights;
  for (const char* const slots : {"slots=1", "slots=2"}) {
    write_file(scratch_ / "hosts", network_->hosts_file(slots));
    commands_.clear();
    start(with(kCorrected, {"--run-dir", std::string("run/") + slots}), 2);
    weights.insert(weights_of_all(2));
  }
  EXPECT_EQ(weights.size(), 1u);
  // The other way round: what should make a difference does.
  for (const Words& other : {kTopK, with(kCorrected, {"--optimizer", "momentum"})}) {
    commands_.clear();
    start(with(other, {"--run-dir", "run/" + std::to_string(weights.size())}), 2);
    weights.insert(weights_of_all(2));
  }
  EXPECT_EQ(weights.size(), 3u);
}

// Momentum is linear: of gradients that are sent whole it is the same before the sum as after it, but for
// rounding.
TEST_F(HostsRunTest, MomentumCorrectionOfWholeGradientsIsTheOptimizersMomentum) {
  make_hosts(2);
  if (IsSkipped()) return;
  write_file(scratch_ / "net.yaml", kResidual);
  for (const char* const optimizer : {"momentum", "nesterov"}) {
    std::vector<double> losses[2];
    for (const char* const correction : {"off", "on"}) {
      const std::string directory = std::string("run/") + optimizer + correction;
      commands_.clear();
      start(with(kTopK, {"--ratio", "1", "--optimizer", optimizer, "--momentum-correction", correction,
                         "--run-dir", directory}),
            2);
      weights_of_all(2);
      std::istringstream lines(read_file(scratch_ / (directory + "/metrics.jsonl")));
      for (std::string line; std::getline(lines, line);) {
        const std::string key = "\"loss\":";
        const size_t at = line.find(key);
        if (at != line.npos)
          losses[correction == std::string("on")].push_back(std::stod(line.substr(at + key.size())));
      }
    }
    ASSERT_EQ(losses[0].size(), 60u);
    ASSERT_EQ(losses[1].size(), 60u);
    for (int step = 0; step < 60; ++step) {
      ASSERT_NEAR(losses[0][step], losses[1][step], 1e-3) << optimizer << ", step " << step + 1;
    }
    EXPECT_NE(losses[0], losses[1]) << "nothing is corrected";
  }
}

TEST_F(HostsRunTest, TopKWithMomentumCorrectionHealsAndGoesOnWithTheSameBits) {
  make_hosts(2);
  if (IsSkipped()) return;
  write_file(scratch_ / "net.yaml", kResidual);
  write_file(scratch_ / "hosts", network_->hosts_file("slots=2"));
  const Words run = with(kCorrected, {"--steps", "300", "--max-restarts", "20"});
  start(with(run, {"--run-dir", "undisturbed"}), 2);
  const std::string undisturbed = weights_of_all(2);
  commands_.clear();
  // Workers die on both hosts, then the run is stopped, and goes on from each host's own checkpoint.
  start(run, 2);
  for (int death = 0; death < 6; ++death) {
    ASSERT_TRUE(wait_for_steps(0, 20 * (death + 1)));
    host(death % 2).signal(death % 4 < 2 ? "annulus:0" : "annulus:1", SIGKILL);
  }
  ASSERT_TRUE(wait_for_steps(0, 150));
  kill(host(1).pid(), SIGINT);
  weights_of_all(2, 130);
  EXPECT_TRUE(contains(read_file(scratch_ / "run/summary.json"), "\"restarts\": "));
  EXPECT_FALSE(contains(read_file(scratch_ / "run/summary.json"), "\"restarts\": 0"));
  const std::string stopped = "copy/checkpoints/" + last_checkpoint(0);
  std::filesystem::copy(scratch_ / "run", scratch_ / "copy", std::filesystem::copy_options::recursive);
  for (const Words& from :
       {Words{"--resume", "latest", "--run-dir", "run"}, Words{"--resume", stopped, "--run-dir", "named"}}) {
    SCOPED_TRACE(from[1]);
    commands_.clear();
    start(with({"train", "--hosts", "hosts", "--quiet", "on"}, from), 2);
    EXPECT_EQ(weights_of_all(2), undisturbed);
  }
}

TEST_F(HostsRunTest, AHungWorkerIsReplaced) {
  make_hosts(2);
  if (IsSkipped()) return;
  const std::string box = weights_of_box({"--workers", "2", "--steps", "100"});
  start(with(kRun, {"--steps", "100", "--deadline", "2"}), 2);
  ASSERT_TRUE(wait_for_steps(1, 20));
  host(1).signal("annulus:0", SIGSTOP);
  EXPECT_EQ(weights_of_all(2), box);
  EXPECT_TRUE(contains(host(0).out(), "host " + network_->name(1) + ": rank 0")) << host(0).out();
}

TEST_F(HostsRunTest, OneDeathTooManyEndsTheRunOnAllHostsAtTheSameStep) {
  make_hosts(2);
  if (IsSkipped()) return;
  start(with(kLong, {"--max-restarts", "0"}), 2);
  ASSERT_TRUE(wait_for_steps(1, 20));
  host(1).signal("annulus:0", SIGKILL);
  expect_end(2, -1, "rank 0");
  EXPECT_TRUE(contains(host(0).err(), "host " + network_->name(1) + ": rank 0")) << host(0).err();
}

TEST_F(HostsRunTest, ACtrlCOnAnyHostStopsAllAtTheSameStepAndResumeGoesOn) {
  make_hosts(2);
  if (IsSkipped()) return;
  const Words run = with(kRun, {"--steps", "400"});
  start(run, 2);
  ASSERT_TRUE(wait_for_steps(1, 20));
  kill(host(1).pid(), SIGINT);
  weights_of_all(2, 130);
  EXPECT_EQ(last_checkpoint(0), last_checkpoint(1));
  commands_.clear();
  std::filesystem::copy(scratch_ / "run", scratch_ / "copy", std::filesystem::copy_options::recursive);

  const std::string whole = weights_of_box({"--workers", "2", "--steps", "400"});
  start({"train", "--hosts", "hosts", "--resume", "latest", "--run-dir", "run", "--quiet"}, 2);
  EXPECT_EQ(weights_of_all(2), whole);
  // With fewer hosts: shards are as many as before.
  const Ended box = run_annulus({"train", "--resume", "copy", "--workers", "1", "--quiet"}, scratch_.here());
  EXPECT_EQ(box.code, 0) << box.err;
  EXPECT_EQ(box.weights(), whole);
}

TEST_F(HostsRunTest, FilesOfTwoRunsDoNotMix) {
  make_hosts(2);
  if (IsSkipped()) return;
  start(with(kRun, {"--checkpoint-every", "20"}), 2);
  weights_of_all(2);
  std::filesystem::copy(scratch_ / "run", scratch_ / "copy", std::filesystem::copy_options::recursive);
  const auto files = [&] {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(scratch_ / "run"))
      names.insert(entry.path().string());
    return names;
  };
  const std::set<std::string> before = files();
  const std::string metrics = read_file(scratch_ / "run/metrics.jsonl");
  const auto resume = [&](const Words& flags) {
    commands_.clear();
    start(with({"train", "--hosts", "hosts", "--quiet", "on"}, flags), 2);
  };
  std::string first = last_checkpoint(0);
  for (const std::string& name : before) {
    const std::filesystem::path path = name;
    if (path.parent_path().filename() == "checkpoints") first = std::min(first, path.filename().string());
  }
  // From the middle: there are later ones of this run, which stay.
  resume({"--resume", "run/checkpoints/" + first, "--steps", "30"});
  weights_of_all(2);
  EXPECT_TRUE(contains(host(0).out(), "gets a directory of its own")) << host(0).out();
  // Into the directory of another run.
  resume({"--resume", "copy", "--run-dir", "run", "--steps", "80"});
  for (const int node : {0, 1}) EXPECT_EQ(host(node).wait().code, 2) << host(node).out();
  EXPECT_TRUE(contains(host(0).err(), "run")) << host(0).err();
  EXPECT_EQ(files(), before);
  EXPECT_EQ(read_file(scratch_ / "run/metrics.jsonl"), metrics);
  // However the run is named, it goes on where it was.
  int steps = 60;
  for (const char* const name : {"copy/checkpoints", "copy/node-1", "copy/node-1/checkpoints/"}) {
    steps += 20;
    resume({"--resume", name, "--steps", std::to_string(steps)});
    weights_of_all(2);
    const std::string done = read_file(scratch_ / "copy/node-1/metrics.jsonl");
    EXPECT_GE(std::count(done.begin(), done.end(), '\n'), steps) << name;
  }
  EXPECT_FALSE(std::filesystem::exists(scratch_ / "copy/node-1/node-1"));
}

TEST_F(HostsRunTest, ASecondCtrlCEndsAllAtOnce) {
  make_hosts(2);
  if (IsSkipped()) return;
  start(kLong, 2);
  ASSERT_TRUE(wait_for_steps(1, 20));
  kill(host(0).process("annulus:0"), SIGSTOP);  // no step can be finished
  kill(host(1).pid(), SIGINT);
  sleep_for_seconds(0.3);
  kill(host(1).pid(), SIGINT);
  for (int node = 0; node < 2; ++node) EXPECT_EQ(host(node).wait().code, 130) << host(node).err();
  expect_no_process_left();
}

TEST_F(HostsRunTest, ALostHostEndsTheRunAndSaysWhichAndWhy) {
  make_hosts(3);
  if (IsSkipped()) return;
  start(kLong, 3);
  ASSERT_TRUE(wait_for_steps(2, 20));
  kill(host(2).pid(), SIGKILL);
  expect_end(3, 2, "host " + network_->name(2) + " was lost: its launcher's connection: ");
  EXPECT_EQ(last_checkpoint(0), last_checkpoint(1));
  commands_.clear();
  // The others go on without it.
  write_file(scratch_ / "two",
             network_->hosts_file().substr(0, network_->hosts_file().find(network_->name(2))));
  start({"train", "--hosts", "two", "--resume", "run", "--quiet"}, 2);
  ASSERT_TRUE(wait_for_steps(1, 40));
  kill(host(0).pid(), SIGTERM);
  weights_of_all(2, 143);
}

TEST_F(HostsRunTest, AHostWithoutNetworkIsLost) {
  make_hosts(2);
  if (IsSkipped()) return;
  start(kLong, 2);
  ASSERT_TRUE(wait_for_steps(1, 20));
  network_->plug(1, false);
  expect_end(2, -1, " was lost: no sign of life of its launcher for ");
  EXPECT_EQ(last_checkpoint(0), last_checkpoint(1));
}

TEST_F(HostsRunTest, WithoutTheFirstHostTheOthersStopByThemselves) {
  make_hosts(3);
  if (IsSkipped()) return;
  start(with(kLong, {"--keep", "1"}), 3);
  ASSERT_TRUE(wait_for_steps(2, 20));
  kill(host(0).pid(), SIGKILL);
  for (const int node : {1, 2}) {
    const Ended end = host(node).wait();
    EXPECT_EQ(end.code, 1) << end.out;
    EXPECT_TRUE(contains(end.err, "the first host, which coordinates the others, was lost")) << end.err;
  }
  host(0).wait();
  commands_.clear();
  // They have a step in common.
  write_file(scratch_ / "two", network_->hosts_file().substr(network_->hosts_file().find(network_->name(1))));
  commands_.emplace_back(
      by_hand({"train", "--hosts", "two", "--resume", "run", "--quiet", "on", "--secret-file", "secret"}, 0),
      on(1));
  commands_.emplace_back(
      by_hand({"train", "--hosts", "two", "--resume", "run", "--quiet", "on", "--secret-file", "secret"}, 1),
      on(2));
  ASSERT_TRUE(host(0).wait_until("it goes on", [&] {
    return read_file(scratch_ / "run/metrics.jsonl").find("\n") != std::string::npos;
  }));
  sleep_for_seconds(1);
  kill(host(0).pid(), SIGTERM);
  weights_of_all(2, 143);
}

TEST_F(HostsRunTest, ABrokenConnectionIsMadeAnew) {
  make_hosts(2);
  if (IsSkipped()) return;
  const std::string box = weights_of_box({"--workers", "2", "--steps", "300"});
  start(with(kRun, {"--steps", "300", "--port", "23456"}), 2);
  ASSERT_TRUE(wait_for_steps(1, 20));
  // Resets what ranks send to each other; the launchers' connection stays as it is.
  shell("ip netns exec " + network_->name(1) + " ss -K dst 10.77.0.1 dport != :23456");
  if (!host(0).wait_until("new connections", [&] {
        return contains(host(0).out(), "the step is repeated over new connections");
      })) {
    return;
  }
  EXPECT_EQ(weights_of_all(2), box);
}

}  // namespace
}  // namespace annulus
