// Launchers that talk over real connections, each on a thread of its own, on addresses of this machine.
#include "launcher/host_control.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <thread>

#include "collectives/versions.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

// A port of 127.0.0.1 that is free now.
uint16_t free_port() { return local_address(listen_on(resolve("127.0.0.1", 0)).get()).port(); }

class HostControls {
 public:
  explicit HostControls(int count) {
    const Secret secret = new_secret();
    const uint16_t port = free_port();
    for (int node = 0; node < count; ++node) {
      RunHosts& hosts = hosts_.emplace_back();
      for (int i = 0; i < count; ++i) {
        hosts.list.hosts.push_back(
            {std::string(1, static_cast<char>('a' + i)), "127.0.0." + std::to_string(i + 1), 1});
      }
      hosts.list.source = "hosts";
      hosts.node = node;
      hosts.secret = secret;
      hosts.port = port;
    }
  }

  // Runs `body` for each host, at the same time.
  void run(const std::function<void(int node, HostControl& control)>& body) {
    std::vector<std::thread> threads;
    for (int node = 0; node < static_cast<int>(hosts_.size()); ++node) {
      threads.emplace_back([&, node] {
        HostControl control(hosts_[node], [](const std::string&) {});
        body(node, control);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

  static HostReport report(int node, const std::string& lr = "0.1") {
    return {.facts = {{"lr", lr}}, .ports = {static_cast<uint16_t>(1000 + node)}, .checkpoints = {}};
  }

  // All hosts have started.
  void run_started(const std::function<void(int node, HostControl& control)>& body) {
    run([&](int node, HostControl& control) {
      HostStart start = control.preflight(report(node), 30);
      start.job = 7;
      control.start(start);
      body(node, control);
    });
  }

 private:
  std::vector<RunHosts> hosts_;
};

// Serves until `condition` holds. Fails after a minute.
template <typename Condition>
void serve_until(HostControl& control, const Condition& condition) {
  for (int i = 0; i < 60'000; ++i) {
    control.serve();
    if (condition()) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (i % 10 == 0) control.tick(10'000'000);
  }
  ADD_FAILURE() << "waited in vain";
}

std::string refusal(const std::function<void()>& action) {
  try {
    action();
  } catch (const UserError& error) {
    return error.what();
  }
  return "(accepted)";
}

TEST(HostControl, HostsThatFitLearnEachOthersPorts) {
  HostControls(3).run([](int node, HostControl& control) {
    const HostStart start = [&] {
      HostStart own = control.preflight(HostControls::report(node), 30);
      own.run_dir = "runs/x";
      if (node == 0) control.start(own);
      return own;
    }();
    EXPECT_EQ(start.ports, (std::vector<std::vector<uint16_t>>{{1000}, {1001}, {1002}}));
    EXPECT_EQ(start.run_dir, "runs/x");
  });
}

TEST(HostControl, AllAreToldWhatIsWrongWhere) {
  HostControls(3).run([](int node, HostControl& control) {
    const std::string text =
        refusal([&] { control.preflight(HostControls::report(node, node == 2 ? "0.5" : "0.1"), 30); });
    EXPECT_NE(text.find("c    | lr   | 0.1  | 0.5"), text.npos) << text;
  });
}

TEST(HostControl, AHostThatGivesUpSaysWhy) {
  HostControls(2).run([](int node, HostControl& control) {
    if (node == 1) {
      control.give_up("no data");
      return;
    }
    const std::string text = refusal([&] { control.preflight(HostControls::report(0), 30); });
    EXPECT_NE(text.find("b    | no data"), text.npos) << text;
  });
}

TEST(HostControl, ARecoveryBringsAllHostsToTheSameStep) {
  HostControls(3).run_started([](int node, HostControl& control) {
    HostMember& member = control.member();
    if (node == 1) member.aborted(1, "rank 0 died");
    serve_until(control, [&] { return node == 1 || member.must_abort(1); });
    std::optional<uint32_t> step;
    serve_until(control, [&] { return (step = member.resume_step(1, node == 2 ? 7 : 8)).has_value(); });
    EXPECT_EQ(step, 7u);
    member.finished(2);
    serve_until(control, [&] { return member.dismissed(); });
    if (node != 0) control.leave();
    serve_until(control, [&] { return control.alone(); });
    EXPECT_EQ(member.end(), nullptr);
  });
}

TEST(HostControl, AHostWhoseConnectionEndsIsLost) {
  HostControls(3).run_started([](int node, HostControl& control) {
    if (node == 2) return;  // its connection is closed behind it
    HostMember& member = control.member();
    serve_until(control, [&] { return member.end() != nullptr; });
    EXPECT_EQ(member.end()->text.rfind("host c was lost: its launcher's connection: ", 0), 0u)
        << member.end()->text;
    std::optional<uint32_t> step;
    serve_until(control, [&] { return (step = member.last_step(node == 0 ? 5 : 4)).has_value(); });
    EXPECT_EQ(step, 4u);
    EXPECT_FALSE(member.alone());
    if (node == 0) serve_until(control, [&] { return control.alone(); });
  });
}

TEST(HostControl, AHostThatIsSilentForTenSecondsIsLostAndOneThatBeatsIsNot) {
  // Time that the first two count alike, whatever the machine does.
  std::atomic<int> slices[2] = {0, 0};
  std::atomic<bool> done{false};
  HostControls(3).run_started([&](int node, HostControl& control) {
    if (node == 2) {  // neither serves nor ticks
      while (!done) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      return;
    }
    HostMember& member = control.member();
    while (member.end() == nullptr && slices[node] < 150) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      control.serve();
      if (slices[node] > slices[1 - node]) continue;
      control.tick(100'000'000);
      ++slices[node];
    }
    ASSERT_NE(member.end(), nullptr);
    EXPECT_EQ(member.end()->text.rfind("host c was lost: no sign of life of its launcher for 10.", 0), 0u)
        << member.end()->text;
    EXPECT_FALSE(member.alone());
    serve_until(control, [&] { return member.last_step(3).has_value(); });
    done = true;
    if (node == 0) serve_until(control, [&] { return control.alone(); });
  });
}

TEST(HostControl, WithoutTheFirstHostTheOthersAreAlone) {
  HostControls(2).run_started([](int node, HostControl& control) {
    if (node == 0) return;
    HostMember& member = control.member();
    serve_until(control, [&] { return member.end() != nullptr; });
    EXPECT_TRUE(member.alone());
    EXPECT_EQ(member.last_step(9), 9u);
  });
}

TEST(RemoteStart, WordsOfAShellAreQuoted) {
  EXPECT_EQ(shell_word("a b"), "'a b'");
  EXPECT_EQ(shell_word("it's $HOME"), "'it'\\''s $HOME'");
  EXPECT_EQ(
      remote_command("/home/x y", "/opt/annulus", 3),
      "cd '/home/x y' 2>/dev/null; exec env GOMP_SPINCOUNT=5000 '/opt/annulus' train --hosts - --node 3");
}

}  // namespace
}  // namespace annulus
