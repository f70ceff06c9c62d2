#include "collectives/exchange.h"

#include <algorithm>
#include <cstring>

#include "collectives/bridge.h"
#include "collectives/direct.h"
#include "collectives/norm_meeting.h"
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

ShardRange slice_of(int rank, int ranks, const BucketExtent& bucket) {
  const ShardRange even = deal(rank, ranks, bucket.blocks);
  if (bucket.cuts.empty()) return even;
  const auto nearest = [&](int64_t block) {
    if (block == 0 || block == bucket.blocks) return block;
    const auto above = std::lower_bound(bucket.cuts.begin(), bucket.cuts.end(), block);
    const int64_t high = above == bucket.cuts.end() ? bucket.blocks : *above;
    const int64_t low = above == bucket.cuts.begin() ? 0 : *(above - 1);
    return block - low < high - block ? low : high;
  };
  return {nearest(even.begin), nearest(even.end)};
}

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
                   SumSink sink, NormMeeting* meeting, Bridge* bridge)
    : waiter_(waiter),
      versions_(versions),
      meeting_(meeting),
      bridge_(bridge),
      sink_(std::move(sink)),
      keep_([this](int64_t at, int64_t count, const float* sum) {
        std::memcpy(kept_[step_ % kept_.size()] + at, sum, count * sizeof(float));
        if (bridge_ == nullptr) meeting_->add(at, count, sum);
      }),
      bindings_(bind(memory)),
      transport_(plan.ranks, waiter, memory.has_ring, memory.ring),
      executor_(transport_, memory.base),
      attempt_(memory.attempt) {
  for (int bucket = 0; bucket < static_cast<int>(plan.buckets.size()); ++bucket) {
    schedules_.push_back(plan.schedule(waiter.rank(), bucket));
  }
  if (!keeps()) return;
  for (const std::vector<float*>& set : memory.gradients) kept_.push_back(set[waiter.rank()]);
  for (const BucketExtent& bucket : plan.buckets) {
    const ShardRange blocks = slice_of(waiter.rank(), plan.ranks, bucket);
    own_.push_back(
        {bucket.offset + blocks.begin * kBlockElements, bucket.offset + blocks.end * kBlockElements});
  }
}

void Exchange::begin(uint32_t step) {
  CHECK(updated_ == published_);
  step_ = step;
  published_ = summed_ = joined_ = updated_ = 0;
  if (meeting_ != nullptr) meeting_->begin(step);
  if (bridge_ != nullptr) bridge_->begin(step);
  runs_.clear();
  for (std::size_t bucket = 0; bucket < schedules_.size(); ++bucket) {
    runs_.push_back({.schedule = &schedules_[bucket],
                     .binding = &bindings_[step % bindings_.size()],
                     .sink = keeps() ? &keep_ : &sink_,
                     .label = {.phase = Phase::kStep,
                               .step = step,
                               .bucket = static_cast<uint32_t>(bucket),
                               .attempt = attempt_}});
  }
}

void Exchange::publish() {
  const int64_t begin = now_ns();
  executor_.announce(runs_[published_++]);
  waiter_.beat();
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
  const int64_t begin = now_ns() - waiter_.waited_ns();
  while (updated_ < published_) {
    if (!advance()) wait(nullptr);
  }
  executor_.counts().busy_ns += now_ns() - waiter_.waited_ns() - begin;
}

void Exchange::wait(const std::function<bool()>& or_else) {
  if (summed_ < published_) {
    executor_.wait(runs_[summed_], [&] {
      return (bridge_ != nullptr && bridge_->reached(joined_ + 1)) || (or_else && or_else());
    });
  } else if (joined_ < summed_) {
    waiter_.wait(
        {Await::kHosts, static_cast<uint32_t>(waiter_.rank()), static_cast<uint32_t>(joined_), step_},
        [&] { return bridge_->reached(joined_ + 1) || (or_else && or_else()); });
  } else if (updated_ < published_ && joined_ == schedules_.size()) {
    meeting_->wait(waiter_, or_else);
  } else {
    const WaitFor what{Await::kGradients, static_cast<uint32_t>(waiter_.rank()),
                       static_cast<uint32_t>(published_), step_};
    waiter_.wait(what, or_else);
  }
}

bool Exchange::can_update() const {
  if (updated_ == joined_) return false;
  return meeting_ == nullptr || (joined_ == schedules_.size() && meeting_->complete());
}

// Updates come last, so that who waits for this rank's messages waits for nothing else.
bool Exchange::advance() {
  if (summed_ < published_ && executor_.advance(runs_[summed_])) {
    sum();
    return true;
  }
  if (bridge_ != nullptr && joined_ < published_) {
    bridge_->check();  // before the sum is made as well: wait() ends when the bridge has failed
    if (joined_ < summed_ && bridge_->done() > joined_) {
      join();
      return true;
    }
  }
  if (!keeps() || !can_update()) return false;
  for_each_kept(updated_, sink_);
  commit();
  return true;
}

void Exchange::sum() {
  ++summed_;
  if (bridge_ != nullptr) {
    bridge_->submit();
  } else {
    join();
  }
}

void Exchange::join() {
  const std::size_t bucket = joined_++;
  if (meeting_ == nullptr) {
    if (bridge_ == nullptr) commit();  // the sink has had it
    return;
  }
  if (bridge_ != nullptr) {
    for_each_kept(bucket,
                  [this](int64_t at, int64_t count, const float* sum) { meeting_->add(at, count, sum); });
  }
  if (joined_ < schedules_.size()) return;
  meeting_->announce();
  waiter_.wake_all();
}

void Exchange::commit() {
  versions_.store(waiter_.rank(), static_cast<int>(updated_), step_);
  ++updated_;
  waiter_.wake_all();
}

void Exchange::for_each_kept(std::size_t bucket, const SumSink& body) {
  const float* const kept = kept_[step_ % kept_.size()];
  const ShardRange& own = own_[bucket];
  for (int64_t at = own.begin; at < own.end; at += kPieceElements) {
    body(at, std::min(kPieceElements, own.end - at), kept + at);
    if ((at - own.begin) % kSumBlock == 0) waiter_.beat();
  }
}

}  // namespace annulus
