#include "collectives/exchange.h"

#include "collectives/direct.h"
#include "collectives/ring.h"
#include "telemetry/check.h"

namespace annulus {
namespace {

// A ring passes 256 KiB on at once: half of it stays in the second-level cache of who reads it next.
constexpr int64_t kRingChunk = 16 * kBlockElements;

std::vector<Binding> bind(const ExchangeMemory& memory) {
  std::vector<Binding> bindings;
  for (const std::vector<float*>& set : memory.gradients) {
    Binding& binding = bindings.emplace_back();
    for (float* gradients : set) {
      binding.shared[static_cast<int>(Space::kInput)].push_back({reinterpret_cast<std::byte*>(gradients)});
    }
    binding.input_part_bytes = memory.buffer_stride * static_cast<int64_t>(sizeof(float));
  }
  return bindings;
}

}  // namespace

const char* to_string(Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::kDirect:
      return "direct";
    case Algorithm::kRing:
      return "ring";
    case Algorithm::kHierarchical:
      return "hierarchical";
  }
  return "?";
}

Schedule ExchangePlan::schedule(int rank, int bucket) const {
  Reduction reduction{.ranks = ranks,
                      .shards = shards,
                      .slices = {},
                      .deliver = Deliver::kSink,
                      .in_place = true,
                      .chunk = kRingChunk};
  for (int owner = 0; owner < ranks; ++owner) {
    const ShardRange blocks = slice_of(owner, ranks, buckets[bucket]);
    reduction.slices.push_back({buckets[bucket].offset + blocks.begin * kBlockElements,
                                buckets[bucket].offset + blocks.end * kBlockElements});
  }
  ScheduleBuilder builder(rank);
  switch (algorithm) {
    case Algorithm::kDirect:
      direct_reduce(builder, reduction);
      break;
    case Algorithm::kRing:
      ring_reduce(builder, reduction);
      break;
    case Algorithm::kHierarchical:
      hierarchical_reduce(builder, reduction, domains);
      break;
  }
  return builder.take();
}

RankSum ExchangePlan::rank_sum(int rank) const {
  return algorithm == Algorithm::kRing ? plan_single_rank_sum(rank, ranks, shards)
                                       : plan_rank_sum(rank, ranks, shards);
}

std::vector<int64_t> ExchangePlan::descriptors_per_step() const {
  std::vector<int64_t> counts(static_cast<std::size_t>(ranks) * ranks);
  for (int from = 0; from < ranks; ++from) {
    for (int bucket = 0; bucket < static_cast<int>(buckets.size()); ++bucket) {
      const std::vector<int64_t> posts = posts_per_peer(schedule(from, bucket), ranks);
      for (int to = 0; to < ranks; ++to) counts[from * ranks + to] += posts[to];
    }
  }
  return counts;
}

Exchange::Exchange(const ExchangePlan& plan, const ExchangeMemory& memory, Versions versions, Waiter& waiter,
                   SumSink sink)
    : versions_(versions),
      sink_(std::move(sink)),
      bindings_(bind(memory)),
      executor_(memory.base, plan.ranks, waiter, memory.has_ring, memory.ring) {
  for (int bucket = 0; bucket < static_cast<int>(plan.buckets.size()); ++bucket) {
    schedules_.push_back(plan.schedule(waiter.rank(), bucket));
  }
}

void Exchange::begin(uint32_t step) {
  CHECK(updated_ == published_);
  step_ = step;
  published_ = updated_ = 0;
  runs_.clear();
  for (std::size_t bucket = 0; bucket < schedules_.size(); ++bucket) {
    runs_.push_back({.schedule = &schedules_[bucket],
                     .binding = &bindings_[step % bindings_.size()],
                     .sink = &sink_,
                     .label = {Phase::kStep, step, static_cast<uint32_t>(bucket)}});
  }
}

void Exchange::publish() {
  const int64_t begin = now_ns();
  executor_.announce(runs_[published_++]);
  executor_.waiter().beat();
  executor_.counts().busy_ns += now_ns() - begin;
  progress();
}

void Exchange::progress() {
  if (updated_ == published_) return;  // nothing of this rank's own to go with what others sent
  const int64_t begin = now_ns();
  while (advance()) {
  }
  executor_.counts().busy_ns += now_ns() - begin;
}

void Exchange::finish() {
  CHECK(published_ == schedules_.size());
  const int64_t begin = now_ns() - executor_.waiter().waited_ns();
  while (updated_ < published_) {
    if (!advance()) executor_.wait(runs_[updated_]);
  }
  executor_.counts().busy_ns += now_ns() - executor_.waiter().waited_ns() - begin;
}

void Exchange::wait(const std::function<bool()>& or_else) {
  if (updated_ < published_) {
    executor_.wait(runs_[updated_], or_else);
  } else {
    const WaitFor what{Await::kGradients, static_cast<uint32_t>(executor_.waiter().rank()),
                       static_cast<uint32_t>(published_), step_};
    executor_.waiter().wait(what, or_else);
  }
}

bool Exchange::advance() {
  if (updated_ == published_) return false;
  const bool done = executor_.advance(runs_[updated_]);
  if (!done) return false;
  versions_.store(executor_.waiter().rank(), static_cast<int>(updated_), step_);
  ++updated_;
  executor_.waiter().wake_all();
  return true;
}

}  // namespace annulus
