// Bridges whose handshakes are harmed on their way, or disturbed by strangers: none hangs, none has a wrong
// sum, and the next attempt works.
#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <random>
#include <string>
#include <thread>

#include "tests/collectives/open_files.h"
#include "tests/collectives/training_hosts.h"

namespace annulus {
namespace {

using Bytes = HarmfulProxy::Bytes;
using Message = HarmfulProxy::Message;
using Way = HarmfulProxy::Way;

// A harm of message `number` of the first handshake, on the way that `round` says: who finds out gives up or
// tries again, and never is a connection good on both sides that was not meant.
void expect_survival(int round, const std::function<void(Way&, const Message&)>& harm) {
  const bool to_listener = round & 1;
  const int number = round >> 1 & 1;
  TrainingHosts hosts(2, false);
  auto proxy = hosts.proxy([&](Way& way, const Message& message) {
    const bool is_meant = message.connection == 0 && message.handshake &&
                          message.to_listener == to_listener && message.number == number;
    is_meant ? harm(way, message) : way.pass(message.bytes);
  });
  const std::vector<Outcome> outcomes = hosts.attempt(1, proxy.get(), true);
  // Both trained, which takes a second handshake, or one has given up.
  const bool trained = outcomes[0].steps == kSteps && outcomes[1].steps == kSteps;
  EXPECT_TRUE(trained || failures(outcomes) != "[] [] ") << "round " << round;
  hosts.expect_sound_attempt(2);
}

TEST(BridgeHandshake, SurvivesFlippedBits) {
  std::mt19937 random(1);
  for (int round = 0; round < 16; ++round) {
    expect_survival(round, [&](Way& way, const Message& message) {
      way.pass(flipped(message.bytes, random() % message.bytes.size(), static_cast<int>(random() % 8)));
    });
  }
}

// Cut off within or after each message.
TEST(BridgeHandshake, SurvivesItsEndAtAnyPoint) {
  for (int round = 0; round < 16; ++round) {
    const bool resets = round & 4, whole = round & 8;
    expect_survival(round, [&](Way& way, const Message& message) {
      way.pass(whole ? std::span<const std::byte>(message.bytes) : half(message));
      resets ? way.reset() : way.close();
    });
  }
}

TEST(BridgeHandshake, WithAnotherSecretComesToNothing) {
  const Watchdog watchdog("another secret");
  TrainingHosts hosts(2, false);
  const std::atomic<bool> never{false};
  auto first = hosts.bridge(0, 1, nullptr);
  BridgePeers peers = hosts.peers(1, 1);
  peers.secret = new_secret();
  auto stranger = hosts.bridge(1, 1, connect_bridge(peers));
  EXPECT_NE(hosts.train(1, stranger, never).failure, "");
  // The one that was meant still waits for the right one.
  auto second = hosts.bridge(1, 1, nullptr);
  Outcome of_first;
  std::thread thread([&] { of_first = hosts.train(0, first, never); });
  const Outcome of_second = hosts.train(1, second, never);
  thread.join();
  expect_success({of_first, of_second});
}

UniqueFd stranger(const SocketAddress& to) {
  UniqueFd fd = start_connect(to);
  pollfd what{fd.get(), POLLOUT, 0};
  EXPECT_TRUE(fd && poll(&what, 1, 60'000) == 1 && connect_error(fd.get()) == 0);
  return fd;
}

// What a real peer has said in an earlier connection, of this very attempt.
TEST(BridgeHandshake, OfAnotherConnectionIsWorthless) {
  TrainingHosts hosts(2, false);
  Bytes said;
  std::mutex mutex;
  const auto record = [&](Way& way, const Message& message) {
    if (message.to_listener && (message.handshake || message.number < 4)) {
      const std::lock_guard lock(mutex);
      said.insert(said.end(), message.bytes.begin(), message.bytes.end());
    }
    way.pass(message.bytes);
  };
  auto proxy = hosts.proxy(record);
  expect_success(hosts.attempt(1, proxy.get()));
  proxy.reset();
  ASSERT_GT(said.size(), 128u);
  // First in the queue, and so before the real one.
  std::vector<UniqueFd> strangers;
  for (int i = 0; i < 5; ++i) {
    strangers.push_back(stranger(hosts.address(0)));
    (void)!send(strangers.back().get(), said.data(), said.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  hosts.expect_sound_attempt(1);
}

TEST(BridgeHandshake, ComesThroughAThousandIdleConnections) {
  if (const std::string why = too_few_open_files(1'300); !why.empty()) GTEST_SKIP() << why;
  for (const uint32_t attempt : {1u, 2u}) {
    TrainingHosts hosts(2, false);
    std::vector<UniqueFd> idle;
    for (int i = 0; i < 500; ++i) idle.push_back(start_connect(hosts.address(0)));
    std::thread more([&] {
      for (int i = 0; i < 500; ++i) {
        idle.push_back(start_connect(hosts.address(0)));
        std::this_thread::sleep_for(std::chrono::microseconds(200));
      }
    });
    expect_success(hosts.attempt(attempt, nullptr));
    more.join();
    // Those that have not been looked at since wait for the next attempt's bridge.
    expect_success(hosts.attempt(attempt + 1, nullptr));
  }
}

TEST(BridgeHandshake, ComesThroughGarbage) {
  TrainingHosts hosts(2, false);
  std::mt19937 random(5);
  std::vector<UniqueFd> strangers;
  for (int i = 0; i < 200; ++i) {
    strangers.push_back(stranger(hosts.address(0)));
    Bytes garbage(1 + random() % 500);
    for (std::byte& byte : garbage) byte = static_cast<std::byte>(random());
    (void)!send(strangers.back().get(), garbage.data(), garbage.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (i % 3 == 0) strangers.back().reset();
  }
  expect_success(hosts.attempt(1, nullptr));
}

// A byte each second: the listener gives up on the connection, and the next one is as usual.
TEST(BridgeHandshake, ComesThroughAfterASlowOne) {
  TrainingHosts hosts(2, false);
  std::atomic<int> connections{0};
  auto proxy = hosts.proxy([&](Way& way, const Message& message) {
    connections = std::max(connections.load(), message.connection + 1);
    if (message.connection > 0 || !message.to_listener) return way.pass(message.bytes);
    for (const std::byte& byte : message.bytes) {
      way.pass({&byte, 1});
      way.rest(1'000);
    }
  });
  expect_success(hosts.attempt(1, proxy.get()));
  EXPECT_GE(connections, 2);
}

}  // namespace
}  // namespace annulus
