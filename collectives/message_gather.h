// MessageGather: every host sends a message of any length to every other one, and has all of them in the end.
//
// A message goes in frames of a chunk at most. Its frames say how long it is, so that receivers know the end,
// and refuse what is longer than they are ready for before they set memory aside.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "collectives/executor.h"
#include "collectives/tcp_transport.h"

namespace annulus {

class MessageGather {
 public:
  explicit MessageGather(TcpTransport& transport)
      : transport_(transport), in_(transport.ranks()), sent_(transport.ranks()) {}

  // Begins with the rank's own message, which must stay until all that was posted is given back. The label
  // must be equal on all hosts. `most`: bytes that a peer's message may have.
  void begin(const RunLabel& label, std::span<const std::byte> own, uint64_t most);
  // Does what can be done at once; says whether all messages are there and the own one is posted. Throws
  // StepError or LinkError where a frame is not what is due.
  bool advance();
  // That of a host, until the next begin().
  const std::vector<std::span<const std::byte>>& messages() const { return messages_; }

 private:
  struct Incoming {
    std::vector<std::byte> bytes;
    uint64_t done = 0;
    uint32_t frames = 0;
    bool whole = false;
  };
  Descriptor describe(uint32_t frame, uint64_t length, uint64_t whole, int source) const;
  void post(int peer);
  void take(int peer);

  TcpTransport& transport_;
  RunLabel label_;
  uint64_t most_ = 0;
  std::vector<Incoming> in_;    // by peer
  std::vector<uint32_t> sent_;  // by peer: frames
  std::vector<std::span<const std::byte>> messages_;
};

}  // namespace annulus
