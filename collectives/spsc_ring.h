// SpscRing: lock-free ring of descriptors from one rank to one other, in shared memory.
//
// The sender alone writes free lines, the receiver alone takes full ones; a line's sequence word says whose
// turn it is. Nothing blocks here: try_send and peek say whether they could, and waiting is
// collectives/wait.h's affair. When the peer dies, lines stay as they are: a full line is still whole,
// because its sequence word is written last, and a line that was being written stays free. reset() makes the
// ring new once both sides have stopped. A bounded queue after D. Vyukov, with one producer and one consumer.
//
//      RingHeader   lines: capacity (a power of two, at least 2) x 64 bytes
//      +---------+  +----------+---------------------+  +----------+--- - -
//      | claimed |  | sequence | descriptor (56)     |  | sequence | ...
//      +---------+  +----------+---------------------+  +----------+--- - -
//
//   sequence of line i:   n              free for the n-th message  (n mod capacity = i)
//                         n + 1          holds the n-th message
//                         n + capacity   free again: the receiver has given the line back
//
// Ordering:
//   R0 sender: sequence = n + 1 (release)    -> A0 receiver: reads sequence (acquire), then the descriptor
//                                                  and every payload written before R0
//   R1 receiver: sequence = n + capacity     -> A1 sender: reads sequence (acquire), then overwrites the line
//      (release)
// Non-temporal stores are outside this order: send through publish(), which fences them first.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>
#include <optional>

#include "collectives/descriptor.h"
#include "collectives/protocol_point.h"
#include "collectives/wait.h"
#include "telemetry/check.h"

namespace annulus {

struct alignas(kLineBytes) RingLine {
  std::atomic<uint64_t> sequence;
  Descriptor descriptor;
};
static_assert(sizeof(RingLine) == kLineBytes);
static_assert(std::is_trivially_destructible_v<RingLine>);

struct alignas(kRankSpacing) RingHeader {
  std::atomic<uint32_t> sender_claimed;
  std::atomic<uint32_t> receiver_claimed;
};
static_assert(sizeof(RingHeader) == kRankSpacing);

// A ring in shared memory, as seen by one process. Endpoints are handles that the ring gives out once.
class SpscRing {
 public:
  // The smallest capacity that holds `messages` at once.
  static uint32_t capacity_for(int64_t messages) {
    return std::bit_ceil(static_cast<uint32_t>(std::max<int64_t>(messages, 2)));
  }

  // Bytes that a ring of `capacity` lines occupies.
  static std::size_t bytes(uint32_t capacity) { return sizeof(RingHeader) + capacity * sizeof(RingLine); }

  // `memory`: bytes(capacity) bytes, aligned to kRankSpacing; capacity: a power of two, at least 2 (with one
  // line, "full" and "free again" would be the same number).
  SpscRing(std::byte* memory, uint32_t capacity)
      : header_(reinterpret_cast<RingHeader*>(memory)),
        lines_(reinterpret_cast<RingLine*>(memory + sizeof(RingHeader))),
        capacity_(capacity) {
    CHECK(capacity >= 2 && (capacity & (capacity - 1)) == 0, "ring capacity {}", capacity);
    CHECK(reinterpret_cast<uintptr_t>(memory) % kRankSpacing == 0);
  }

  // Makes the ring empty and its endpoints free to be claimed. Only while neither side uses it.
  void reset() {
    header_->sender_claimed.store(0, std::memory_order_relaxed);
    header_->receiver_claimed.store(0, std::memory_order_relaxed);
    for (uint32_t i = 0; i < capacity_; ++i) lines_[i].sequence.store(i, std::memory_order_release);
  }

  class Sender {
   public:
    // Writes one descriptor; false if no line is free. Memory ordering: what the caller wrote before with
    // ordinary stores is visible to the receiver that takes the descriptor (R0 -> A0).
    bool try_send(const Descriptor& descriptor) {
      if (!can_send()) return false;
      RingLine& line = lines_[next_ & mask_];
      line.descriptor = descriptor;
      protocol_point(ProtocolPoint::kSend);
      line.sequence.store(next_ + 1, std::memory_order_release);  // R0
      ++next_;
      return true;
    }
    // Whether a line is free. Lines come back in order, so one look at a line half a ring ahead answers for
    // all before it: the line that the receiver wrote last is rarely touched.
    bool can_send() {
      if (next_ < free_until_) return true;
      protocol_point(ProtocolPoint::kReuse);
      for (const uint64_t ahead : {mask_ / 2, uint64_t{0}}) {
        const uint64_t n = next_ + ahead;
        if (lines_[n & mask_].sequence.load(std::memory_order_acquire) != n) continue;  // A1
        free_until_ = n + 1;
        return true;
      }
      return false;
    }
    // Whether the receiver has given all descriptors before the n-th back. Memory ordering: its reads of
    // their payloads come before what the caller does next (R1 -> A1).
    bool given_back(uint64_t n) const {
      const uint64_t capacity = mask_ + 1;
      if (n == 0 || n + capacity <= next_) return true;  // the line has been used again since
      return lines_[(n - 1) & mask_].sequence.load(std::memory_order_acquire) != n;  // A1
    }
    uint64_t sent() const { return next_; }

   private:
    friend class SpscRing;
    Sender(RingLine* lines, uint64_t mask) : lines_(lines), mask_(mask) {}
    RingLine* lines_;
    uint64_t mask_;
    uint64_t next_ = 0;
    uint64_t free_until_ = 0;  // messages before this one have free lines
  };

  class Receiver {
   public:
    // The oldest descriptor that was sent and not yet accepted. Memory ordering: sees all that the sender
    // wrote before it sent (A0). The pointer is valid until its line is released.
    const Descriptor* peek() const {
      protocol_point(ProtocolPoint::kPeek);
      const RingLine& line = lines_[next_ & mask_];
      if (line.sequence.load(std::memory_order_acquire) != next_ + 1) return nullptr;  // A0
      return &line.descriptor;
    }
    // Moves on to the next descriptor; the line is kept until release().
    void accept() {
      protocol_point(ProtocolPoint::kAccept);
      ++next_;
    }
    // Gives the oldest line that was accepted back to the sender. Memory ordering: the receiver's reads of
    // the line and of its payload come before the sender's next writes (R1 -> A1).
    void release() {
      CHECK(released_ < next_);
      protocol_point(ProtocolPoint::kRelease);
      lines_[released_ & mask_].sequence.store(released_ + mask_ + 1, std::memory_order_release);  // R1
      ++released_;
    }

   private:
    friend class SpscRing;
    Receiver(RingLine* lines, uint64_t mask) : lines_(lines), mask_(mask) {}
    RingLine* lines_;
    uint64_t mask_;
    uint64_t next_ = 0;
    uint64_t released_ = 0;
  };

  // The one sending end. A second claim is a broken invariant and stops the program.
  Sender sender() {
    CHECK(header_->sender_claimed.exchange(1, std::memory_order_relaxed) == 0, "a second sender");
    return Sender(lines_, capacity_ - 1);
  }
  // The one receiving end.
  Receiver receiver() {
    CHECK(header_->receiver_claimed.exchange(1, std::memory_order_relaxed) == 0, "a second receiver");
    return Receiver(lines_, capacity_ - 1);
  }

 private:
  RingHeader* header_;
  RingLine* lines_;
  uint32_t capacity_;
};

}  // namespace annulus
