// The real command on two hosts whose network is bad: it loses, is slow, is away for a while. Weights are
// those of a run on a good one.
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>

#include "tests/end_to_end/network_of_hosts.h"
#include "tests/end_to_end/run_with_deaths.h"

namespace annulus {
namespace {

const Words kTrain = {"train",  "--hosts", "hosts", "--dataset",    "synthetic", "--model", "mlp",
                      "--seed", "3",       "--lr",  "0.02",         "--quiet",   "on",      "--run-dir",
                      "run",    "--steps", "4",     "--batch-size", "64"};

class HostsFaultsTest : public OnHosts {
 protected:
  bool on_host(int host, const std::string& command) const {
    return shell("ip netns exec " + network_->name(host) + " " + command) == 0;
  }

  // A run's, the same on both hosts. `meanwhile` is called once the run is under way.
  std::string weights(const Words& words, const std::function<void(Command&)>& meanwhile = nullptr) {
    std::filesystem::remove_all(scratch_ / "run");
    Command first(by_hand(words, 0), on(0)), second(by_hand(words, 1), on(1));
    if (meanwhile) meanwhile(first);
    const Ended a = first.wait(), b = second.wait();
    for (const Ended& end : {a, b}) EXPECT_EQ(end.code, 0) << end.out << end.err;
    EXPECT_EQ(a.weights().size(), 16u) << a.out << a.err;
    EXPECT_EQ(a.weights(), b.weights());
    return a.weights();
  }

  int64_t steps_told() const { return count(read_file(scratch_ / "run/metrics.jsonl"), "{\"step\":"); }
};

TEST_F(HostsFaultsTest, ThirtyPercentLossChangesNoWeights) {
  make_hosts(2);
  if (IsSkipped()) return;
  write_file(scratch_ / "small.yaml", kResidual);
  const Words dense = with(kTrain, {"--model", "small.yaml"}), sparse = with(dense, {"--compress", "topk"});
  const std::string of_dense = weights(dense), of_sparse = weights(sparse);
  // One way. With both a connection is sooner or later given up, and the run may end with it: 10 s without a
  // word are the limit.
  if (!on_host(1,
               "nft 'add table inet lossy; "
               "add chain inet lossy in { type filter hook input priority 0; }; "
               "add rule inet lossy in iifname eth0 numgen random mod 100 < 30 counter drop'")) {
    GTEST_SKIP() << "SKIPPED: nft is missing, or cannot drop at random";
  }
  EXPECT_EQ(weights(sparse), of_sparse);
  EXPECT_EQ(weights(dense), of_dense);
  EXPECT_TRUE(on_host(1, "nft list ruleset | grep 'packets [1-9]'")) << "nothing was lost";
}

// The launchers' port is open, the workers' are not: the run ends on both hosts, and says why.
TEST_F(HostsFaultsTest, WorkersThatCannotReachEachOtherEndTheRun) {
  make_hosts(2);
  if (IsSkipped()) return;
  if (!on_host(0,
               "nft 'add table inet wall; "
               "add chain inet wall in { type filter hook input priority 0; }; "
               "add rule inet wall in iifname eth0 tcp dport != 23456 ct state new drop'")) {
    GTEST_SKIP() << "SKIPPED: nft is missing, or cannot filter";
  }
  const Words words = with(kTrain, {"--port", "23456", "--join-deadline", "3"});
  Command first(by_hand(words, 0), on(0)), second(by_hand(words, 1), on(1));
  for (const Ended& end : {first.wait(), second.wait()}) {
    EXPECT_EQ(end.code, 1) << end.out << end.err;
    EXPECT_NE(end.err.find("host 1 cannot reach host 0's rank 0 at 10.77.0.1:"), end.err.npos) << end.err;
    EXPECT_EQ(count(end.err, "cannot reach"), 1) << end.err;
  }
}

TEST_F(HostsFaultsTest, OneMegabitChangesNoWeights) {
  make_hosts(2);
  if (IsSkipped()) return;
  write_file(scratch_ / "small.yaml", kResidual);
  const Words dense = with(kTrain, {"--model", "small.yaml"}), sparse = with(dense, {"--compress", "topk"});
  const std::string of_dense = weights(dense), of_sparse = weights(sparse);
  for (const int host : {0, 1}) {
    if (!on_host(host, "tc qdisc add dev eth0 root tbf rate 1mbit burst 16kb latency 200ms")) {
      GTEST_SKIP() << "SKIPPED: tc is missing, or has no tbf";
    }
  }
  EXPECT_EQ(weights(sparse), of_sparse);
  EXPECT_EQ(weights(dense), of_dense);
  EXPECT_TRUE(on_host(1, "tc -s qdisc show dev eth0 | grep 'overlimits [1-9]'")) << "nothing was held up";
}

TEST_F(HostsFaultsTest, ACableThatIsOutForThreeSecondsChangesNoWeights) {
  make_hosts(2);
  if (IsSkipped()) return;
  for (const char* const compress : {"none", "topk"}) {
    const Words words = with(kTrain, {"--compress", compress, "--steps", "300"});
    const std::string undisturbed = weights(words);
    const std::string got = weights(words, [&](Command& run) {
      ASSERT_TRUE(run.wait_until("20 steps", [&] { return steps_told() >= 20; }));
      network_->plug(1, false);
      sleep_for_seconds(3);
      const int64_t before = steps_told();
      EXPECT_LT(before, 300);
      network_->plug(1, true);
    });
    EXPECT_EQ(got, undisturbed) << compress;
  }
}

}  // namespace
}  // namespace annulus
