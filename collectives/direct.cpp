#include "collectives/direct.h"

#include "collectives/publish.h"
#include "kernels/reduce.h"

namespace annulus {

DirectExchange::DirectExchange(const ExchangeMemory& memory, std::vector<BucketExtent> buckets,
                               int64_t shards, Versions versions, Waiter& waiter, SumSink sink)
    : memory_(memory),
      buckets_(std::move(buckets)),
      tree_(plan_tree_sum(memory.ranks, shards)),
      versions_(versions),
      waiter_(waiter),
      sink_(std::move(sink)),
      rank_(waiter.rank()),
      peers_(memory.ranks),
      leaves_(tree_.leaves.size()) {
  for (int rank = 0; rank < memory.ranks; ++rank) {
    peers_[rank].partials = plan_rank_sum(rank, memory.ranks, shards).partials;
    // No ring leads to a rank that owns no slice.
    if (descriptors_per_step(rank_, rank, memory.ranks, shards, buckets_) > 0) {
      peers_[rank].sender = memory.ring(rank_, rank).sender();
    }
    if (descriptors_per_step(rank, rank_, memory.ranks, shards, buckets_) > 0) {
      peers_[rank].receiver = memory.ring(rank, rank_).receiver();
    }
  }
}

int64_t DirectExchange::descriptors_per_step(int from, int to, int ranks, int64_t shards,
                                             const std::vector<BucketExtent>& buckets) {
  if (from == to) return 0;
  int64_t slices = 0;
  for (const BucketExtent& bucket : buckets) slices += slice_of(to, ranks, bucket).count() > 0;
  return slices * plan_rank_sum(from, ranks, shards).partials;
}

void DirectExchange::begin(uint32_t step) {
  CHECK(updated_ == published_);
  step_ = step;
  published_ = updated_ = 0;
  for (Peer& peer : peers_) {
    peer.bucket = peer.partial = 0;
    skip_empty_slices(peer);
  }
}

Descriptor DirectExchange::describe(int source, int owner, int bucket, int partial) const {
  const ShardRange slice = slice_of(owner, memory_.ranks, buckets_[bucket]);
  const int64_t first = buckets_[bucket].offset + slice.begin * kBlockElements;
  const float* payload = memory_.gradients[source] + partial * memory_.buffer_stride + first;
  return {.step = step_,
          .phase = Phase::kStep,
          .type = Payload::kGradient,
          .source = static_cast<uint32_t>(source),
          .bucket = static_cast<uint32_t>(bucket),
          .chunk = static_cast<uint32_t>(partial),
          .slice = static_cast<uint32_t>(owner),
          .place = static_cast<uint64_t>(reinterpret_cast<const std::byte*>(payload) - memory_.base),
          .length = static_cast<uint64_t>(slice.count() * kBlockElements) * sizeof(float)};
}

void DirectExchange::skip_empty_slices(Peer& peer) const {
  const int buckets = static_cast<int>(buckets_.size());
  while (peer.bucket < buckets && slice_of(rank_, memory_.ranks, buckets_[peer.bucket]).count() == 0)
    ++peer.bucket;
}

void DirectExchange::publish() {
  const int64_t begin = now_ns() - waiter_.waited_ns();
  const int bucket = published_++;
  for (int i = 1; i < memory_.ranks; ++i) {
    const int owner =
        (rank_ + i) % memory_.ranks;  // start with the neighbour, so that not all ring rank 0 first
    if (slice_of(owner, memory_.ranks, buckets_[bucket]).count() == 0) continue;
    for (int partial = 0; partial < peers_[rank_].partials; ++partial) {
      const Descriptor descriptor = describe(rank_, owner, bucket, partial);
      CHECK(annulus::publish(*peers_[owner].sender, descriptor), "ring {} -> {} is full", rank_, owner);
      ++counts_.descriptors;
      counts_.bytes += descriptor.length;
    }
    waiter_.wake(owner);
  }
  waiter_.beat();
  counts_.busy_ns += now_ns() - waiter_.waited_ns() - begin;
  progress();
}

void DirectExchange::progress() {
  if (updated_ == published_) return;  // nothing of this rank's own to go with what others sent
  const int64_t begin = now_ns();
  while (update_ready()) {
  }
  counts_.busy_ns += now_ns() - begin;
}

void DirectExchange::finish() {
  CHECK(published_ == static_cast<int>(buckets_.size()));
  const int64_t begin = now_ns() - waiter_.waited_ns();
  while (updated_ < published_) {
    if (update_ready()) continue;
    const int peer = missing_peer();
    const WaitFor what{Await::kGradient, static_cast<uint32_t>(peer), static_cast<uint32_t>(updated_), step_};
    waiter_.wait(what, [&] { return peers_[peer].receiver->peek() != nullptr; });
  }
  counts_.busy_ns += now_ns() - waiter_.waited_ns() - begin;
}

void DirectExchange::poll(int rank) {
  Peer& peer = peers_[rank];
  while (const Descriptor* got = peer.receiver->peek()) {
    // A descriptor behind the last one of this step is due to none: let it fail against the last.
    const int bucket = std::min<int>(peer.bucket, buckets_.size() - 1);
    validate(*got, describe(rank, rank_, bucket, peer.partial), rank_);
    peer.receiver->take();
    if (++peer.partial < peer.partials) continue;
    peer.partial = 0;
    ++peer.bucket;
    skip_empty_slices(peer);
  }
}

int DirectExchange::missing_peer() const {
  for (int rank = 0; rank < memory_.ranks; ++rank) {
    if (rank != rank_ && peers_[rank].bucket <= updated_) return rank;
  }
  return -1;
}

bool DirectExchange::update_ready() {
  if (updated_ == published_) return false;
  const bool owned = slice_of(rank_, memory_.ranks, buckets_[updated_]).count() > 0;
  if (owned) {
    for (int rank = 0; rank < memory_.ranks; ++rank) {
      if (rank != rank_) poll(rank);
    }
    if (missing_peer() >= 0) return false;
    update_slice(updated_);
  }
  versions_.store(rank_, updated_, step_);
  ++updated_;
  waiter_.wake_all();
  return true;
}

void DirectExchange::update_slice(int bucket) {
  alignas(kLineBytes) float temporaries[10][kPieceElements];  // depth of a tree over kMaxRanks ranks
  CHECK(tree_.temporaries <= 10);
  const int leaves = static_cast<int>(leaves_.size());
  const ShardRange slice = slice_of(rank_, memory_.ranks, buckets_[bucket]);
  for (int64_t block = slice.begin; block < slice.end; ++block) {
    for (int64_t piece = 0; piece < kBlockElements; piece += kPieceElements) {
      const int64_t first = buckets_[bucket].offset + block * kBlockElements + piece;
      for (int i = 0; i < leaves; ++i) {
        const TreeSum::Leaf& leaf = tree_.leaves[i];
        leaves_[i] = memory_.gradients[leaf.rank] + leaf.partial * memory_.buffer_stride + first;
      }
      const auto operand = [&](int i) { return i < leaves ? leaves_[i] : temporaries[i - leaves]; };
      for (const TreeSum::Add& add : tree_.adds) {
        annulus::add(kPieceElements, operand(add.left), operand(add.right), temporaries[add.out - leaves]);
      }
      sink_(first, kPieceElements, operand(tree_.result));
    }
    if (block % 64 == 0) waiter_.beat();
  }
}

}  // namespace annulus
