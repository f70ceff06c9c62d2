// FrameStream: frames over one connected socket, in both directions, without blocking.
//
// Who writes: one thread. send() queues, pump() hands to the kernel and takes from it what there is; who has
// nothing else to do polls fd(). What blocks: nothing. At most `most_held` frames are held at a time, and TCP
// makes the sender of more wait. What a dead peer does: pump() throws LinkError once the kernel says so; a
// peer that says nothing at all is for those to judge who expect it to.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "collectives/frame.h"
#include "collectives/unique_fd.h"

namespace annulus {

class FrameStream {
 public:
  struct Limits {
    uint64_t most_payload = 1 << 20;  // bytes of a frame's payload that are taken
    int most_held = 16;               // frames that have come and are not released
  };

  // Takes the socket over: connected, not blocking. `name`: of the peer, for messages.
  FrameStream(UniqueFd fd, std::string name, Limits limits);
  FrameStream(const FrameStream&) = delete;
  FrameStream& operator=(const FrameStream&) = delete;

  int fd() const { return fd_.get(); }
  const std::string& name() const { return name_; }

  // Queues a frame. The payload must stay as it is until sent(number) for the returned number, from 1.
  // descriptor.length is set to the payload's.
  uint64_t send(FrameKind kind, const Descriptor& descriptor, std::span<const std::byte> payload,
                uint32_t note = 0);
  // The same with a copy of the payload.
  uint64_t send_copy(FrameKind kind, const Descriptor& descriptor, std::span<const std::byte> payload);
  // Whether the kernel has all of the first `number` frames, so that their payloads may change.
  bool sent(uint64_t number) const { return number <= sent_; }
  uint64_t queued() const { return queued_; }
  uint64_t unsent() const { return queued_ - sent_; }
  bool flushed() const { return unsent() == 0; }

  // Sends and receives what can be at once; returns whether anything was. Throws LinkError when the
  // connection is broken or its peer sends what no sound peer can. Where sending fails, what the peer has
  // sent before is received first, and can be peeked at afterwards.
  bool pump();
  // The same, but that the other side has closed the connection is no failure: ended() tells.
  bool pump_until_end();
  // Whether that is so, and all that came before has been accepted.
  bool ended() const { return closed_ && peek() == nullptr; }
  // Whether pump() may receive more: not while `most_held` frames are held, nor after the end.
  bool wants_to_read() const { return !closed_ && static_cast<int>(held_.size()) < limits_.most_held; }
  bool wants_to_write() const { return !flushed(); }

  struct Frame {
    FrameHeader header;
    std::span<const std::byte> payload;
  };
  // The oldest frame that has come whole and was not accepted; null: none. Valid until released.
  const Frame* peek() const { return accepted_ < held_.size() ? &held_[accepted_].frame : nullptr; }
  void accept();
  // Frame `i` of those accepted and not released, oldest first.
  std::size_t accepted() const { return accepted_; }
  const Frame& accepted(std::size_t i) const { return held_[i].frame; }
  // Gives the oldest accepted frame's memory back.
  void release();

  uint64_t bytes_sent() const { return bytes_sent_; }  // headers included
  uint64_t bytes_received() const { return bytes_received_; }
  // How long what was sent took on the way: bytes by the rate at which the kernel has seen them delivered
  // (tcp(7), tcpi_delivery_rate), as of each call. Where the kernel knows no rate yet, a later call counts.
  int64_t link_ns();
  // That bytes were sent and not acknowledged, while the other side had room; 0 where the kernel does not
  // tell.
  int64_t unacknowledged_ns() const;

 private:
  // A payload's memory, kept for later frames.
  using Buffer = std::vector<std::byte>;
  struct Outgoing {
    FrameHeader header;
    std::span<const std::byte> payload;
    std::unique_ptr<Buffer> copy;
  };
  struct Held {
    Frame frame;
    std::unique_ptr<Buffer> buffer;
  };

  bool pump_out();
  bool pump_in();
  int64_t receive(std::byte* to, std::size_t bytes);
  [[noreturn]] void fail(const std::string& what) const;

  const UniqueFd fd_;
  const std::string name_;
  const Limits limits_;

  std::deque<Outgoing> out_;
  std::size_t out_done_ = 0;  // bytes of the first one that the kernel has
  uint64_t queued_ = 0, sent_ = 0;

  std::byte header_[sizeof(FrameHeader)];
  std::size_t header_done_ = 0;
  Held incoming_;  // valid once the header is whole
  std::size_t payload_done_ = 0;
  uint32_t payload_crc_ = 0;
  std::deque<Held> held_;
  std::size_t accepted_ = 0;
  bool closed_ = false;       // by the other side
  std::string send_failure_;  // empty: sending has not failed
  std::vector<std::unique_ptr<Buffer>> spare_;
  uint64_t bytes_sent_ = 0, bytes_received_ = 0;
  uint64_t timed_bytes_ = 0;  // of those sent, in link_ns_
  int64_t link_ns_ = 0;
};

}  // namespace annulus
