// Frames over a pair of sockets: what arrives, and what is refused.
#include "collectives/frame_stream.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <numeric>

#include "collectives/crc32c.h"
#include "collectives/tcp.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

using Bytes = std::vector<std::byte>;

Bytes bytes(std::size_t count) {
  Bytes result(count);
  for (std::size_t i = 0; i < count; ++i) result[i] = static_cast<std::byte>(i * 31 + 7);
  return result;
}

Descriptor descriptor(uint32_t chunk) {
  return {.step = 3, .attempt = 2, .round = 1, .source = 1, .bucket = 4, .chunk = chunk};
}

struct Pair {
  UniqueFd a, b;
  Pair() {
    int fds[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    a.reset(fds[0]);
    b.reset(fds[1]);
  }
};

constexpr FrameStream::Limits kLimits{.most_payload = 1 << 20, .most_held = 4};

// A whole frame as it goes over the wire.
Bytes wire(
    const Bytes& payload, const std::function<void(FrameHeader&)>& change = [](FrameHeader&) {},
    bool sums_again = true) {
  FrameHeader header = make_frame_header(FrameKind::kPayload, 0, descriptor(0), payload);
  change(header);
  if (sums_again) {
    header.header_crc = 0;
    header.header_crc = crc32c(std::as_bytes(std::span(&header, 1)));
  }
  Bytes all(sizeof header + payload.size());
  std::memcpy(all.data(), &header, sizeof header);
  std::copy(payload.begin(), payload.end(), all.begin() + sizeof header);
  return all;
}

// What becomes of these bytes: the frames that came, or why they were refused.
struct Outcome {
  int frames = 0;
  std::string refusal;
};
Outcome receive(const Bytes& all, bool closes = false) {
  Pair pair;
  FrameStream stream(std::move(pair.b), "peer", kLimits);
  Outcome outcome;
  std::size_t sent = 0;
  try {
    for (int idle = 0; idle < 3;) {
      const ssize_t done =
          send(pair.a.get(), all.data() + sent, all.size() - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (done > 0) sent += done;
      if (sent == all.size() && closes) pair.a.reset();
      idle = stream.pump() ? 0 : idle + 1;
      while (stream.peek() != nullptr) {
        ++outcome.frames;
        stream.accept();
        stream.release();
      }
    }
  } catch (const LinkError& error) {
    outcome.refusal = error.what();
  }
  return outcome;
}

TEST(FrameStream, CarriesPayloadsInOrder) {
  Pair pair;
  FrameStream a(std::move(pair.a), "b", kLimits), b(std::move(pair.b), "a", kLimits);
  std::vector<Bytes> payloads;
  for (const std::size_t size : {0, 1, 79, 80, 4096, 100'000, 1 << 20, 3}) payloads.push_back(bytes(size));
  for (uint32_t i = 0; i < payloads.size(); ++i)
    a.send(FrameKind::kPayload, descriptor(i), payloads[i], 50 + i);
  uint32_t seen = 0;
  while (seen < payloads.size()) {
    a.pump();
    b.pump();
    const FrameStream::Frame* frame = b.peek();
    if (frame == nullptr) continue;
    ASSERT_TRUE(std::ranges::equal(frame->payload, payloads[seen]));
    EXPECT_EQ(frame->header.note, 50 + seen);
    Descriptor expected = descriptor(seen);
    expected.length = payloads[seen].size();
    EXPECT_EQ(frame->header.descriptor, expected);
    b.accept();
    b.release();
    ++seen;
  }
  EXPECT_TRUE(a.flushed());
  EXPECT_EQ(a.bytes_sent(), b.bytes_received());
}

// A receiver that releases nothing makes its sender wait, and holds no more than its limit.
TEST(FrameStream, HoldsNoMoreThanItsLimit) {
  Pair pair;
  FrameStream a(std::move(pair.a), "b", kLimits), b(std::move(pair.b), "a", kLimits);
  const Bytes payload = bytes(1000);
  for (uint32_t i = 0; i < 10; ++i) a.send(FrameKind::kPayload, descriptor(i), payload);
  for (int i = 0; i < 100; ++i) a.pump(), b.pump();
  EXPECT_FALSE(b.wants_to_read());
  int held = 0;
  for (; b.peek() != nullptr; b.accept()) ++held;
  EXPECT_EQ(held, kLimits.most_held);
  EXPECT_EQ(b.accepted(0).header.descriptor.chunk, 0u);
  EXPECT_EQ(b.accepted(3).header.descriptor.chunk, 3u);
  b.release();
  b.pump();
  EXPECT_EQ(b.accepted(0).header.descriptor.chunk, 1u);
  ASSERT_NE(b.peek(), nullptr);
  EXPECT_EQ(b.peek()->header.descriptor.chunk, 4u);
}

TEST(FrameStream, TellsWhenAPayloadMayChange) {
  Pair pair;
  FrameStream a(std::move(pair.a), "b", kLimits), b(std::move(pair.b), "a", kLimits);
  const Bytes payload = bytes(1 << 20);  // more than the sockets hold
  const uint64_t number = a.send(FrameKind::kPayload, descriptor(0), payload);
  while (a.pump()) {
  }
  EXPECT_FALSE(a.sent(number));
  while (!a.sent(number)) a.pump(), b.pump();
  EXPECT_TRUE(a.flushed());
}

TEST(FrameStream, DeliversWhatCameBeforeTheEnd) {
  Bytes two = wire(bytes(100));
  const Bytes second = wire(bytes(5000));
  two.insert(two.end(), second.begin(), second.end());
  const Outcome outcome = receive(two, true);
  EXPECT_EQ(outcome.frames, 2);
  EXPECT_NE(outcome.refusal.find("closed"), std::string::npos) << outcome.refusal;
}

// A peer's last words over TCP, before it goes and leaves unread what was sent to it, which resets the
// connection. Who has something to send has all of them before it learns that it cannot, also those that it
// has no room for yet.
TEST(FrameStream, DeliversWhatCameBeforeSendingFails) {
  const UniqueFd listener = listen_on(resolve("127.0.0.1", 0));
  FrameStream stream(start_connect(local_address(listener.get())), "peer", kLimits);
  pollfd waiting{listener.get(), POLLIN, 0};
  ASSERT_EQ(poll(&waiting, 1, 60'000), 1);
  UniqueFd peer = accept_from(listener.get());
  ASSERT_TRUE(peer);
  stream.send(FrameKind::kBeat, {}, {});
  while (!stream.flushed()) stream.pump();
  const int frames = 3 * kLimits.most_held;
  for (int i = 0; i < frames; ++i) {
    const Bytes all = wire(bytes(10 + i));
    ASSERT_EQ(send(peer.get(), all.data(), all.size(), MSG_NOSIGNAL), static_cast<ssize_t>(all.size()));
  }
  peer.reset();
  pollfd reset{stream.fd(), 0, 0};
  ASSERT_EQ(poll(&reset, 1, 60'000), 1);
  stream.send(FrameKind::kBeat, {}, {});
  int came = 0;
  std::string failure;
  while (failure.empty()) {
    try {
      stream.pump();
    } catch (const LinkError& error) {
      failure = error.what();
    }
    for (; stream.peek() != nullptr; stream.release()) {
      EXPECT_EQ(stream.peek()->payload.size(), 10u + came++);
      stream.accept();
    }
  }
  EXPECT_EQ(failure, "peer: sending failed: Connection reset by peer");
  EXPECT_EQ(came, frames);
}

// However full it is with what nobody takes: who waits for room to send must not do so for ever.
TEST(FrameStream, ThatCannotSendSaysSoAlthoughFramesAreLeft) {
  Pair pair;
  const Bytes all = wire(bytes(10));
  ASSERT_EQ(send(pair.a.get(), all.data(), all.size(), MSG_NOSIGNAL), static_cast<ssize_t>(all.size()));
  pair.a.reset();
  FrameStream stream(std::move(pair.b), "peer", kLimits);
  stream.send(FrameKind::kBeat, {}, {});
  EXPECT_TRUE(stream.pump());
  EXPECT_THROW(stream.pump(), LinkError);
  EXPECT_NE(stream.peek(), nullptr);
}

TEST(FrameStream, RefusesEveryFlippedBit) {
  const Bytes whole = wire(bytes(64));
  ASSERT_EQ(receive(whole).frames, 1);
  for (std::size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    Bytes flipped = whole;
    flipped[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    const Outcome outcome = receive(flipped);
    ASSERT_EQ(outcome.frames, 0) << "bit " << bit;
    ASSERT_NE(outcome.refusal, "") << "bit " << bit;
  }
}

TEST(FrameStream, WaitsForACutFrameUntilTheEnd) {
  const Bytes whole = wire(bytes(64));
  for (std::size_t length = 1; length < whole.size(); ++length) {
    const Bytes cut(whole.begin(), whole.begin() + length);
    EXPECT_EQ(receive(cut).refusal, "") << length;
    EXPECT_NE(receive(cut, true).refusal, "") << length;
  }
}

TEST(FrameStream, RefusesWhatNoSenderMakes) {
  const struct {
    const char* name;
    std::function<void(FrameHeader&)> change;
    const char* text;
  } cases[] = {
      {"magic", [](FrameHeader& h) { h.magic ^= 1; }, "magic"},
      {"version", [](FrameHeader& h) { h.version = 9; }, "version is 9"},
      {"kind", [](FrameHeader& h) { h.kind = FrameKind{7}; }, "kind is 7"},
      {"zero", [](FrameHeader& h) { h.zero = 1; }, "reserved"},
      {"length", [](FrameHeader& h) { h.descriptor.length = (1 << 20) + 1; }, "at most 1048576"},
      {"huge length", [](FrameHeader& h) { h.descriptor.length = ~uint64_t{0}; }, "at most 1048576"},
      {"beat", [](FrameHeader& h) { h.kind = FrameKind::kBeat; }, "at most 0"},
      {"phase", [](FrameHeader& h) { h.descriptor.phase = Phase{0}; }, "phase is 0"},
      {"type", [](FrameHeader& h) { h.descriptor.type = Payload{99}; }, "type is 99"},
  };
  for (const auto& [name, change, text] : cases) {
    const Outcome outcome = receive(wire(bytes(10), change));
    EXPECT_EQ(outcome.frames, 0) << name;
    EXPECT_NE(outcome.refusal.find(text), std::string::npos) << name << ": " << outcome.refusal;
    EXPECT_EQ(outcome.refusal.rfind("peer: ", 0), 0u) << outcome.refusal;
  }
  EXPECT_NE(receive(wire(
                        bytes(10), [](FrameHeader& h) { ++h.descriptor.step; }, false))
                .refusal,
            "");
}

}  // namespace
}  // namespace annulus
