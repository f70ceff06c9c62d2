#include "collectives/message_gather.h"

#include <algorithm>
#include <cstring>

#include "telemetry/error.h"

namespace annulus {
namespace {

constexpr uint64_t kFrameBytes = 256 << 10;

uint32_t frames_of(uint64_t bytes) {
  return static_cast<uint32_t>(std::max<uint64_t>((bytes + kFrameBytes - 1) / kFrameBytes, 1));
}

}  // namespace

void MessageGather::begin(const RunLabel& label, std::span<const std::byte> own, uint64_t most) {
  label_ = label;
  most_ = most;
  std::fill(sent_.begin(), sent_.end(), 0);
  for (Incoming& in : in_) in.done = in.frames = in.whole = 0;
  messages_.assign(transport_.ranks(), {});
  messages_[transport_.rank()] = own;
}

bool MessageGather::advance() {
  bool done = true;
  for (int peer = 0; peer < transport_.ranks(); ++peer) {
    if (peer == transport_.rank()) continue;
    post(peer);
    take(peer);
    done &= in_[peer].whole && sent_[peer] == frames_of(messages_[transport_.rank()].size());
  }
  return done;
}

// Frame `frame` of a message of `whole` bytes.
Descriptor MessageGather::describe(uint32_t frame, uint64_t length, uint64_t whole, int source) const {
  return {.step = label_.step,
          .attempt = label_.attempt,
          .phase = label_.phase,
          .type = length == 0 ? Payload::kNothing : Payload::kInput,
          .round = 0,
          .source = static_cast<uint32_t>(source),
          .bucket = label_.bucket,
          .chunk = frame,
          .slice = 0,
          .place = 0,
          .length = length,
          .call = whole};
}

void MessageGather::post(int peer) {
  const std::span<const std::byte> own = messages_[transport_.rank()];
  while (sent_[peer] < frames_of(own.size()) && transport_.can_post(peer)) {
    const uint64_t begin = sent_[peer] * kFrameBytes;
    const std::span<const std::byte> part = own.subspan(begin, std::min(kFrameBytes, own.size() - begin));
    transport_.post(peer, describe(sent_[peer], part.size(), own.size(), transport_.rank()), part.data());
    ++sent_[peer];
  }
}

void MessageGather::take(int peer) {
  Incoming& in = in_[peer];
  while (!in.whole) {
    const Descriptor* const got = transport_.peek(peer);
    if (got == nullptr) return;
    const uint64_t whole = got->call;
    if (whole > most_) {
      throw LinkError(
          fmt::format("host {}: a message of {} bytes, where {} are the most", peer, whole, most_));
    }
    if (in.frames == 0 && in.bytes.size() < whole) in.bytes.resize(whole);
    const uint64_t due = std::min(kFrameBytes, whole - std::min(whole, in.done));
    validate(*got, describe(in.frames, due, in.frames == 0 ? whole : messages_[peer].size(), peer),
             static_cast<uint32_t>(transport_.rank()));
    messages_[peer] = std::span(in.bytes.data(), whole);
    transport_.accept(peer);
    if (due > 0) std::memcpy(in.bytes.data() + in.done, transport_.arrived(peer, 0), due);
    transport_.release(peer, false);
    in.done += due;
    ++in.frames;
    in.whole = in.done == whole;
  }
}

}  // namespace annulus
