// Bridges whose bytes are harmed on their way: all hosts come to the right sums or give up, none hangs, none
// has a wrong sum, and the next attempt works.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>

#include "collectives/bridge.h"
#include "collectives/bridge_links.h"
#include "collectives/crc32c.h"
#include "collectives/secret.h"
#include "telemetry/error.h"
#include "tests/collectives/harmful_proxy.h"

namespace annulus {
namespace {

using Bytes = HarmfulProxy::Bytes;
using Message = HarmfulProxy::Message;
using Way = HarmfulProxy::Way;
using Harm = HarmfulProxy::Harm;

// Five chunks, nothing, a block: many frames, of which two and more are under way at a time.
constexpr int64_t kElements = 5 * kChunkElements + kBlockElements;
const std::vector<ShardRange> kSlices{
    {0, 5 * kChunkElements}, {5 * kChunkElements, 5 * kChunkElements}, {5 * kChunkElements, kElements}};
constexpr uint32_t kSteps = 3;
constexpr int kMostHosts = 3;

// Ends the program where a test hangs, destructors included.
class Watchdog {
 public:
  explicit Watchdog(std::string what)
      : thread_([this, what = std::move(what)] {
          std::unique_lock lock(mutex_);
          if (ended_.wait_for(lock, std::chrono::seconds(60), [this] { return is_over_; })) return;
          std::fprintf(stderr, "hangs: %s\n", what.c_str());
          std::abort();
        }) {}
  ~Watchdog() {
    {
      const std::lock_guard lock(mutex_);
      is_over_ = true;
    }
    ended_.notify_all();
    thread_.join();
  }

 private:
  std::mutex mutex_;
  std::condition_variable ended_;
  bool is_over_ = false;
  std::thread thread_;
};

// What a host brings in a step: whole numbers, so that sums have the same bits in whatever order they are
// made. Made once: under sanitizers loops are slow.
using Values = std::vector<float>;

const Values& values(int host, uint32_t step) {
  static const std::vector<Values> all = [] {
    std::vector<Values> all;
    for (int64_t which = 0; which < kMostHosts * kSteps; ++which) {
      Values& one = all.emplace_back(kElements);
      for (int64_t i = 0; i < kElements; ++i) {
        one[i] = static_cast<float>((i * 2'654'435'761 + which * 40'503) % 4'099 - 2'049);
      }
    }
    return all;
  }();
  return all[host * kSteps + step - 1];
}

const Values& sum_over(int hosts, uint32_t step) {
  static const std::vector<Values> all = [] {
    std::vector<Values> all;
    for (uint32_t step = 1; step <= kSteps; ++step) {
      Values sum(kElements);
      for (int host = 0; host < kMostHosts; ++host) {
        const Values& one = values(host, step);
        for (int64_t i = 0; i < kElements; ++i) sum[i] += one[i];
        all.push_back(sum);
      }
    }
    return all;
  }();
  return all[(step - 1) * kMostHosts + hosts - 1];
}

// Sends slices as they are: the last one whole, to be summed on the way, the others as messages.
class PackedSlices final : public BridgePacking {
 public:
  explicit PackedSlices(float* array) : array_(array), whole_(kSlices.back().count()) {}
  std::span<float> whole(int bucket) override {
    return is_whole(bucket) ? std::span<float>(whole_) : std::span<float>();
  }
  std::span<const std::byte> pack(uint32_t, int bucket) override {
    const std::span<const float> slice(array_ + kSlices[bucket].begin, kSlices[bucket].count());
    if (is_whole(bucket)) std::copy(slice.begin(), slice.end(), whole_.begin());
    message_.assign(slice.begin(), is_whole(bucket) ? slice.begin() : slice.end());
    return std::as_bytes(std::span(message_));
  }
  uint64_t most_bytes(int bucket) const override {
    return is_whole(bucket) ? 0 : kSlices[bucket].count() * sizeof(float);
  }
  void unpack(uint32_t, int bucket, const std::vector<std::span<const std::byte>>& messages) override {
    const std::span<float> slice(array_ + kSlices[bucket].begin, kSlices[bucket].count());
    if (is_whole(bucket)) {
      std::copy(whole_.begin(), whole_.end(), slice.begin());
      return;
    }
    for (const auto& message : messages) {
      if (message.size() != slice.size_bytes()) throw LinkError("a message of another length");
    }
    std::memcpy(slice.data(), messages[0].data(), slice.size_bytes());
    for (std::size_t host = 1; host < messages.size(); ++host) {
      const float* const part = reinterpret_cast<const float*>(messages[host].data());
      for (std::size_t i = 0; i < slice.size(); ++i) slice[i] += part[i];
    }
  }

