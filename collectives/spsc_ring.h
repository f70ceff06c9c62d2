// SpscRing: lock-free ring of descriptors from one rank to one other, in shared memory.
//
// The sender alone writes free lines, the receiver alone takes full ones; a line's sequence word says whose
// turn it is. Nothing blocks here: try_send and try_take say whether they could, and waiting is
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
      RingLine& line = lines_[next_ & mask_];
      if (line.sequence.load(std::memory_order_acquire) != next_) return false;  // A1
      line.descriptor = descriptor;
      line.sequence.store(next_ + 1, std::memory_order_release);  // R0
      ++next_;
      return true;
    }
    uint64_t sent() const { return next_; }

   private:
    friend class SpscRing;
    Sender(RingLine* lines, uint64_t mask) : lines_(lines), mask_(mask) {}
    RingLine* lines_;
    uint64_t mask_;
    uint64_t next_ = 0;
  };

  class Receiver {
   public:
    // The oldest descriptor that was sent and not yet taken. Memory ordering: sees all that the sender wrote
    // before it sent (A0). The pointer is valid until take().
    const Descriptor* peek() const {
      const RingLine& line = lines_[next_ & mask_];
      if (line.sequence.load(std::memory_order_acquire) != next_ + 1) return nullptr;  // A0
      return &line.descriptor;
    }
    // Gives the line that peek() showed back to the sender. Memory ordering: the receiver's reads of the line
    // come before the sender's next write to it (R1 -> A1).
    void take() {
      lines_[next_ & mask_].sequence.store(next_ + mask_ + 1, std::memory_order_release);  // R1
      ++next_;
    }
    uint64_t taken() const { return next_; }

   private:
    friend class SpscRing;
    Receiver(RingLine* lines, uint64_t mask) : lines_(lines), mask_(mask) {}
    RingLine* lines_;
    uint64_t mask_;
    uint64_t next_ = 0;
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
