// A box in one process: ranks are threads, the segment is plain memory, so that ThreadSanitizer sees every
// access. And what they exchange: gradients made up of step, shard and element, and the sums that are
// promised.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "collectives/exchange_thread.h"
#include "collectives/norm_meeting.h"
#include "kernels/reduce.h"
#include "tests/collectives/tree_domains.h"

namespace annulus {

class Box {
 public:
  static constexpr WaitPolicy kWaiting{.spin_ns = 2000, .deadline_ns = 20'000'000'000};

  // Whether each exchange has a thread of its own.
  enum class Threads { kOne, kTwo };
  // Whether ranks meet for the norm of their sums before these go to the sink.
  enum class Meets { kNo, kYes };

  explicit Box(ExchangePlan plan, WaitPolicy policy = kWaiting, int sets = 1, Threads threads = Threads::kOne,
               Meets meets = Meets::kNo)
      : plan_(std::move(plan)),
        sets_(sets),
        threads_(threads),
        meets_(meets),
        policy_(policy),
        capacities_(plan_.descriptors_per_step()) {
    elements_ = buckets().back().offset + buckets().back().blocks * kBlockElements;
    controls_storage_ = allocate(kThreadsPerRank * ranks() * sizeof(RankControl));
    for (int i = 0; i < kThreadsPerRank * ranks(); ++i) {
      new (controls_storage_.get() + i * sizeof(RankControl)) RankControl;
    }
    words_ = allocate(ranks() * Versions::row_words(buckets().size()) * sizeof(uint32_t));
    versions().reset(0);
    rings_.resize(capacities_.size());
    for (int from = 0; from < ranks(); ++from) {
      for (int to = 0; to < ranks(); ++to) {
        int64_t& capacity = capacities_[from * ranks() + to];
        if (capacity == 0) continue;
        capacity = SpscRing::capacity_for(capacity);
        rings_[from * ranks() + to] = allocate(SpscRing::bytes(static_cast<uint32_t>(capacity)));
        ring(from, to).reset();
      }
    }
    for (int rank = 0; rank < ranks(); ++rank) buffers_ = std::max(buffers_, rank_sum(rank).buffers);
    gradients_ = allocate(sets_ * ranks() * buffers_ * elements_ * sizeof(float));
    result_ = allocate(elements_ * sizeof(float));
    norms_ = allocate(NormMeeting::bytes(plan_));
    norm_part_ = {0, elements_};
    seen_.resize(ranks());
  }

  // What the exchanges' sums cross; none unless this is set. Outlives run().
  std::function<Bridge*(int rank)> bridge_of = [](int) { return nullptr; };

  // Only these elements take part in the norm.
  void set_norm_part(ShardRange part) { norm_part_ = part; }

  // Runs body(rank, waiter, exchange) on one thread per rank. Sums land in result(), norms in norm_seen().
  void run(const std::function<void(int, Waiter&, StepExchange&)>& body) {
    std::vector<std::thread> threads;
    for (int rank = 0; rank < ranks(); ++rank) {
      threads.emplace_back([&, rank] {
        Waiter waiter(control, controls(), rank, policy_);
        std::optional<NormMeeting> meeting;
        if (meets_ == Meets::kYes) meeting.emplace(norms_.get(), plan_, rank, norm_part_);
        NormMeeting* const met = meeting ? &*meeting : nullptr;
        const auto sink = [this, rank, met](int64_t offset, int64_t count, const float* sum) {
          std::memcpy(result() + offset, sum, count * sizeof(float));
          if (met != nullptr) seen_[rank].norm = met->norm();
        };
        if (threads_ == Threads::kOne) {
          Exchange exchange(plan_, memory(), versions(), waiter, sink, met, bridge_of(rank));
          body(rank, waiter, exchange);
        } else {
          ExchangeThread exchange(plan_, memory(), versions(), waiter,
                                  {.cpu = ExchangeThread::kUnbound, .waiting = policy_}, sink, met,
                                  bridge_of(rank));
          body(rank, waiter, exchange);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

  const ExchangePlan& plan() const { return plan_; }
  int ranks() const { return plan_.ranks; }
  RankSum rank_sum(int rank) const { return plan_.rank_sum(rank); }
  // As step `step` uses them.
  float* gradients(int rank, int buffer, uint32_t step) const {
    const int set = static_cast<int>(step) % sets_;
    return reinterpret_cast<float*>(gradients_.get()) +
           ((set * ranks() + rank) * buffers_ + buffer) * elements_;
  }
  float* result() const { return reinterpret_cast<float*>(result_.get()); }
  // The norm that came with the rank's last sum.
  double norm_seen(int rank) const { return seen_[rank].norm; }
  int64_t elements() const { return elements_; }
  const std::vector<BucketExtent>& buckets() const { return plan_.buckets; }
  RankControls controls() const {
    return {controls_storage_.get(), kThreadsPerRank * sizeof(RankControl), ranks(),
            threads_ == Threads::kOne ? 1 : 2};
  }
  Versions versions() const {
    return {reinterpret_cast<std::atomic<uint32_t>*>(words_.get()), ranks(),
            static_cast<int>(buckets().size())};
  }
  SpscRing ring(int from, int to) const {
    const int pair = from * ranks() + to;
    return {rings_[pair].get(), static_cast<uint32_t>(capacities_[pair])};
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
    memory.ranks = ranks();
    for (int set = 0; set < sets_; ++set) {
      std::vector<float*>& first = memory.gradients.emplace_back();
      for (int rank = 0; rank < ranks(); ++rank) first.push_back(gradients(rank, 0, set));
    }
    memory.buffer_stride = elements_;
    memory.has_ring = [this](int from, int to) { return capacities_[from * ranks() + to] != 0; };
    memory.ring = [this](int from, int to) { return ring(from, to); };
    return memory;
  }

  ExchangePlan plan_;
  int sets_;  // of gradient buffers
  Threads threads_;
  Meets meets_;
  WaitPolicy policy_;
  std::vector<int64_t> capacities_;  // lines; 0: no ring
  int64_t elements_ = 0;
  int buffers_ = 0;
  Memory controls_storage_, words_, gradients_, result_, norms_;
  ShardRange norm_part_;
  struct alignas(kRankSpacing) Seen {
    double norm = 0;
  };
  std::vector<Seen> seen_;
  std::vector<Memory> rings_;
};

// One way to exchange.
struct ExchangeCase {
  Algorithm algorithm;
  int ranks;
  int64_t shards;
  int domains = 1;
  Box::Threads threads = Box::Threads::kOne;

  ExchangePlan plan(std::vector<BucketExtent> buckets) const {
    return {algorithm, ranks, shards, std::move(buckets), tree_domains(ranks, shards, domains)};
  }
  // For names of tests.
  std::string name() const {
    return fmt::format("{}_{}_ranks_{}_shards_{}_domains{}", to_string(algorithm), ranks, shards, domains,
                       threads == Box::Threads::kOne ? "" : "_on_own_threads");
  }
};

// Buckets with fewer blocks than ranks, as many, and more: some slices are empty.
inline std::vector<BucketExtent> uneven_buckets(int ranks) {
  return {{0, 1}, {kBlockElements, ranks}, {(1 + ranks) * kBlockElements, 2 * ranks + 1}};
}

// A cheap hash as gradient, so that every element of every shard and step differs and sums round.
inline float gradient(uint32_t step, int64_t shard, int64_t i) {
  uint64_t x = step * 0x9e3779b97f4a7c15ull + shard * 0xc2b2ae3d27d4eb4full + i * 0x165667b19e3779f9ull;
  x ^= x >> 29;
  x *= 0xbf58476d1ce4e5b9ull;
  x ^= x >> 32;
  return static_cast<float>(static_cast<int32_t>(x)) * 0x1p-20f;
}

inline float tree_sum(uint32_t step, int64_t lo, int64_t hi, int64_t i) {
  if (hi - lo == 1) return gradient(step, lo, i);
  const int64_t m = lo + (hi - lo + 1) / 2;
  return tree_sum(step, lo, m, i) + tree_sum(step, m, hi, i);
}

// The order in which ring adds: ranks owner+1, owner+2, ..., owner, each its own shards' sum.
inline float ring_sum(uint32_t step, const Box& box, int owner, int64_t i) {
  const int ranks = box.ranks();
  const int64_t shards = box.plan().shards;
  const auto rank_sum = [&](int rank) {
    const ShardRange own = deal(rank, ranks, shards);
    const RankSum plan = box.rank_sum(rank);
    std::vector<float> buffers(plan.buffers);
    for (int64_t s = own.begin; s < own.end; ++s) {
      buffers[plan.shards[s - own.begin].buffer] = gradient(step, s, i);
      for (const RankSum::Add& add : plan.shards[s - own.begin].adds) buffers[add.into] += buffers[add.from];
    }
    return buffers[0];
  };
  float sum = rank_sum((owner + 1) % ranks);
  for (int k = 2; k <= ranks; ++k) sum += rank_sum((owner + k) % ranks);
  return sum;
}

inline float promised_sum(uint32_t step, const Box& box, int owner, int64_t i) {
  return box.plan().algorithm == Algorithm::kRing ? ring_sum(step, box, owner, i)
                                                  : tree_sum(step, 0, box.plan().shards, i);
}

// One rank's gradients of a step, as a worker makes them: its shards one by one, every bucket published when
// it is complete.
inline void compute(const Box& box, int rank, uint32_t step, StepExchange& exchange,
                    const std::function<void()>& publish) {
  const ShardRange own = deal(rank, box.ranks(), box.plan().shards);
  const RankSum plan = box.rank_sum(rank);
  for (int64_t shard = own.begin; shard < own.end; ++shard) {
    const RankSum::Shard& part = plan.shards[shard - own.begin];
    for (const BucketExtent& bucket : box.buckets()) {
      const int64_t end = bucket.offset + bucket.blocks * kBlockElements;
      for (int64_t i = bucket.offset; i < end; ++i)
        box.gradients(rank, part.buffer, step)[i] = gradient(step, shard, i);
      for (const RankSum::Add& sum : part.adds) {
        float* into = box.gradients(rank, sum.into, step) + bucket.offset;
        add(end - bucket.offset, into, box.gradients(rank, sum.from, step) + bucket.offset, into);
      }
      if (shard + 1 == own.end) publish();
      exchange.progress();
    }
  }
}

// One rank's step, as a worker does it with --staleness 0: the step is finished when it ends.
inline void do_step(const Box& box, int rank, uint32_t step, Waiter& waiter, StepExchange& exchange) {
  exchange.begin(step);
  box.versions().wait_all(waiter, step - 1);  // Rule G
  compute(box, rank, step, exchange, [&] { exchange.publish(); });
  exchange.finish();
}

// The same with --staleness 1: the step before is finished while this one computes.
inline void do_delayed_step(const Box& box, int rank, uint32_t step, Waiter& waiter, StepExchange& exchange) {
  bool admitted = false;
  compute(box, rank, step, exchange, [&] {
    if (!std::exchange(admitted, true)) {
      if (step > 1) exchange.finish();
      box.versions().wait_all(waiter, step - 1);  // Rule G
      exchange.begin(step);
    }
    exchange.publish();
  });
}

}  // namespace annulus
