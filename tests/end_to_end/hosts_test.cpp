// The real command on several hosts: what is wrong is found before anything starts, and said on every host.
#include <gtest/gtest.h>

#include "tests/end_to_end/network_of_hosts.h"
#include "tests/end_to_end/run_under_way.h"

namespace annulus {
namespace {

const Words kTrain = {"train", "--hosts", "hosts", "--dataset", "synthetic", "--model",
                      "mlp",   "--steps", "4",     "--seed",    "3",         "--batch-size",
                      "64",    "--quiet", "on",    "--run-dir", "run"};

class HostsTest : public OnHosts {
 protected:
  void expect_parts(const std::string& text, const Words& parts) {
    for (const std::string& part : parts) EXPECT_TRUE(contains(text, part)) << part << " is not in: " << text;
  }
  // Nothing has been started or written.
  void expect_untouched() {
    for (const std::string& name : scratch_.content()) {
      EXPECT_TRUE(name == "hosts" || name == "secret" || name == "ssh") << name << " is left";
    }
    expect_no_process_left();
  }
};

TEST_F(HostsTest, HostsThatDifferAreNamedOnAllOfThem) {
  make_hosts(3);
  if (IsSkipped()) return;
  Command a(by_hand(kTrain, 0), on(0));
  Command b(by_hand(with(kTrain, {"--lr", "0.5"}), 1), on(1));
  Command c(by_hand(with(kTrain, {"--seed", "4"}), 2), on(2));
  for (Command* command : {&a, &b, &c}) {
    const Ended end = command->wait();
    EXPECT_EQ(end.code, 2) << end.out << end.err;
    expect_parts(end.err, {"do not make a run", network_->name(1), "--lr", "| 0.04 ", "| 0.5\n",
                           network_->name(2), "--seed", "| 3 ", "| 4\n"});
    EXPECT_FALSE(contains(end.err, "kernels")) << end.err;  // those are the same
  }
  expect_untouched();
}

TEST_F(HostsTest, AnotherInstructionSetIsNamed) {
  make_hosts(2);
  if (IsSkipped()) return;
  CommandOptions older = on(1);
  older.environment.emplace_back("ONEDNN_MAX_CPU_ISA=SSE41");
  Command a(by_hand(kTrain, 0), on(0));
  Command b(by_hand(kTrain, 1), older);
  const Ended end = a.wait();
  EXPECT_EQ(end.code, 2) << end.out << end.err;
  expect_parts(end.err, {"instruction set", "sse41", "kernels (hash)"});
  EXPECT_EQ(b.wait().code, 2);
  expect_untouched();
}

TEST_F(HostsTest, AHostThatDoesNotComeIsNamed) {
  make_hosts(3);
  if (IsSkipped()) return;
  const Words soon = with(kTrain, {"--join-deadline", "3"});
  Command a(by_hand(soon, 0), on(0));
  Command b(by_hand(soon, 1), on(1));
  for (Command* command : {&a, &b}) {
    const Ended end = command->wait();
    EXPECT_EQ(end.code, 2) << end.out << end.err;
    expect_parts(end.err, {network_->name(2), "unreachable: it did not come to 10.77.0.1:"});
    EXPECT_FALSE(contains(end.err, network_->name(1) + " |")) << end.err;
  }
  // Without the first host nobody starts.
  const Ended alone = run_annulus(by_hand(soon, 1), on(1));
  EXPECT_EQ(alone.code, 2);
  expect_parts(alone.err, {"--node 1: cannot come to " + network_->name(0)});
  expect_untouched();
}

TEST_F(HostsTest, AHostThatCannotPlanSaysWhy) {
  make_hosts(2);
  if (IsSkipped()) return;
  Command a(by_hand(kTrain, 0), on(0));
  Command b(by_hand(with(kTrain, {"--dataset", "cifar10", "--data", "nowhere"}), 1), on(1));
  const Ended end = a.wait();
  EXPECT_EQ(end.code, 2) << end.out << end.err;
  expect_parts(end.err, {network_->name(1) + " | ", "nowhere"});
  EXPECT_EQ(b.wait().code, 2);
  expect_untouched();
}

TEST_F(HostsTest, AnotherSecretDoesNotJoin) {
  make_hosts(2);
  if (IsSkipped()) return;
  write_file(scratch_ / "other", std::string(64, 'b'));
  chmod((scratch_ / "other").c_str(), 0600);
  const Words soon = with(kTrain, {"--join-deadline", "3", "--port", "23456"});
  Command a(by_hand(soon, 0), on(0));
  Command b(with(by_hand(soon, 1), {"--secret-file", "other"}), on(1));
  EXPECT_EQ(a.wait().code, 2);
  const Ended end = b.wait();
  EXPECT_EQ(end.code, 2);
  expect_parts(end.err, {"cannot come to"});
  std::filesystem::remove(scratch_ / "other");
  expect_untouched();
}

TEST_F(HostsTest, ThePortMayBeTakenAndTheAddressAnothers) {
  make_hosts(2);
  if (IsSkipped()) return;
  Command holder(by_hand(with(kTrain, {"--port", "23456"}), 0), on(0));
  ASSERT_TRUE(holder.wait_until("the first host listens", [&] {
    return shell("ip netns exec " + network_->name(0) + " ss -ltn | grep -q 10.77.0.1:23456") == 0;
  }));
  const Ended taken = run_annulus(by_hand(with(kTrain, {"--port", "23456"}), 0), on(0));
  EXPECT_EQ(taken.code, 2);
  expect_parts(taken.err, {"10.77.0.1:23456", network_->name(0)});
  const Ended elsewhere = run_annulus(by_hand(kTrain, 0), on(1));  // --node 0 on the other host
  EXPECT_EQ(elsewhere.code, 2);
  expect_parts(elsewhere.err, {"10.77.0.1", network_->name(0)});
}

TEST_F(HostsTest, BySshTheFirstHostStartsTheOthersAndNamesThoseThatFail) {
  make_hosts(3);
  if (IsSkipped()) return;
  write_file(scratch_ / "hosts", network_->hosts_file() + "nowhere addr=10.77.0.9 slots=1\n");
  const Ended end = run_annulus(kTrain, on(0));
  EXPECT_EQ(end.code, 2) << end.out << end.err;
  expect_parts(end.err, {"[nowhere] ", "do not make a run", "nowhere ", "code 255: "});
  EXPECT_FALSE(contains(end.err, network_->name(1) + " |")) << end.err;  // those two came
  EXPECT_FALSE(contains(end.err, network_->name(2) + " |")) << end.err;
  expect_untouched();
}

TEST_F(HostsTest, BySshAWrongPathIsNamed) {
  make_hosts(2);
  if (IsSkipped()) return;
  const Ended end = run_annulus(with(kTrain, {"--remote-path", "/nowhere/annulus"}), on(0));
  EXPECT_EQ(end.code, 2) << end.out << end.err;
  expect_parts(end.err,
               {network_->name(1) + " | it ended with code 127: ", "/nowhere/annulus", "No such file"});
  expect_untouched();
}

TEST_F(HostsTest, TheSecretIsOnNoCommandLine) {
  make_hosts(2);
  if (IsSkipped()) return;
  write_file(scratch_ / "ssh", "#!/bin/sh\necho \"$@\" >&2\nhead -n 1 >" + scratch_ / "order" + "\nexit 3\n");
  const Ended end = run_annulus(kTrain, on(0));
  EXPECT_EQ(end.code, 2) << end.out << end.err;
  expect_parts(end.err,
               {"-o BatchMode=yes " + network_->name(1) + " cd '", "train --hosts - --node 1", "code 3"});
  const std::string order = read_file(scratch_ / "order");
  const size_t at = order.find("\"secret\":\"");
  ASSERT_NE(at, order.npos) << order;
  EXPECT_FALSE(contains(end.err, order.substr(at + 10, 64))) << end.err;
}

}  // namespace
}  // namespace annulus
