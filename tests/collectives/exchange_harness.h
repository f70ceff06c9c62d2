// A box in one process: ranks are threads, the segment is plain memory, so that ThreadSanitizer sees every
// access.
#pragma once

#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <thread>
#include <vector>

#include "collectives/exchange.h"

namespace annulus {

class Box {
 public:
  Box(Algorithm algorithm, int ranks, int64_t shards, std::vector<BucketExtent> buckets,
      WaitPolicy policy = {.spin_ns = 2000, .deadline_ns = 20'000'000'000})
      : algorithm_(algorithm), ranks_(ranks), shards_(shards), buckets_(std::move(buckets)), policy_(policy) {
    elements_ = buckets_.back().offset + buckets_.back().blocks * kBlockElements;
    controls_storage_ = allocate(ranks * sizeof(RankControl));
    for (int i = 0; i < ranks; ++i) new (controls_storage_.get() + i * sizeof(RankControl)) RankControl;
    words_ = allocate(ranks * Versions::row_words(buckets_.size()) * sizeof(uint32_t));
    versions().reset(0);
    rings_.resize(ranks * ranks);
    capacities_.resize(ranks * ranks);
    for (int from = 0; from < ranks; ++from) {
      for (int to = 0; to < ranks; ++to) {
        const int64_t lines = descriptors_per_step(algorithm, from, to, ranks, shards, buckets_);
        if (lines == 0) continue;
        capacities_[from * ranks + to] = SpscRing::capacity_for(lines);
        rings_[from * ranks + to] = allocate(SpscRing::bytes(capacities_[from * ranks + to]));
        ring(from, to).reset();
      }
    }
    int most = 0;
    for (int rank = 0; rank < ranks; ++rank) most = std::max(most, rank_sum(rank).buffers);
    buffers_ = most;
    gradients_ = allocate(ranks * buffers_ * elements_ * sizeof(float));
    result_ = allocate(elements_ * sizeof(float));
  }

  // Runs body(rank, waiter, exchange) on one thread per rank. Sums land in result().
  void run(const std::function<void(int, Waiter&, Exchange&)>& body) {
    std::vector<std::thread> threads;
    for (int rank = 0; rank < ranks_; ++rank) {
      threads.emplace_back([&, rank] {
        Waiter waiter(control, controls(), rank, policy_);
        const auto exchange = make_exchange(algorithm_, memory(), buckets_, shards_, versions(), waiter,
                                            [this](int64_t offset, int64_t count, const float* sum) {
                                              std::memcpy(result() + offset, sum, count * sizeof(float));
                                            });
        body(rank, waiter, *exchange);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

  RankSum rank_sum(int rank) const { return rank_sum_for(algorithm_, rank, ranks_, shards_); }
  float* gradients(int rank, int buffer) const {
    return reinterpret_cast<float*>(gradients_.get()) + (rank * buffers_ + buffer) * elements_;
  }
  float* result() const { return reinterpret_cast<float*>(result_.get()); }
  int64_t elements() const { return elements_; }
  const std::vector<BucketExtent>& buckets() const { return buckets_; }
  RankControls controls() const { return {controls_storage_.get(), sizeof(RankControl), ranks_}; }
  Versions versions() const {
    return {reinterpret_cast<std::atomic<uint32_t>*>(words_.get()), ranks_,
            static_cast<int>(buckets_.size())};
  }
  SpscRing ring(int from, int to) const {
    return {rings_[from * ranks_ + to].get(), capacities_[from * ranks_ + to]};
  }

  WaitControl control;

 private:
  struct Free {
    void operator()(std::byte* memory) const { ::operator delete[](memory, std::align_val_t{4096}); }
  };
  using Memory = std::unique_ptr<std::byte[], Free>;
  static Memory allocate(std::size_t bytes) {
    Memory memory(static_cast<std::byte*>(::operator new[](bytes, std::align_val_t{4096})));
    std::memset(memory.get(), 0, bytes);
    return memory;
  }
  ExchangeMemory memory() const {
    ExchangeMemory memory;
    memory.base = gradients_.get();
    memory.ranks = ranks_;
    for (int rank = 0; rank < ranks_; ++rank) memory.gradients.push_back(gradients(rank, 0));
    memory.buffer_stride = elements_;
    memory.ring = [this](int from, int to) { return ring(from, to); };
    return memory;
  }

  Algorithm algorithm_;
  int ranks_;
  int64_t shards_;
  std::vector<BucketExtent> buckets_;
  WaitPolicy policy_;
  int64_t elements_;
  int buffers_;
  Memory controls_storage_, words_, gradients_, result_;
  std::vector<Memory> rings_;
  std::vector<uint32_t> capacities_;
};

}  // namespace annulus
