// RecordRing: the last N records of one writer in shared memory, for readers that may come late or from
// outside.
//
// The writer overwrites the oldest record and never waits; its death at any point leaves every finished
// record readable. A reader that is too slow loses records and is told so. A sequence lock per record (Boehm
// 2012, "Can seqlocks get along with programming language memory models?").
//
//      +------+   +----------+------------------------+   +----------+-- - -
//      | next |   | sequence | words of the record    |   | sequence | ...      N records
//      +------+   +----------+------------------------+   +----------+-- - -
//
//   sequence of a record:  2n + 1 while the n-th record is being written, 2n + 2 once it is whole
//
// Ordering: T0 writer: sequence odd (relaxed), fence (release), words (relaxed)
//           T1 writer: sequence even (release), next (release)
//           U0 reader: next (acquire), sequence (acquire), words (relaxed), fence (acquire), sequence again
// Every access is atomic, so ThreadSanitizer, which does not follow fences, has nothing to report wrongly.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace annulus {

template <typename Record, uint64_t kCapacity>
class RecordRing {
  static_assert(std::is_trivially_copyable_v<Record> && sizeof(Record) % sizeof(uint64_t) == 0);
  static constexpr std::size_t kWords = sizeof(Record) / sizeof(uint64_t);

 public:
  // Called by the one writer. Costs a few stores; no system call. Memory ordering: a reader that sees the
  // record, or a written() that counts it, sees what was written before (T1 -> U0).
  void push(const Record& record) {
    const uint64_t n = next_.load(std::memory_order_relaxed);
    Slot& slot = slots_[n % kCapacity];
    std::array<uint64_t, kWords> words;
    std::memcpy(words.data(), &record, sizeof(record));
    slot.sequence.store(2 * n + 1, std::memory_order_relaxed);  // T0
    std::atomic_thread_fence(std::memory_order_release);
    for (std::size_t i = 0; i < kWords; ++i) slot.words[i].store(words[i], std::memory_order_relaxed);
    slot.sequence.store(2 * n + 2, std::memory_order_release);  // T1
    next_.store(n + 1, std::memory_order_release);
  }

  // Number of records written so far. Any process may call it.
  uint64_t written() const { return next_.load(std::memory_order_acquire); }  // U0

  // Copies the n-th record (from 0) whole; false if it is not there yet, has been overwritten, or is being
  // overwritten now. Any process may call it. Memory ordering: U0.
  bool read(uint64_t n, Record& record) const {
    const Slot& slot = slots_[n % kCapacity];
    if (slot.sequence.load(std::memory_order_acquire) != 2 * n + 2) return false;
    std::array<uint64_t, kWords> words;
    for (std::size_t i = 0; i < kWords; ++i) words[i] = slot.words[i].load(std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_acquire);
    if (slot.sequence.load(std::memory_order_relaxed) != 2 * n + 2) return false;
    std::memcpy(static_cast<void*>(&record), words.data(), sizeof(record));
    return true;
  }

  static constexpr uint64_t capacity() { return kCapacity; }

 private:
  struct Slot {
    std::atomic<uint64_t> sequence;
    std::atomic<uint64_t> words[kWords];
  };
  std::atomic<uint64_t> next_;
  Slot slots_[kCapacity];
};

}  // namespace annulus
