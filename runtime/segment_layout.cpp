#include "runtime/segment_layout.h"

#include <fmt/format.h>

#include "collectives/norm_meeting.h"

namespace annulus {
namespace {

uint64_t round_up(uint64_t value, uint64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Deals out the segment's bytes from front to back.
class Cursor {
 public:
  uint64_t take(uint64_t bytes, uint64_t alignment) {
    position_ = round_up(position_, alignment);
    const uint64_t offset = position_;
    position_ += bytes;
    return offset;
  }
  uint64_t position() const { return position_; }
  Section since(uint64_t begin) {
    position_ = round_up(position_, kPageBytes);
    return {begin, position_ - begin};
  }

 private:
  uint64_t position_ = 0;
};

void plan_rings(const SegmentInputs& inputs, Cursor& cursor, SegmentPlan& plan) {
  const int ranks = inputs.ranks;
  const std::vector<int64_t> descriptors_per_step = inputs.exchange().descriptors_per_step();
  plan.ring_offsets.assign(ranks * ranks, 0);
  plan.ring_capacities.assign(ranks * ranks, 0);
  const uint64_t begin = cursor.take(0, kPageBytes);
  for (int to = 0; to < ranks; ++to) {
    const uint64_t first = cursor.take(0, kPageBytes);
    for (int from = 0; from < ranks; ++from) {
      const int64_t descriptors = descriptors_per_step[from * ranks + to];
      if (descriptors == 0) continue;
      const uint32_t capacity = SpscRing::capacity_for(descriptors);
      plan.ring_capacities[from * ranks + to] = capacity;
      plan.ring_offsets[from * ranks + to] = cursor.take(SpscRing::bytes(capacity), kRankSpacing);
    }
    plan.homes.push_back({cursor.since(first), to});
  }
  plan.rings = cursor.since(begin);
}

// Of an array of parameters that begins at `base`: a slice lies on its owner's node.
void add_homes_of_slices(const SegmentInputs& inputs, uint64_t base, SegmentPlan& plan) {
  for (const BucketExtent& bucket : inputs.buckets.extents) {
    for (int rank = 0; rank < inputs.ranks; ++rank) {
      const ShardRange slice = slice_of(rank, inputs.ranks, bucket);
      if (slice.count() == 0) continue;
      const uint64_t first = base + (bucket.offset + slice.begin * kBlockElements) * sizeof(float);
      plan.homes.push_back({{first, slice.count() * kBlockElements * sizeof(float)}, rank});
    }
  }
}

void plan_state(const SegmentInputs& inputs, Cursor& cursor, SegmentPlan& plan) {
  plan.state_array_bytes = inputs.buckets.elements * sizeof(float);
  const uint64_t begin = cursor.take(0, kPageBytes);
  for (int array = 0; array < inputs.all_state_arrays(); ++array) {
    add_homes_of_slices(inputs, cursor.take(plan.state_array_bytes, kPageBytes), plan);
  }
  plan.state = cursor.since(begin);
}

void plan_gradients(const SegmentInputs& inputs, Cursor& cursor, SegmentPlan& plan) {
  plan.gradient_buffer_bytes = plan.state_array_bytes;
  const uint64_t begin = cursor.take(0, kPageBytes);
  for (int rank = 0; rank < inputs.ranks; ++rank) {
    const int buffers = inputs.exchange().rank_sum(rank).buffers;
    const uint64_t bytes = inputs.gradient_sets() * buffers * plan.gradient_buffer_bytes;
    const uint64_t first = cursor.take(bytes, kPageBytes);
    plan.gradient_buffers.push_back(buffers);
    plan.gradient_offsets.push_back(first);
    plan.homes.push_back({cursor.since(first), rank});
  }
  plan.gradients = cursor.since(begin);
}

void plan_residuals(const SegmentInputs& inputs, Cursor& cursor, SegmentPlan& plan) {
  const uint64_t begin = cursor.take(0, kPageBytes);
  const auto take = [&](std::vector<uint64_t>& offsets) {
    offsets.push_back(cursor.take(2 * plan.state_array_bytes, kPageBytes));
  };
  for (int rank = 0; rank < inputs.ranks && inputs.residuals == SegmentInputs::ResidualsOf::kShards; ++rank) {
    const uint64_t first = cursor.take(0, kPageBytes);
    for (int64_t i = deal(rank, inputs.ranks, inputs.shards).count(); i > 0; --i) {
      take(plan.residual_offsets);
      if (inputs.velocities) take(plan.velocity_offsets);
    }
    plan.homes.push_back({cursor.since(first), rank});
  }
  if (inputs.residuals == SegmentInputs::ResidualsOf::kHost) {
    const auto take_by_slices = [&](std::vector<uint64_t>& offsets) {
      take(offsets);
      for (int generation = 0; generation < 2; ++generation) {
        add_homes_of_slices(inputs, offsets[0] + generation * plan.state_array_bytes, plan);
      }
    };
    take_by_slices(plan.residual_offsets);
    if (inputs.velocities) take_by_slices(plan.velocity_offsets);
  }
  plan.residuals = cursor.since(begin);
}

void plan_data(const DatasetInfo& info, Cursor& cursor, SegmentPlan& plan) {
  const auto array = [&](uint64_t bytes) {
    return cursor.take(kDatasetHeadroom + bytes, 64) + kDatasetHeadroom;
  };
  const uint64_t begin = cursor.take(0, kPageBytes);
  plan.train_images = array(info.train_count * info.shape.pixels());
  plan.train_labels = array(info.train_count);
  plan.test_images = array(info.test_count * info.shape.pixels());
  plan.test_labels = array(info.test_count);
  plan.data = cursor.since(begin);
  plan.homes.push_back({plan.data, -1});
}

}  // namespace

SegmentPlan plan_segment(const SegmentInputs& inputs) {
  SegmentPlan plan;
  Cursor cursor;
  cursor.take(kPageBytes, kPageBytes);

  plan.rank_part_stride = round_up(sizeof(RankPart), kPageBytes);
  plan.rank_parts = {cursor.take(inputs.ranks * plan.rank_part_stride, kPageBytes),
                     inputs.ranks * plan.rank_part_stride};
  for (int rank = 0; rank < inputs.ranks; ++rank) {
    plan.homes.push_back(
        {{plan.rank_parts.offset + rank * plan.rank_part_stride, plan.rank_part_stride}, rank});
  }

  const uint64_t begin = cursor.take(0, kPageBytes);
  cursor.take(inputs.ranks * Versions::row_words(inputs.buckets.extents.size()) * sizeof(uint32_t),
              kPageBytes);
  plan.versions = cursor.since(begin);
  plan.homes.push_back({plan.versions, 0});

  const uint64_t norms = cursor.take(0, kPageBytes);
  if (inputs.norms) cursor.take(NormMeeting::bytes(inputs.exchange()), kPageBytes);
  plan.norms = cursor.since(norms);
  plan.homes.push_back({plan.norms, 0});

  plan_rings(inputs, cursor, plan);
  plan_state(inputs, cursor, plan);
  plan_gradients(inputs, cursor, plan);
  plan_residuals(inputs, cursor, plan);
  const uint64_t snapshot = cursor.take(0, kPageBytes);
  cursor.take(inputs.snapshot_arrays() * plan.state_array_bytes, kPageBytes);
  plan.snapshot = cursor.since(snapshot);
  plan.homes.push_back({plan.snapshot, -1});
  plan_data(inputs.dataset, cursor, plan);
  plan.bytes = cursor.since(0).bytes;

  plan.parts = {{"header", kPageBytes},
                {"ranks (control, step records)", plan.rank_parts.bytes},
                {"versions", plan.versions.bytes}};
  if (inputs.norms) plan.parts.push_back({"norms of gradient blocks", plan.norms.bytes});
  plan.parts.push_back({"rings", plan.rings.bytes});
  plan.parts.push_back({fmt::format("weights, {} generations", inputs.weight_generations()),
                        inputs.weight_generations() * plan.state_array_bytes});
  if (inputs.state_arrays > 1) {
    plan.parts.push_back(
        {inputs.state_arrays == 2 ? "moments, 2 generations" : "moments, 2 arrays in 2 generations",
         2 * (inputs.state_arrays - 1) * plan.state_array_bytes});
  }
  plan.parts.push_back({inputs.gradient_sets() == 1 ? "gradients, all ranks" : "gradients, all ranks, 2 sets",
                        plan.gradients.bytes});
  if (inputs.residual_arrays() > 0) {
    const bool of_host = inputs.residuals == SegmentInputs::ResidualsOf::kHost;
    plan.parts.push_back(
        {fmt::format("{} of {}, 2 generations",
                     of_host ? (inputs.velocities ? "residual and velocity" : "residual")
                             : (inputs.velocities ? "residuals and velocities" : "residuals"),
                     of_host ? "the host" : "shards"),
         plan.residuals.bytes});
  }
  if (inputs.snapshot) plan.parts.push_back({"snapshot for checkpoints", plan.snapshot.bytes});
  plan.parts.push_back({"images and labels", plan.data.bytes});
  return plan;
}

}  // namespace annulus