 private:
  static bool is_whole(int bucket) { return bucket + 1 == std::ssize(kSlices); }

  float* array_;
  std::vector<float> whole_, message_;
};

// How an attempt ended on one host.
struct Outcome {
  uint32_t steps = 0;   // whose sums were all there, and right
  std::string failure;  // what() of the LinkError
  bool left = false;    // told to, by the end of the attempt elsewhere
};

// All hosts of a job on one machine; the last one reaches the first one through a proxy.
class Hosts {
 public:
  Hosts(int count, bool packed) : packed_(packed), secret_(new_secret()) {
    for (int node = 0; node < count; ++node) {
      listeners_.push_back(listen_on(resolve("127.0.0.1", 0)));
      addresses_.push_back(local_address(listeners_.back().get()));
      arrays_.emplace_back(kElements);
    }
  }

  int count() const { return static_cast<int>(addresses_.size()); }
  int last() const { return count() - 1; }
  const SocketAddress& address(int node) const { return addresses_[node]; }
  const Secret& secret() const { return secret_; }
  std::unique_ptr<HarmfulProxy> proxy(Harm harm) const {
    return std::make_unique<HarmfulProxy>(addresses_[0], std::move(harm));
  }

  BridgePeers peers(int node, uint32_t attempt, const HarmfulProxy* proxy) const {
    BridgePeers peers{.own = {.purpose = Purpose::kBridge,
                              .node = static_cast<uint32_t>(node),
                              .rank = 0,
                              .world = static_cast<uint32_t>(count()),
                              .attempt = attempt,
                              .job = 7,
                              .config_hash = 8,
                              .program_hash = 9},
                      .secret = secret_,
                      .addresses = addresses_,
                      .listener = listeners_[node].get()};
    if (proxy != nullptr && node == last()) peers.addresses[0] = proxy->address();
    return peers;
  }
  std::unique_ptr<Bridge> bridge(int node, uint32_t attempt, BridgeConnect connect) {
    return std::make_unique<Bridge>(
        BridgePlan{.hosts = count(), .node = node, .slices = kSlices},
        Bridge::Wiring{.connect = std::move(connect),
                       .arrays = {arrays_[node].data()},
                       .packing = packed_ ? std::make_unique<PackedSlices>(arrays_[node].data()) : nullptr,
                       .attempt = attempt,
                       .wake = [] {}});
  }
  std::unique_ptr<Bridge> bridge(int node, uint32_t attempt, const HarmfulProxy* proxy) {
    return bridge(node, attempt, connect_bridge(peers(node, attempt, proxy)));
  }

  // Some steps on one host. The bridge's life ends where it fails, as a worker's does; after success it
  // stays.
  Outcome train(int node, std::unique_ptr<Bridge>& bridge, const std::atomic<bool>& leave) {
    Outcome outcome;
    try {
      while (outcome.steps < kSteps) {
        if (!step(node, *bridge, outcome.steps + 1, leave)) {
          outcome.left = true;
          break;
        }
        ++outcome.steps;
      }
    } catch (const LinkError& error) {
      outcome.failure = error.what();
    }
    if (outcome.steps < kSteps) bridge.reset();
    return outcome;
  }

