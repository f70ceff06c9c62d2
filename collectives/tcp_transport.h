// TcpTransport: a connection to each peer; payloads travel with their descriptors.
//
// A payload goes out from where it lies. One that comes in lies in memory of its stream until its descriptor
// is released. Between fp32 and the wire there may be a narrower type: half the bytes, one rounding for each
// hop.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "collectives/frame_stream.h"
#include "collectives/transport.h"
#include "kernels/data_type.h"

namespace annulus {

class TcpTransport final : public Transport {
 public:
  // What frames say beside their descriptors, if anything: the sender's word, and what the receiver makes of
  // it.
  struct Notes {
    std::function<uint32_t()> write = [] { return 0u; };
    std::function<void(uint32_t)> read = [](uint32_t) {};
  };
  using Streams = std::vector<std::unique_ptr<FrameStream>>;

  // `streams`: by peer; null for the rank itself. `wire`: kF32, or what payloads, then of fp32, are sent as.
  // `deadline_ns`: what wait() waits while nothing comes and nothing goes; 0: for as long as connections
  // last.
  TcpTransport(int rank, Streams streams, DataType wire, Notes notes, int64_t deadline_ns = 0);

  bool in_place() const override { return false; }
  // All below throw LinkError as FrameStream::pump does.
  bool can_post(int peer) override;
  void post(int peer, const Descriptor& descriptor, const std::byte* payload) override;
  const Descriptor* peek(int peer) override;
  void accept(int peer) override;
  const std::byte* arrived(int peer, uint64_t place) const override;
  void release(int peer, bool wakes) override;
  uint64_t posted(int peer) const override;
  bool given_back(int peer, uint64_t posted) const override;
  void poll() override { (void)pump_until_ends(); }
  void beat() override {}
  // Sleeps on the sockets. A peer that has ended is no matter as long as nobody waits for it: it may be done.
  // Throws StepError past the deadline.
  void wait(const Waiting& what, const std::function<bool()>& ready) override;

  // Sends and receives what can be at once; returns whether anything was.
  bool pump();
  // Whether the kernel has all that was posted.
  bool flushed() const;
  // Sleeps until a socket can go on, `wake_fd` (if not negative) can be read, or 100 ms have passed.
  void sleep(int wake_fd = -1) const;
  uint64_t bytes_sent() const;  // headers included
  // Of the connection that took longest, as FrameStream's.
  int64_t link_ns();
  int64_t unacknowledged_ns() const;

 private:
  struct Peer {
    std::unique_ptr<FrameStream> stream;
    Descriptor front;  // of the oldest frame that is not accepted, with its length in fp32
    // By accepted frame, where the wire is narrower than fp32.
    std::deque<std::vector<float>> widened;
    std::vector<std::vector<float>> spare;
    // What was narrowed for frames that are not sent yet, oldest first, with the frames' numbers.
    struct Narrowed {
      uint64_t number;
      std::vector<std::byte> bytes;
    };
    std::deque<Narrowed> narrowed;
  };
  bool pump_until_ends();
  bool is_narrow() const { return wire_ != DataType::kF32; }
  Peer& peer(int index) { return peers_[index]; }

  std::vector<Peer> peers_;
  const DataType wire_;
  const Notes notes_;
  const int64_t deadline_ns_;
};

}  // namespace annulus
