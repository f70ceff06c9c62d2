// Bridges that wait for others, who are missing, silent or gone: they leave when they are told to, and cost
// no processor time.
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <utility>

#include "tests/collectives/training_hosts.h"

namespace annulus {
namespace {

using Bytes = HarmfulProxy::Bytes;
using Message = HarmfulProxy::Message;
using Way = HarmfulProxy::Way;

TEST(BridgeLeaving, NeedsNoPeer) {
  const Watchdog watchdog("no peer");
  for (const int node : {0, 1}) {
    TrainingHosts hosts(2, false);
    auto bridge = hosts.bridge(node, 1, nullptr);
    bridge->begin(1);
    bridge->submit();
    std::this_thread::sleep_for(std::chrono::milliseconds(node * 20));
    bridge.reset();
  }
}

// What stands between hosts may let launchers through and workers not.
TEST(BridgeReaching, GivesUpWhereNobodyCanBeReached) {
  const Watchdog watchdog("nobody is reached");
  TrainingHosts hosts(2, false);
  BridgePeers peers = hosts.peers(1, 1);
  peers.addresses[0] = local_address(listen_on(resolve("127.0.0.1", 0)).get());  // free again
  peers.reach_ns = 300'000'000;
  auto bridge = hosts.bridge(1, 1, connect_bridge(peers));
  wait_for(*bridge, 1);
  try {
    bridge->check();
    FAIL() << "reached somebody";
  } catch (const StepError& error) {
    const std::string text = error.what();
    EXPECT_EQ(text.rfind("host 1 cannot reach host 0's rank 0 at " + peers.addresses[0].text() + ": ", 0), 0u)
        << text;
    EXPECT_NE(text.find("the last try came to: Connection refused; the workers' ports must be open"),
              text.npos)
        << text;
  }
}

// It may be long in making its kernels: its launcher's listener is there, so the way is open.
TEST(BridgeReaching, HasPatienceWithAHostThatCanBeReached) {
  const Watchdog watchdog("a late host");
  TrainingHosts hosts(2, false);
  BridgePeers peers = hosts.peers(1, 1);
  peers.reach_ns = 50'000'000;
  const std::atomic<bool> never{false};
  auto early = hosts.bridge(1, 1, connect_bridge(peers));
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  auto late = hosts.bridge(0, 1, nullptr);
  Outcome of_late;
  std::thread thread([&] { of_late = hosts.train(0, late, never); });
  const Outcome of_early = hosts.train(1, early, never);
  thread.join();
  expect_success({of_early, of_late});
}

// A silent peer, from any message on: whoever is told to leaves.
TEST(BridgeLeaving, NeedsNoWordOfAPeer) {
  for (const bool packed : {false, true}) {
    for (int from = 0; from < 8; ++from) {
      const Watchdog watchdog("silent from message " + std::to_string(from));
      TrainingHosts hosts(2, packed);
      std::atomic<bool> is_silent{false}, leave{false};
      auto proxy = hosts.proxy([&](Way& way, const Message& message) {
        if ((message.handshake ? 0 : 2) + message.number < from) return way.pass(message.bytes);
        if (from % 2 == 1) way.pass(half(message));
        is_silent = true;
        way.stall();
      });
      std::vector<std::unique_ptr<Bridge>> bridges;
      for (int node = 0; node < 2; ++node) bridges.push_back(hosts.bridge(node, 1, proxy.get()));
      std::vector<Outcome> outcomes(2);
      std::vector<std::thread> threads;
      for (int node = 0; node < 2; ++node) {
        threads.emplace_back([&, node] { outcomes[node] = hosts.train(node, bridges[node], leave); });
      }
      while (!is_silent) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      leave = true;
      for (std::thread& thread : threads) thread.join();
      // One may leave while the other still trains, and then finds its connection closed; none is done.
      for (const Outcome& outcome : outcomes) {
        EXPECT_TRUE(outcome.left || !outcome.failure.empty());
        EXPECT_LT(outcome.steps, kSteps);
      }
    }
  }
}

std::pair<UniqueFd, UniqueFd> socket_pair() {
  int fds[2] = {-1, -1};
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

TcpTransport::Streams stream_to_1(UniqueFd fd, FrameStream::Limits limits) {
  TcpTransport::Streams streams(2);
  streams[1] = std::make_unique<FrameStream>(std::move(fd), "peer", limits);
  return streams;
}

// Processor time of a bridge's thread while nothing can be done; a thread that sleeps has next to none,
// however long the test waits.
void expect_asleep(const Bridge& bridge) {
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  const int64_t before = bridge.cpu_ns();
  std::this_thread::sleep_for(std::chrono::milliseconds(1'000));
  EXPECT_LT(bridge.cpu_ns() - before, 50'000'000);
}

TEST(BridgeSleeps, WhileAPeerIsMissing) {
  for (const int node : {0, 1}) {
    TrainingHosts hosts(2, false);
    auto bridge = hosts.bridge(node, 1, nullptr);
    bridge->begin(1);
    bridge->submit();
    expect_asleep(*bridge);
  }
}

// A peer by hand, which says all of its part and takes two frames alone, while the exchange goes on.
TEST(BridgeSleeps, WhileAPeerReadsNothing) {
  auto [own_end, other_end] = socket_pair();
  const int small = 4'096;
  setsockopt(own_end.get(), SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
  TrainingHosts hosts(2, true);
  const auto connect = [&end = own_end](const Bridge::Leave&) {
    return stream_to_1(std::move(end), {.most_payload = 1 << 20, .most_held = 64});
  };
  auto bridge = hosts.bridge(0, 1, connect);
  FrameStream peer(std::move(other_end), "bridge", {.most_payload = 1 << 20, .most_held = 2});
  Descriptor of_peer{.step = 1, .attempt = 1, .type = Payload::kNothing, .source = 1, .bucket = UINT32_MAX};
  peer.send(FrameKind::kPayload, of_peer, {});
  of_peer.type = Payload::kInput;
  of_peer.bucket = 0;
  of_peer.call = kSlices[0].count() * sizeof(float);
  const Bytes part(256 << 10);
  bridge->begin(1);
  bridge->submit();
  for (std::size_t sent = 0; sent < of_peer.call; sent += part.size()) {
    peer.send(FrameKind::kPayload, of_peer, part);
    ++of_peer.chunk;
  }
  while (!peer.flushed()) peer.pump();
  bridge->submit();
  expect_asleep(*bridge);
}

// A connection that has ended is no news as long as nobody wants to read from it.
TEST(BridgeSleeps, WhileItWantsNothingOfAPeerThatIsGone) {
  auto [own_end, other_end] = socket_pair();
  TcpTransport transport(0, stream_to_1(std::move(own_end), {.most_payload = 1, .most_held = 1}),
                         DataType::kF32, {});
  {
    FrameStream peer(std::move(other_end), "transport", {});
    for (int i = 0; i < 2; ++i) peer.send(FrameKind::kPayload, {}, {});
    while (!peer.flushed()) peer.pump();
  }
  ASSERT_NE(transport.peek(1), nullptr);
  const auto begin = std::chrono::steady_clock::now();
  transport.sleep();
  EXPECT_GT(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(50));
}

}  // namespace
}  // namespace annulus
