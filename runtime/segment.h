// Segment: the one piece of memory that a run shares.
#pragma once

#include <cstddef>
#include <functional>
#include <span>

#include "collectives/shared_memory.h"
#include "runtime/checkpoint.h"
#include "runtime/segment_layout.h"

namespace annulus {

class Segment {
 public:
  // Asks for one range to be placed; see SegmentPlan::Home. Called before any page exists.
  using Bind = std::function<void(void* address, uint64_t bytes, int rank)>;

  // Creates, binds, reserves every page (posix_fallocate), seals and maps the segment, and fills in the
  // header. Throws UserError if the memory cannot be had.
  Segment(const SegmentPlan& plan, const SegmentInputs& inputs, uint64_t plan_hash, const Bind& bind);
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  const SegmentPlan& plan() const { return plan_; }
  int ranks() const { return ranks_; }
  int descriptor() const { return memory_.descriptor(); }  // of the memfd; stays the segment's

  std::byte* base() const { return memory_.base(); }
  SegmentHeader& header() const { return *reinterpret_cast<SegmentHeader*>(base()); }
  RankPart& rank(int rank) const {
    return *reinterpret_cast<RankPart*>(base() + plan_.rank_parts.offset + rank * plan_.rank_part_stride);
  }
  RankControls controls() const;
  Versions versions() const;
  SpscRing ring(int from, int to) const;
  ExchangeMemory exchange_memory() const;

  // Arrays of one generation (below SegmentInputs::weight_generations; moments: 0 or 1), and gradient buffer
  // `buffer` (below SegmentPlan::gradient_buffers) of a rank in a set: BucketPlan::elements floats each.
  float* weights(int generation) const { return state_array(generation * state_arrays_); }
  float* moments(int generation, int array = 0) const {  // null where the optimizer has no such array
    return array + 1 < state_arrays_ ? state_array(generation * state_arrays_ + 1 + array) : nullptr;
  }
  float* gradients(int rank, int buffer, int set = 0) const {
    return reinterpret_cast<float*>(base() + plan_.gradient_offsets[rank] +
                                    (set * plan_.gradient_buffers[rank] + buffer) *
                                        plan_.gradient_buffer_bytes);
  }
  // The generation that step `step` writes; 0: initial weights.
  float* weights_after(uint32_t step) const { return weights(static_cast<int>(step % weight_generations_)); }
  float* moments_after(uint32_t step, int array = 0) const {
    return moments(static_cast<int>(step % 2), array);
  }
  // What top-k has left of a shard's gradients after `step`, or, as shard 0, of the host's; null where
  // residuals are not kept.
  float* residual_after(uint32_t step, int64_t shard) const;
  // The momentum of those gradients after `step`; null where it is not kept.
  float* velocity_after(uint32_t step, int64_t shard) const;
  // What step `step` has left, for a checkpoint; whole as long as the step's generation is.
  CheckpointState state_after(uint32_t step) const;
  // Copies it to the snapshot, and returns it as it lies there. Calls `beat` after every array.
  CheckpointState copy_to_snapshot(const CheckpointState& state, const std::function<void()>& beat) const;
  std::byte* norms() const {
    return base() + plan_.norms.offset;
  }  // of NormMeeting; only with SegmentInputs::norms
  DatasetView data(const DatasetInfo& info) const;

  // Sets all versions, and the words of the meetings for norms, to `committed` and empties the rings, with
  // their ends free to be claimed. Only while no rank runs, or all are parked.
  void reset_exchange(uint32_t committed) const;
  // Makes every rank give up the step under way: its waits throw StepAborted.
  void abort() const;
  // Wakes every rank that sleeps: something has changed in the header.
  void wake_all() const;

 private:
  float* state_array(int index) const {
    return reinterpret_cast<float*>(base() + plan_.state.offset + index * plan_.state_array_bytes);
  }

  SegmentPlan plan_;
  int ranks_;
  int buckets_;
  int state_arrays_;
  uint32_t weight_generations_;
  int gradient_sets_;
  int waiting_threads_;
  SharedMemory memory_;
};

}  // namespace annulus
