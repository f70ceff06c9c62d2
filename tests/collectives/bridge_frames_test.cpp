// Bridges whose frames are harmed on their way: all hosts come to the right sums or give up, none hangs, none
// has a wrong sum, and the next attempt works.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <string>

#include "collectives/crc32c.h"
#include "tests/collectives/training_hosts.h"

namespace annulus {
namespace {

using Bytes = HarmfulProxy::Bytes;
using Message = HarmfulProxy::Message;
using Way = HarmfulProxy::Way;

// Frame 1 of its way, of which frame 2 follows without waiting for an answer.
constexpr int kHarmed = 1;

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
  TrainingHosts hosts(c.hosts, c.packed);
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
    expect_failure(outcomes, c.fault->reason);
  }
  hosts.expect_sound_attempt(2);
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
    TrainingHosts hosts(2, packed());
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
    expect_failure(hosts.attempt(1, proxy.get()), "descriptor");
    hosts.expect_sound_attempt(2);
  }
}

// The frames of an attempt, which are whole and of the right step, in place of those of the next one.
TEST_P(BridgeThroughProxy, RefusesFramesOfAnEarlierAttempt) {
  for (const bool to_listener : {false, true}) {
    TrainingHosts hosts(2, packed());
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
    expect_failure(hosts.attempt(2, proxy.get()), "attempt is 1, where 2 was due");
    hosts.expect_sound_attempt(3);
  }
}

}  // namespace
}  // namespace annulus