  // An attempt of all hosts. `others_leave`: where one gives up, the others are told to leave, as launchers
  // do; else they must find out by themselves.
  std::vector<Outcome> attempt(uint32_t number, const HarmfulProxy* proxy, bool others_leave = false) {
    const Watchdog watchdog("attempt " + std::to_string(number));
    std::vector<std::unique_ptr<Bridge>> bridges(count());
    std::vector<Outcome> outcomes(count());
    std::vector<std::thread> threads;
    std::atomic<bool> leave{false};
    for (int node = 0; node < count(); ++node) {
      bridges[node] = bridge(node, number, proxy);
      threads.emplace_back([&, node] {
        outcomes[node] = train(node, bridges[node], leave);
        if (others_leave && !outcomes[node].failure.empty()) leave = true;
      });
    }
    for (std::thread& thread : threads) thread.join();
    return outcomes;
  }

 private:
  // False: told to leave.
  bool step(int node, Bridge& bridge, uint32_t step, const std::atomic<bool>& leave) {
    std::vector<float>& array = arrays_[node];
    std::memcpy(array.data(), values(node, step).data(), kElements * sizeof(float));
    bridge.begin(step);
    for (std::size_t bucket = 0; bucket < kSlices.size(); ++bucket) bridge.submit();
    while (!bridge.reached(kSlices.size())) {
      if (leave) return false;
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    // Before check(): what is said to be done must be right, also where the bridge has failed since.
    for (std::size_t bucket = 0; bucket < bridge.done(); ++bucket) {
      const ShardRange& slice = kSlices[bucket];
      EXPECT_EQ(std::memcmp(array.data() + slice.begin, sum_over(count(), step).data() + slice.begin,
                            slice.count() * sizeof(float)),
                0)
          << "a wrong sum: host " << node << ", step " << step << ", bucket " << bucket;
    }
    bridge.check();
    return true;
  }

  const bool packed_;
  const Secret secret_;
  std::vector<UniqueFd> listeners_;
  std::vector<SocketAddress> addresses_;
  std::vector<std::vector<float>> arrays_;
};

void expect_success(const std::vector<Outcome>& outcomes) {
  for (const Outcome& outcome : outcomes) {
    EXPECT_EQ(outcome.steps, kSteps) << outcome.failure;
    EXPECT_EQ(outcome.failure, "");
  }
}

std::string failures(const std::vector<Outcome>& outcomes) {
  std::string all;
  for (const Outcome& outcome : outcomes) all += "[" + outcome.failure + "] ";
  return all;
}

// --- What is done to frames ---

// Frame 1 of its way, of which frame 2 follows without waiting for an answer.
constexpr int kHarmed = 1;

Bytes flipped(const Bytes& bytes, std::size_t at, int bit) {
  Bytes result = bytes;
  result[at] ^= static_cast<std::byte>(1 << bit);
  return result;
}

std::span<const std::byte> half(const Message& message) {
  return std::span(message.bytes).first(message.bytes.size() / 2);
}

std::span<const std::byte> other_half(const Message& message) {
  return std::span(message.bytes).subspan(message.bytes.size() / 2);
}

struct Fault {
  const char* name;
  // What is done to frame kHarmed and those after it of the harmed way.
  std::function<void(Way&, const Message&)> harm;
  // That one of the hosts must give a reason with; null: the run must not be disturbed.
  const char* reason;
};

// Called for each frame from kHarmed on.
void only_first(Way& way, const Message& message, const std::function<void()>& harm) {
  if (message.number == kHarmed) return harm();
  way.pass(message.bytes);
}

const Fault kFaults[] = {
    {"Reset",
     [](Way& way, const Message& message) {
       way.pass(half(message));
       way.reset();
     },
     ""},
    {"ResetBetweenFrames", [](Way& way, const Message&) { way.reset(); }, ""},
    {"Closed",
     [](Way& way, const Message& message) {
       way.pass(half(message));
       way.close();
     },
     ""},
    {"ClosedBetweenFrames", [](Way& way, const Message&) { way.close(); }, ""},
    {"BitOfHeader",
     [](Way& way, const Message& message) {
       only_first(way, message, [&] { way.pass(flipped(message.bytes, 44, 3)); });
     },
     "header's CRC-32C"},
    {"BitOfPayload",
     [](Way& way, const Message& message) {
       only_first(way, message, [&] { way.pass(flipped(message.bytes, message.bytes.size() - 2, 5)); });
     },
     "payload's CRC-32C"},
    {"CutShort",
     [](Way& way, const Message& message) {
       only_first(way, message,
                  [&] { way.pass(std::span(message.bytes).first(message.bytes.size() - 100)); });
     },
     "payload's CRC-32C"},
    {"LeftOut", [](Way& way, const Message& message) { only_first(way, message, [] {}); }, "descriptor"},
    {"Doubled",
     [](Way& way, const Message& message) {
       only_first(way, message, [&] {
         way.pass(message.bytes);
         way.pass(message.bytes);
       });
     },
     "descriptor"},
    {"TooLong",
     [](Way& way, const Message& message) {
       only_first(way, message, [&] {
         FrameHeader header =
             make_frame_header(message.header().kind, message.header().note, message.header().descriptor,
                               std::span(message.bytes).subspan(sizeof(FrameHeader)));
         header.descriptor.length = uint64_t{1} << 40;
         header.header_crc = 0;
         header.header_crc = crc32c(std::as_bytes(std::span(&header, 1)));
         Bytes bytes = message.bytes;
         std::memcpy(bytes.data(), &header, sizeof header);
         way.pass(bytes);
       });
     },
     "1099511627776 bytes"},
    {"Delayed",
     [](Way& way, const Message& message) {
       if (message.number < 10) way.rest(200);  // a step's; the test would take long
       way.pass(message.bytes);
     },
     nullptr},
    {"Stalled",
     [](Way& way, const Message& message) {
       only_first(way, message, [&] {
         way.pass(half(message));
         way.rest(1'000);
         way.pass(other_half(message));
       });
     },
     nullptr},
    {"Trickled",
     [](Way& way, const Message& message) {
       constexpr std::size_t kSlow = 2'000;
       only_first(way, message, [&] {
         for (std::size_t i = 0; i < kSlow; ++i) {
           way.pass(std::span(message.bytes).subspan(i, 1));
           way.rest(1);
         }
         way.pass(std::span(message.bytes).subspan(kSlow));
       });
     },
     nullptr},
};

struct Case {
  const Fault* fault;
  int hosts;
  bool packed;
  bool to_listener;
};

std::string text(const testing::TestParamInfo<Case>& info) {
  const Case& c = info.param;
  return std::string(c.fault->name) + (c.packed ? "Packed" : "Dense") + std::to_string(c.hosts) + "Hosts" +
         (c.to_listener ? "ToListener" : "FromListener");
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const Fault& fault : kFaults) {
    for (const bool packed : {false, true}) {
      for (const bool to_listener : {false, true}) all.push_back({&fault, 2, packed, to_listener});
      all.push_back({&fault, 3, packed, true});
    }
  }
  return all;
}

class HarmedFrames : public testing::TestWithParam<Case> {};

TEST_P(HarmedFrames, EndInTheRightSumsOrInLinkErrorsOfAll) {
  const Case& c = GetParam();
  Hosts hosts(c.hosts, c.packed);
  std::atomic<int> harmed{0};
  auto proxy = hosts.proxy([&](Way& way, const Message& message) {
    const bool is_meant = !message.handshake && message.to_listener == c.to_listener;
    if (!is_meant || message.number < kHarmed) return way.pass(message.bytes);
    ++harmed;
    c.fault->harm(way, message);
  });
  const std::vector<Outcome> outcomes = hosts.attempt(1, proxy.get());
  EXPECT_GT(harmed, 0);
  if (c.fault->reason == nullptr) {
    expect_success(outcomes);
  } else {
    EXPECT_NE(failures(outcomes).find(c.fault->reason), std::string::npos) << failures(outcomes);
    for (const Outcome& outcome : outcomes) EXPECT_NE(outcome.failure, "");
  }
  proxy = hosts.proxy(HarmfulProxy::none);
  expect_success(hosts.attempt(2, proxy.get()));
}

INSTANTIATE_TEST_SUITE_P(Bridge, HarmedFrames, testing::ValuesIn(cases()), text);

class BridgeThroughProxy : public testing::TestWithParam<bool> {
 protected:
  bool packed() const { return GetParam(); }
};

INSTANTIATE_TEST_SUITE_P(Bridge, BridgeThroughProxy, testing::Bool(),
                         [](const auto& info) { return std::string(info.param ? "Packed" : "Dense"); });

TEST_P(BridgeThroughProxy, RefusesFramesInAnotherOrder) {
  for (const bool to_listener : {false, true}) {
    Hosts hosts(2, packed());
    Bytes kept;
    auto proxy = hosts.proxy([&](Way& way, const Message& message) {
      if (message.handshake || message.to_listener != to_listener) return way.pass(message.bytes);
      if (message.number == kHarmed) {
        kept = message.bytes;
        return;
      }
      way.pass(message.bytes);
      if (message.number == kHarmed + 1) way.pass(kept);
    });
    const std::vector<Outcome> outcomes = hosts.attempt(1, proxy.get());
    for (const Outcome& outcome : outcomes) EXPECT_NE(outcome.failure, "");
    EXPECT_NE(failures(outcomes).find("descriptor"), std::string::npos) << failures(outcomes);
    proxy = hosts.proxy(HarmfulProxy::none);
    expect_success(hosts.attempt(2, proxy.get()));
  }
}

// The frames of an attempt, which are whole and of the right step, in place of those of the next one.
TEST_P(BridgeThroughProxy, RefusesFramesOfAnEarlierAttempt) {
  for (const bool to_listener : {false, true}) {
    Hosts hosts(2, packed());
    std::vector<Bytes> earlier;
    auto proxy = hosts.proxy([&](Way& way, const Message& message) {
      if (!message.handshake && message.to_listener == to_listener) earlier.push_back(message.bytes);
      way.pass(message.bytes);
    });
    expect_success(hosts.attempt(1, proxy.get()));
    proxy = hosts.proxy([&](Way& way, const Message& message) {
      const bool is_meant = !message.handshake && message.to_listener == to_listener;
      way.pass(is_meant ? earlier.at(message.number) : message.bytes);
    });
    const std::vector<Outcome> outcomes = hosts.attempt(2, proxy.get());
    for (const Outcome& outcome : outcomes) EXPECT_NE(outcome.failure, "");
    EXPECT_NE(failures(outcomes).find("attempt is 1, where 2 was due"), std::string::npos)
        << failures(outcomes);
    proxy = hosts.proxy(HarmfulProxy::none);
    expect_success(hosts.attempt(3, proxy.get()));
  }
}

// --- Handshakes ---

// One message of the first handshake with a bit flipped: who finds out gives up or tries again, and never is
// a connection good on both sides that was not meant.
TEST(BridgeHandshake, SurvivesFlippedBits) {
  std::mt19937 random(1);
  for (int round = 0; round < 16; ++round) {
    const bool to_listener = round & 1;
    const int number = round >> 1 & 1;
    Hosts hosts(2, false);
    auto proxy = hosts.proxy([&](Way& way, const Message& message) {
      const bool is_meant = message.connection == 0 && message.handshake &&
                            message.to_listener == to_listener && message.number == number;
      if (!is_meant) return way.pass(message.bytes);
      way.pass(flipped(message.bytes, random() % message.bytes.size(), static_cast<int>(random() % 8)));
    });
    const std::vector<Outcome> outcomes = hosts.attempt(1, proxy.get(), true);
    // Both trained, which takes a second handshake, or one has given up.
    const bool trained = outcomes[0].steps == kSteps && outcomes[1].steps == kSteps;
    EXPECT_TRUE(trained || failures(outcomes) != "[] [] ") << "round " << round;
    proxy = hosts.proxy(HarmfulProxy::none);
    expect_success(hosts.attempt(2, proxy.get()));
  }
}

// The first handshake cut off within or after each of its messages.
TEST(BridgeHandshake, SurvivesItsEndAtAnyPoint) {
  for (int round = 0; round < 16; ++round) {
    const bool to_listener = round & 1, resets = round & 4, whole = round & 8;
    const int number = round >> 1 & 1;
    Hosts hosts(2, false);
    auto proxy = hosts.proxy([&](Way& way, const Message& message) {
      const bool is_meant = message.connection == 0 && message.handshake &&
                            message.to_listener == to_listener && message.number == number;
      if (!is_meant) return way.pass(message.bytes);
      way.pass(whole ? std::span<const std::byte>(message.bytes) : half(message));
      resets ? way.reset() : way.close();
    });
    const std::vector<Outcome> outcomes = hosts.attempt(1, proxy.get(), true);
    const bool trained = outcomes[0].steps == kSteps && outcomes[1].steps == kSteps;
    EXPECT_TRUE(trained || failures(outcomes) != "[] [] ") << "round " << round;
    proxy = hosts.proxy(HarmfulProxy::none);
    expect_success(hosts.attempt(2, proxy.get()));
  }
}

TEST(BridgeHandshake, WithAnotherSecretComesToNothing) {
  const Watchdog watchdog("another secret");
  Hosts hosts(2, false);
  const std::atomic<bool> never{false};
  auto first = hosts.bridge(0, 1, nullptr);
  BridgePeers peers = hosts.peers(1, 1, nullptr);
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
  Hosts hosts(2, false);
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
  proxy = hosts.proxy(HarmfulProxy::none);
  expect_success(hosts.attempt(1, proxy.get()));
}

TEST(BridgeHandshake, ComesThroughAThousandIdleConnections) {
  rlimit files;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &files), 0);
  files.rlim_cur = std::min<rlim_t>(files.rlim_max, 4096);
  setrlimit(RLIMIT_NOFILE, &files);
  if (files.rlim_cur < 1'300) GTEST_SKIP() << "SKIPPED: " << files.rlim_cur << " open files at most";
  for (const uint32_t attempt : {1u, 2u}) {
    Hosts hosts(2, false);
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
  Hosts hosts(2, false);
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
  Hosts hosts(2, false);
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

// --- Leaving ---

TEST(BridgeLeaving, NeedsNoPeer) {
  const Watchdog watchdog("no peer");
  for (const int node : {0, 1}) {
    Hosts hosts(2, false);
    auto bridge = hosts.bridge(node, 1, nullptr);
    bridge->begin(1);
    bridge->submit();
    std::this_thread::sleep_for(std::chrono::milliseconds(node * 20));
    bridge.reset();
  }
}

// A silent peer, from any message on: whoever is told to leaves.
TEST(BridgeLeaving, NeedsNoWordOfAPeer) {
  for (const bool packed : {false, true}) {
    for (int from = 0; from < 8; ++from) {
      const Watchdog watchdog("silent from message " + std::to_string(from));
      Hosts hosts(2, packed);
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

// --- Sleeping ---

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
    Hosts hosts(2, false);
    auto bridge = hosts.bridge(node, 1, nullptr);
    bridge->begin(1);
    bridge->submit();
    expect_asleep(*bridge);
  }
}

// A peer by hand, which says all of its part and takes two frames alone, while the exchange goes on.
TEST(BridgeSleeps, WhileAPeerReadsNothing) {
  int fds[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
  const int small = 4'096;
  setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
  Hosts hosts(2, true);
  auto bridge = hosts.bridge(0, 1, [&](const Bridge::Leave&) {
    TcpTransport::Streams streams(2);
    streams[1] = std::make_unique<FrameStream>(UniqueFd(fds[0]), "peer",
                                               FrameStream::Limits{.most_payload = 1 << 20, .most_held = 64});
    return streams;
  });
  FrameStream peer(UniqueFd(fds[1]), "bridge", {.most_payload = 1 << 20, .most_held = 2});
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
  int fds[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
  TcpTransport::Streams streams(2);
  streams[1] = std::make_unique<FrameStream>(UniqueFd(fds[0]), "peer",
                                             FrameStream::Limits{.most_payload = 1, .most_held = 1});
  TcpTransport transport(0, std::move(streams), DataType::kF32, {});
  {
    FrameStream peer(UniqueFd(fds[1]), "transport", {});
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
