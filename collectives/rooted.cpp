#include "collectives/rooted.h"

namespace annulus {

void rooted_gather(ScheduleBuilder& builder, const std::vector<ShardRange>& slices, int root) {
  const int rank = builder.rank(), ranks = static_cast<int>(slices.size());
  const ShardRange own = slices[rank];
  if (rank != root) {
    if (own.count() == 0) return;
    builder.post(root, builder.input(rank, 0), own.count(), {.slice = static_cast<uint32_t>(rank)});
    return builder.readers_may_linger();
  }
  builder.copy(builder.input(rank, 0), builder.output(rank, own.begin), own.count());
  for (int i = 1; i < ranks; ++i) {
    const int peer = (rank + i) % ranks;
    const ShardRange slice = slices[peer];
    if (slice.count() == 0) continue;
    builder.await(peer, builder.input(peer, 0), slice.count(), {.slice = static_cast<uint32_t>(peer)});
    builder.copy(builder.input(peer, 0), builder.output(rank, slice.begin), slice.count());
    builder.release(peer);
  }
}

void rooted_scatter(ScheduleBuilder& builder, const std::vector<ShardRange>& slices, int root) {
  const int rank = builder.rank(), ranks = static_cast<int>(slices.size());
  const ShardRange own = slices[rank];
  const ScheduleBuilder::Label label{.slice = static_cast<uint32_t>(rank)};
  if (rank != root) {
    if (own.count() == 0) return;
    builder.await(root, builder.input(root, own.begin), own.count(), label);
    builder.copy(builder.input(root, own.begin), builder.output(rank, 0), own.count());
    return builder.release(root);
  }
  for (int i = 1; i < ranks; ++i) {
    const int peer = (rank + i) % ranks;
    const ShardRange slice = slices[peer];
    if (slice.count() == 0) continue;
    builder.post(peer, builder.input(rank, slice.begin), slice.count(),
                 {.slice = static_cast<uint32_t>(peer)});
  }
  builder.copy(builder.input(rank, own.begin), builder.output(rank, 0), own.count());
  builder.readers_may_linger();
}

void dissemination_barrier(ScheduleBuilder& builder, int ranks) {
  const int rank = builder.rank();
  uint32_t round = 0;
  for (int distance = 1; distance < ranks; distance *= 2, ++round) {
    const int to = (rank + distance) % ranks, from = (rank + ranks - distance) % ranks;
    builder.post(to, builder.input(rank, 0), 0, {.type = Payload::kNothing, .round = round});
    builder.await(from, builder.input(from, 0), 0, {.type = Payload::kNothing, .round = round});
    builder.release(from);
  }
}

}  // namespace annulus
