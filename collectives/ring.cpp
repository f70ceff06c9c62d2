#include "collectives/ring.h"

#include "collectives/publish.h"
#include "kernels/reduce.h"

namespace annulus {
namespace {

int64_t chunks_of(const ShardRange& slice) {
  return (slice.count() + RingExchange::kChunkBlocks - 1) / RingExchange::kChunkBlocks;
}

}  // namespace

RingExchange::RingExchange(const ExchangeMemory& memory, std::vector<BucketExtent> buckets, Versions versions,
                           Waiter& waiter, SumSink sink)
    : memory_(memory),
      buckets_(std::move(buckets)),
      versions_(versions),
      waiter_(waiter),
      sink_(std::move(sink)),
      rank_(waiter.rank()),
      ranks_(memory.ranks),
      left_((rank_ + ranks_ - 1) % ranks_),
      right_((rank_ + 1) % ranks_),
      cursors_(buckets_.size()) {
  // No ring where nothing is ever sent: with one rank, or between ranks without slices of so few blocks.
  if (descriptors_per_step(rank_, right_, ranks_, buckets_) > 0) {
    sender_ = memory.ring(rank_, right_).sender();
  }
  if (descriptors_per_step(left_, rank_, ranks_, buckets_) > 0) {
    receiver_ = memory.ring(left_, rank_).receiver();
  }
}

int64_t RingExchange::descriptors_per_step(int from, int to, int ranks,
                                           const std::vector<BucketExtent>& buckets) {
  if (ranks == 1 || to != (from + 1) % ranks) return 0;
  int64_t count = 0;
  for (const BucketExtent& bucket : buckets) {
    for (int slice = 0; slice < ranks; ++slice) {
      if (slice != from) count += chunks_of(slice_of(slice, ranks, bucket));
    }
  }
  return count;
}

void RingExchange::begin(uint32_t step) {
  CHECK(updated_ == published_);
  step_ = step;
  published_ = updated_ = 0;
  due_ = descriptors_per_step(left_, rank_, ranks_, buckets_);
  for (int bucket = 0; bucket < static_cast<int>(buckets_.size()); ++bucket) {
    cursors_[bucket] = {};
    skip_empty_rounds(bucket);
  }
}

ShardRange RingExchange::chunk_blocks(int bucket, int slice, int64_t chunk) const {
  const ShardRange blocks = slice_of(slice, ranks_, buckets_[bucket]);
  const int64_t begin = blocks.begin + chunk * kChunkBlocks;
  return {begin, std::min(begin + kChunkBlocks, blocks.end)};
}

Descriptor RingExchange::describe(int source, int bucket, int round, int64_t chunk) const {
  const int slice = slice_in_round(source, round);
  const ShardRange blocks = chunk_blocks(bucket, slice, chunk);
  const float* payload = memory_.gradients[source] + buckets_[bucket].offset + blocks.begin * kBlockElements;
  return {.step = step_,
          .phase = Phase::kStep,
          .type = Payload::kRunningSum,
          .round = static_cast<uint32_t>(round),
          .source = static_cast<uint32_t>(source),
          .bucket = static_cast<uint32_t>(bucket),
          .chunk = static_cast<uint32_t>(chunk),
          .slice = static_cast<uint32_t>(slice),
          .place = static_cast<uint64_t>(reinterpret_cast<const std::byte*>(payload) - memory_.base),
          .length = static_cast<uint64_t>(blocks.count() * kBlockElements) * sizeof(float)};
}

void RingExchange::send(int bucket, int round, int64_t chunk) {
  const Descriptor descriptor = describe(rank_, bucket, round, chunk);
  CHECK(annulus::publish(*sender_, descriptor), "ring {} -> {} is full", rank_, right_);
  ++counts_.descriptors;
  counts_.bytes += descriptor.length;
  waiter_.wake(right_);
}

void RingExchange::publish() {
  const int64_t begin = now_ns();
  const int bucket = published_++;
  if (ranks_ == 1) {
    const int64_t count = buckets_[bucket].blocks * kBlockElements;
    for (int64_t i = 0; i < count; i += kPieceElements) {
      const int64_t first = buckets_[bucket].offset + i;
      sink_(first, kPieceElements, memory_.gradients[rank_] + first);
    }
    commit(bucket);
  } else {
    const int64_t chunks = chunks_of(slice_of(slice_in_round(rank_, 0), ranks_, buckets_[bucket]));
    for (int64_t chunk = 0; chunk < chunks; ++chunk) send(bucket, 0, chunk);
    if (slice_of(rank_, ranks_, buckets_[bucket]).count() == 0) commit(bucket);
  }
  waiter_.beat();
  counts_.busy_ns += now_ns() - begin;
  progress();
}

void RingExchange::progress() {
  const int64_t begin = now_ns();
  while (take_one()) {
  }
  counts_.busy_ns += now_ns() - begin;
}

void RingExchange::finish() {
  CHECK(published_ == static_cast<int>(buckets_.size()));
  const int64_t begin = now_ns() - waiter_.waited_ns();
  // Chunks of others' slices must be passed on as well, so the end is that of every cursor, not of the own
  // slices.
  for (int bucket = 0; bucket < published_; ++bucket) {
    while (cursors_[bucket].round < ranks_ - 1) {
      if (take_one()) continue;
      const WaitFor what{Await::kGradient, static_cast<uint32_t>(left_), static_cast<uint32_t>(bucket),
                         step_};
      waiter_.wait(what, [&] { return receiver_->peek() != nullptr; });
    }
  }
  counts_.busy_ns += now_ns() - waiter_.waited_ns() - begin;
}

void RingExchange::skip_empty_rounds(int bucket) {
  Cursor& cursor = cursors_[bucket];
  while (cursor.round < ranks_ - 1 &&
         slice_of(slice_in_round(left_, cursor.round), ranks_, buckets_[bucket]).count() == 0) {
    ++cursor.round;
  }
}

bool RingExchange::take_one() {
  // The neighbour may be a step ahead, once this rank has done its part: that step's descriptors stay where
  // they are.
  if (due_ == 0) return false;
  const Descriptor* got = receiver_->peek();
  if (got == nullptr) return false;
  // The neighbour may be ahead: its bucket waits in the ring until this rank's own gradient of it is
  // complete.
  if (got->bucket >= static_cast<uint32_t>(published_) && got->bucket < buckets_.size()) return false;
  const int bucket = std::min<int>(got->bucket, buckets_.size() - 1);
  Cursor& cursor = cursors_[bucket];
  const int round = std::min(cursor.round, ranks_ - 2);
  validate(*got, describe(left_, bucket, round, cursor.chunk), rank_);
  receiver_->take();
  --due_;

  const int slice = slice_in_round(left_, round);
  const ShardRange blocks = chunk_blocks(bucket, slice, cursor.chunk);
  const bool own = slice == rank_;
  alignas(kLineBytes) float sum[kPieceElements];
  const int64_t end = buckets_[bucket].offset + blocks.end * kBlockElements;
  for (int64_t i = buckets_[bucket].offset + blocks.begin * kBlockElements; i < end; i += kPieceElements) {
    float* mine = memory_.gradients[rank_] + i;
    annulus::add(kPieceElements, memory_.gradients[left_] + i, mine, own ? sum : mine);
    if (own) sink_(i, kPieceElements, sum);
  }
  waiter_.beat();
  if (!own) send(bucket, round + 1, cursor.chunk);
  if (++cursor.chunk == chunks_of(slice_of(slice, ranks_, buckets_[bucket]))) {
    cursor = {round + 1, 0};
    skip_empty_rounds(bucket);
    if (own) commit(bucket);
  }
  return true;
}

void RingExchange::commit(int bucket) {
  versions_.store(rank_, bucket, step_);
  ++updated_;
  waiter_.wake_all();
}

}  // namespace annulus
