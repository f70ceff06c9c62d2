#include "runtime/segment.h"

#include <cstring>
#include <new>

#include "collectives/norm_meeting.h"
#include "runtime/arena.h"
#include "telemetry/check.h"

namespace annulus {

Segment::Segment(const SegmentPlan& plan, const SegmentInputs& inputs, uint64_t plan_hash, const Bind& bind)
    : plan_(plan),
      ranks_(inputs.ranks),
      buckets_(static_cast<int>(inputs.buckets.extents.size())),
      state_arrays_(inputs.state_arrays),
      weight_generations_(inputs.weight_generations()),
      gradient_sets_(inputs.gradient_sets()),
      waiting_threads_(inputs.waiting_threads),
      memory_(
          plan.bytes, "the segment",
          "free memory, raise the limit, or use fewer --workers, fewer --shards or a smaller --batch-size",
          [&](std::byte* base) {
            for (const SegmentPlan::Home& home : plan.homes) {
              if (home.range.bytes > 0) bind(base + home.range.offset, home.range.bytes, home.rank);
            }
          }) {
  // Fresh pages are zero, which is the right start for all but these.
  SegmentHeader& header = *new (base()) SegmentHeader{};
  header.version = kSegmentVersion;
  header.ranks = ranks_;
  header.bytes = plan.bytes;
  header.plan_hash = plan_hash;
  header.buckets = buckets_;
  header.state_arrays = state_arrays_;
  header.weight_generations = weight_generations_;
  header.gradient_sets = gradient_sets_;
  header.rank_parts = plan.rank_parts;
  header.versions = plan.versions;
  header.norms = plan.norms;
  header.rings = plan.rings;
  header.state = plan.state;
  header.gradients = plan.gradients;
  header.residuals = plan.residuals;
  header.snapshot = plan.snapshot;
  header.data = plan.data;
  header.attempt.store(1, std::memory_order_relaxed);
  reset_exchange(Versions::kNone);
  header.magic.store(kSegmentMagic, std::memory_order_release);
}

void Segment::reset_exchange(uint32_t committed) const {
  versions().reset(committed);
  if (plan_.norms.bytes != 0) NormMeeting::reset(norms(), ranks_, committed);
  for (int from = 0; from < ranks_; ++from) {
    for (int to = 0; to < ranks_; ++to) {
      if (plan_.ring_offsets[from * ranks_ + to] != 0) ring(from, to).reset();
    }
  }
}

float* Segment::residual_after(uint32_t step, int64_t shard) const {
  if (plan_.residual_offsets.empty()) return nullptr;
  return reinterpret_cast<float*>(base() + plan_.residual_offsets[shard] +
                                  step % 2 * plan_.state_array_bytes);
}

float* Segment::velocity_after(uint32_t step, int64_t shard) const {
  if (plan_.velocity_offsets.empty()) return nullptr;
  return reinterpret_cast<float*>(base() + plan_.velocity_offsets[shard] +
                                  step % 2 * plan_.state_array_bytes);
}

CheckpointState Segment::state_after(uint32_t step) const {
  CheckpointState state{.step = step, .weights = weights_after(step), .moments = {}};
  for (int array = 0; array < 2; ++array) state.moments[array] = moments_after(step, array);
  if (weight_generations_ > 2) state.previous = weights_after(step == 0 ? 0 : step - 1);
  for (int64_t shard = 0; shard < std::ssize(plan_.residual_offsets); ++shard) {
    state.residuals.push_back(residual_after(step, shard));
  }
  for (int64_t shard = 0; shard < std::ssize(plan_.velocity_offsets); ++shard) {
    state.velocities.push_back(velocity_after(step, shard));
  }
  return state;
}

CheckpointState Segment::copy_to_snapshot(const CheckpointState& state,
                                          const std::function<void()>& beat) const {
  CHECK(plan_.snapshot.bytes != 0, "no room for a snapshot");
  populate(base() + plan_.snapshot.offset, plan_.snapshot.bytes, beat);
  std::byte* next = base() + plan_.snapshot.offset;
  const auto copy = [&](const float* array) -> const float* {
    if (array == nullptr) return nullptr;
    const void* const at = std::memcpy(next, array, plan_.state_array_bytes);
    next += plan_.state_array_bytes;
    beat();
    return static_cast<const float*>(at);
  };
  CheckpointState copied = state;
  copied.weights = copy(state.weights);
  for (const float*& moment : copied.moments) moment = copy(moment);
  copied.previous = copy(state.previous);
  for (const float*& residual : copied.residuals) residual = copy(residual);
  for (const float*& velocity : copied.velocities) velocity = copy(velocity);
  return copied;
}

Versions Segment::versions() const {
  return {reinterpret_cast<std::atomic<uint32_t>*>(base() + plan_.versions.offset), ranks_, buckets_};
}

SpscRing Segment::ring(int from, int to) const {
  const int pair = from * ranks_ + to;
  CHECK(plan_.ring_offsets[pair] != 0, "no ring {} -> {}", from, to);
  return {base() + plan_.ring_offsets[pair], plan_.ring_capacities[pair]};
}

RankControls Segment::controls() const {
  return {base() + plan_.rank_parts.offset, plan_.rank_part_stride, ranks_, waiting_threads_};
}

ExchangeMemory Segment::exchange_memory() const {
  ExchangeMemory memory;
  memory.base = base();
  memory.ranks = ranks_;
  for (int set = 0; set < gradient_sets_; ++set) {
    std::vector<float*>& first = memory.gradients.emplace_back();
    for (int rank = 0; rank < ranks_; ++rank) first.push_back(gradients(rank, 0, set));
  }
  memory.buffer_stride = plan_.gradient_buffer_bytes / sizeof(float);
  memory.attempt = header().attempt.load(std::memory_order_acquire);
  memory.has_ring = [this](int from, int to) { return plan_.ring_offsets[from * ranks_ + to] != 0; };
  memory.ring = [this](int from, int to) { return ring(from, to); };
  return memory;
}

DatasetView Segment::data(const DatasetInfo& info) const {
  const auto bytes = [&](uint64_t offset, int64_t count) {
    return std::span<uint8_t>(reinterpret_cast<uint8_t*>(base() + offset), count);
  };
  return {.train_images = bytes(plan_.train_images, info.train_count * info.shape.pixels()),
          .train_labels = bytes(plan_.train_labels, info.train_count),
          .test_images = bytes(plan_.test_images, info.test_count * info.shape.pixels()),
          .test_labels = bytes(plan_.test_labels, info.test_count)};
}

void Segment::abort() const {
  header().wait.abort.store(1, std::memory_order_release);
  wake_all();
}

void Segment::wake_all() const { annulus::wake_all(header().wait, controls()); }

}  // namespace annulus
