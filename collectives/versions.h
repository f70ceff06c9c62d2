// Versions: updated[rank][bucket], how far each owner has brought its slice of each bucket.
//
// A version is the number of steps whose update the slice holds; step k (from 1) brings it from k-1 to k.
// Initial weights are version 0, and kNone means that even those are not there yet. A step is committed when
// every version has reached it: a predicate over words with one writer each, so nobody can die holding it.
//
// Ordering: V0 owner: version = k (release), after all its stores of step k, non-temporal ones fenced
//           V1 reader: version >= k (acquire), then reads the generation,
//              or writes what the owner read in step k
#pragma once

#include <atomic>
#include <cstdint>

#include "collectives/publish.h"
#include "collectives/wait.h"

namespace annulus {

class Versions {
 public:
  static constexpr uint32_t kNone = ~uint32_t{0};

  // Words that one rank's row takes, so that rows of different ranks are kRankSpacing apart.
  static int64_t row_words(int64_t buckets) {
    constexpr int64_t kWords = kRankSpacing / sizeof(uint32_t);
    return (buckets + kWords - 1) / kWords * kWords;
  }

  // `words`: ranks x row_words(buckets) words in shared memory. `what`: what they stand for, for those who
  // wait.
  Versions(std::atomic<uint32_t>* words, int ranks, int buckets, Await what = Await::kVersion)
      : words_(words), ranks_(ranks), buckets_(buckets), row_(row_words(buckets)), what_(what) {}

  // Whether `version` means at least `step` steps. Versions count modulo 2^32; kNone is one before 0.
  static bool reached(uint32_t version, uint32_t step) { return static_cast<int32_t>(version - step) >= 0; }

  // Sets every version. Only while no rank runs.
  void reset(uint32_t version) {
    for (int64_t i = 0; i < ranks_ * row_; ++i) words_[i].store(version, std::memory_order_release);
  }

  // Called by `rank` alone, once its slice of the bucket holds `step`. Memory ordering: all that this thread
  // wrote before, non-temporal stores included, is visible to who sees the version (V0 -> V1). Wakes nobody:
  // call Waiter::wake_all afterwards.
  void store(int rank, int bucket, uint32_t step) {
    store_fence();
    protocol_point(ProtocolPoint::kVersionStore);
    word(rank, bucket).store(step, std::memory_order_release);  // V0
  }
  uint32_t load(int rank, int bucket) const {
    protocol_point(ProtocolPoint::kVersionLoad);
    return word(rank, bucket).load(std::memory_order_acquire);
  }  // V1

  // The smallest version of all: the last committed step (kNone before initial weights are complete).
  uint32_t committed() const {
    uint32_t least = load(0, 0);
    for (int rank = 0; rank < ranks_; ++rank) {
      for (int bucket = 0; bucket < buckets_; ++bucket) {
        const uint32_t version = load(rank, bucket);
        if (!reached(version, least)) least = version;
      }
    }
    return least;
  }

  // Waits until every rank's slice of the bucket holds `step`. Memory ordering: V1. Throws as Waiter::wait.
  void wait_bucket(Waiter& waiter, int bucket, uint32_t step) const {
    for (int rank = 0; rank < ranks_; ++rank) {
      const WaitFor what{what_, static_cast<uint32_t>(rank), static_cast<uint32_t>(bucket), step};
      waiter.wait(what, [&] { return reached(load(rank, bucket), step); });
    }
  }
  // Waits until `step` is committed. Memory ordering: V1, for every rank and bucket. Throws as Waiter::wait.
  void wait_all(Waiter& waiter, uint32_t step) const {
    for (int bucket = 0; bucket < buckets_; ++bucket) wait_bucket(waiter, bucket, step);
  }

  int buckets() const { return buckets_; }

 private:
  std::atomic<uint32_t>& word(int rank, int bucket) const { return words_[rank * row_ + bucket]; }

  std::atomic<uint32_t>* words_;
  int ranks_;
  int buckets_;
  int64_t row_;
  Await what_;
};

}  // namespace annulus
