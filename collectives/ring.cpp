#include "collectives/ring.h"

#include <algorithm>

namespace annulus {
namespace {

// Calls body(chunk, begin, count) for the chunks of a slice.
template <typename Body>
void for_each_chunk(const ShardRange& slice, int64_t chunk, Body&& body) {
  uint32_t index = 0;
  for (int64_t begin = slice.begin; begin < slice.end; ++index) {
    const int64_t count = std::min(chunk, slice.end - begin);
    body(index, begin, count);
    begin += count;
  }
}

ScheduleBuilder::Label label(Payload type, int round, uint32_t chunk, int slice) {
  return {type, static_cast<uint32_t>(round), chunk, static_cast<uint32_t>(slice)};
}

}  // namespace

void ring_reduce(ScheduleBuilder& builder, const Reduction& reduction) {
  const int rank = builder.rank(), ranks = reduction.ranks;
  const int left = (rank + ranks - 1) % ranks, right = (rank + 1) % ranks;
  const auto sent_by = [&](int source, int round) { return (source + 2 * ranks - 1 - round) % ranks; };
  const auto payload = [&](int source, int round, int64_t at) {
    return round == 0 ? builder.input(source, at) : reduction.running(source, at);
  };
  const auto type = [](int round) { return round == 0 ? Payload::kInput : Payload::kRunningSum; };

  if (ranks > 1) {
    const int slice = sent_by(rank, 0);
    for_each_chunk(reduction.slices[slice], reduction.chunk, [&](uint32_t chunk, int64_t at, int64_t count) {
      builder.post(right, payload(rank, 0, at), count, label(type(0), 0, chunk, slice));
    });
  }
  builder.end_announcement();
  if (ranks == 1 && reduction.slices[0].count() > 0) {
    const ShardRange all = reduction.slices[0];
    builder.sum({builder.input(0, all.begin)}, plan_tree_sum(1, 1), reduction.destinations(0, all.begin),
                all.count(), true);
  }
  for (int round = 0; round < ranks - 1; ++round) {
    const int slice = sent_by(left, round);
    const bool own = slice == rank;
    for_each_chunk(reduction.slices[slice], reduction.chunk, [&](uint32_t chunk, int64_t at, int64_t count) {
      builder.await(left, payload(left, round, at), count, label(type(round), round, chunk, slice));
      builder.sum(payload(left, round, at), builder.input(rank, at),
                  own ? reduction.destinations(rank, at) : std::vector{reduction.running(rank, at)}, count,
                  own);
      builder.release(left);
      if (own) return;
      builder.post(right, reduction.running(rank, at), count,
                   label(Payload::kRunningSum, round + 1, chunk, slice));
    });
  }
  if (reduction.deliver != Deliver::kSink) builder.readers_may_linger();
}

void ring_gather_slices(ScheduleBuilder& builder, const std::vector<ShardRange>& slices) {
  const int rank = builder.rank(), ranks = static_cast<int>(slices.size());
  const int left = (rank + ranks - 1) % ranks, right = (rank + 1) % ranks;
  for (int round = 0; round < ranks - 1; ++round) {
    const int out = (rank + ranks - round) % ranks, in = (left + ranks - round) % ranks;
    if (slices[out].count() > 0) {
      builder.post(right, builder.output(rank, slices[out].begin), slices[out].count(),
                   label(Payload::kResult, round, 0, out));
    }
    if (slices[in].count() > 0) {
      builder.await(left, builder.output(left, slices[in].begin), slices[in].count(),
                    label(Payload::kResult, round, 0, in));
      builder.copy(builder.output(left, slices[in].begin), builder.output(rank, slices[in].begin),
                   slices[in].count());
      builder.release(left);
    }
  }
  builder.readers_may_linger();
}

void ring_broadcast(ScheduleBuilder& builder, int ranks, int root, int64_t count) {
  const int rank = builder.rank();
  const int left = (rank + ranks - 1) % ranks, right = (rank + 1) % ranks;
  const int round = (rank + ranks - root) % ranks;  // hops from the root
  if (round > 0) {
    builder.await(left, builder.output(left, 0), count, label(Payload::kResult, round - 1, 0, root));
    builder.copy(builder.output(left, 0), builder.output(rank, 0), count);
    builder.release(left);
  }
  if (right == root) return;
  builder.post(right, builder.output(rank, 0), count, label(Payload::kResult, round, 0, root));
  builder.readers_may_linger();
}

}  // namespace annulus
