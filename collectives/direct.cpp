#include "collectives/direct.h"

namespace annulus {

void direct_reduce(ScheduleBuilder& builder, const Reduction& reduction) {
  const int rank = builder.rank(), ranks = reduction.ranks;
  const auto label = [](int owner, int partial) {
    return ScheduleBuilder::Label{.chunk = static_cast<uint32_t>(partial),
                                  .slice = static_cast<uint32_t>(owner)};
  };
  // Each starts with its neighbour, so that not all turn to rank 0 first.
  for (int i = 1; i < ranks; ++i) {
    const int owner = (rank + i) % ranks;
    const ShardRange slice = reduction.slices[owner];
    if (slice.count() == 0) continue;
    for (int partial = 0; partial < reduction.partials(rank); ++partial) {
      builder.post(owner, builder.input(rank, slice.begin, partial), slice.count(), label(owner, partial));
    }
  }
  builder.end_announcement();

  const ShardRange own = reduction.slices[rank];
  if (own.count() > 0) {
    for (int i = 1; i < ranks; ++i) {
      const int peer = (rank + i) % ranks;
      for (int partial = 0; partial < reduction.partials(peer); ++partial) {
        builder.await(peer, builder.input(peer, own.begin, partial), own.count(), label(rank, partial));
      }
    }
    const TreeSum tree = plan_tree_sum(ranks, reduction.shards);
    std::vector<Place> sources;
    for (const TreeSum::Leaf& leaf : tree.leaves) {
      sources.push_back(builder.input(leaf.rank, own.begin, leaf.partial));
    }
    builder.sum(std::move(sources), tree, reduction.destinations(rank, own.begin), own.count(), true);
    for (int i = 1; i < ranks; ++i) {
      const int peer = (rank + i) % ranks;
      for (int partial = 0; partial < reduction.partials(peer); ++partial) builder.release(peer);
    }
  }
  if (reduction.deliver == Deliver::kOwner) builder.readers_may_linger();
  if (reduction.deliver == Deliver::kSink || reduction.deliver == Deliver::kOwner) return;

  // Where `reader` finds the slice of `owner`.
  const bool returned = reduction.deliver == Deliver::kReturned;
  const auto result = [&](int owner, int reader) {
    const int64_t at = reduction.slices[owner].begin;
    if (returned) return builder.returned(reader, at);
    return builder.output(reduction.deliver == Deliver::kShared ? owner : reader, at);
  };
  for (int i = 1; i < ranks && own.count() > 0; ++i) {
    const int peer = (rank + i) % ranks;
    builder.post(peer, result(rank, peer), own.count(),
                 {.type = Payload::kResult, .slice = static_cast<uint32_t>(rank)});
  }
  for (int i = 1; i < ranks; ++i) {
    const int owner = (rank + i) % ranks;
    if (reduction.slices[owner].count() == 0) continue;
    builder.await(owner, result(owner, rank), reduction.slices[owner].count(),
                  {.type = Payload::kResult, .slice = static_cast<uint32_t>(owner)});
    if (returned) {
      builder.copy(result(owner, rank), builder.output(rank, reduction.slices[owner].begin),
                   reduction.slices[owner].count());
    }
    builder.release(owner);
  }
}

void direct_gather_slices(ScheduleBuilder& builder, const std::vector<ShardRange>& slices) {
  const int rank = builder.rank(), ranks = static_cast<int>(slices.size());
  const auto label = [](int owner) {
    return ScheduleBuilder::Label{.type = Payload::kResult, .slice = static_cast<uint32_t>(owner)};
  };
  for (int i = 1; i < ranks && slices[rank].count() > 0; ++i) {
    builder.post((rank + i) % ranks, builder.output(rank, slices[rank].begin), slices[rank].count(),
                 label(rank));
  }
  for (int i = 1; i < ranks; ++i) {
    const int owner = (rank + i) % ranks;
    const ShardRange slice = slices[owner];
    if (slice.count() == 0) continue;
    builder.await(owner, builder.output(owner, slice.begin), slice.count(), label(owner));
    builder.copy(builder.output(owner, slice.begin), builder.output(rank, slice.begin), slice.count());
    builder.release(owner);
  }
  builder.readers_may_linger();
}

void direct_broadcast(ScheduleBuilder& builder, int ranks, int root, int64_t count) {
  const int rank = builder.rank();
  const ScheduleBuilder::Label label{.type = Payload::kResult, .slice = static_cast<uint32_t>(root)};
  if (rank == root) {
    for (int i = 1; i < ranks; ++i) builder.post((rank + i) % ranks, builder.output(root, 0), count, label);
    builder.readers_may_linger();
  } else {
    builder.await(root, builder.output(root, 0), count, label);
    builder.copy(builder.output(root, 0), builder.output(rank, 0), count);
    builder.release(root);
  }
}

}  // namespace annulus
