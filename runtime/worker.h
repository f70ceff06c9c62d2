// Worker: one rank's life, from making its kernels to its last step.
//
// Everything that a run needs to go on lies in the segment and in the RunPlan, so a worker can be replaced at
// any time. Its life is a series of attempts: each begins at the committed step and ends with the run, or
// with an abort, after which the rank parks until the launcher releases it (recovery.h).
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "collectives/executor.h"
#include "collectives/norm_meeting.h"
#include "collectives/store_chooser.h"
#include "kernels/network.h"
#include "runtime/arena.h"
#include "runtime/data_order.h"
#include "runtime/gradient_compression.h"
#include "runtime/momentum_correction.h"
#include "runtime/optimizer_step.h"
#include "runtime/recovery.h"
#include "runtime/run_plan.h"
#include "runtime/segment.h"

namespace annulus {

// How long compute went on while an exchange was under way. `exchange_ns`: the exchange's busy and waiting
// time so far.
class HiddenTime {
 public:
  bool under_way() const { return under_way_; }
  void begin(int64_t exchange_ns) {
    under_way_ = true;
    begin_ns_ = now_ns() - exchange_ns;
  }
  void end(int64_t exchange_ns) {
    under_way_ = false;
    hidden_ns_ += std::max<int64_t>(now_ns() - exchange_ns - begin_ns_, 0);
  }
  // The time since the last take(); an exchange under way goes on.
  int64_t take(int64_t exchange_ns) {
    if (under_way_) {
      end(exchange_ns);
      begin(exchange_ns);
    }
    return std::exchange(hidden_ns_, 0);
  }

 private:
  bool under_way_ = false;
  int64_t begin_ns_ = 0;
  int64_t hidden_ns_ = 0;
};

class Worker {
 public:
  // `run` and `segment` outlive the worker. Runs in the worker's own process, after it has been bound.
  // `notify` tells the launcher that this rank's RankState has changed, that it has parked, or that its part
  // of a checkpoint's step is done. `left`: the attempt that this rank has left, as the launcher had it
  // before the fork: the one under way is not to be joined.
  Worker(const RunPlan& run, const Segment& segment, int rank, std::function<void()> notify,
         uint32_t left = kNoAttempt);

  // Prepares (kernels, memory), trains in one attempt after the other until the last step, and returns when
  // the launcher has dismissed the rank. Throws StepError, UserError.
  void run();

 private:
  void prepare();
  void join_attempt();
  void make_bridge();
  void train();
  void park();
  void report_broken_link(const LinkError& error);
  void enter(RankState state);
  ShardRange own_part(int parameter) const;
  void write_initial_state();
  float* restored_array(const CheckpointTensor& tensor) const;
  // Each returns false where the run had ended with the step before.
  bool step(uint32_t step);
  bool admit(uint32_t step);
  void settle_checkpoint(uint32_t step);
  void end_exchange();
  bool backward(uint32_t step, const float* weights, int64_t shard, bool empty, bool last);
  void evaluate_after(uint32_t step);  // if an evaluation is due
  bool evaluates_after(const StepImages& images) const;
  void progress();
  void finish_update();
  void forward(const float* weights, uint32_t version, bool wait_for_updates);
  void finish_bucket(uint32_t step, int bucket, int64_t shard, bool last);
  float* gradients(uint32_t step, int buffer) const;
  StateArrays state_after(uint32_t step) const;
  int64_t exchange_ns() const { return exchange_->counts().busy_ns + waiter_.waited_ns(); }
  void load_images(const StepImages& images, const ShardRange& part);
  void apply(int64_t offset, int64_t count,
             const float* sum);  // the exchange's sink, on its thread: one piece of the update
  void evaluate(int64_t epoch, uint32_t step);

  const RunPlan& run_;
  const Segment& segment_;
  const int rank_;
  const std::function<void()> notify_;
  SegmentHeader& header_;
  RankPart& part_;
  Versions versions_;
  Waiter waiter_;
  RankSum sum_plan_;
  DatasetView data_;
  std::vector<std::vector<int>> buckets_by_stage_;
  const ShardRange shards_;  // that this rank computes
  const MomentumCorrection momentum_;
  GradientCompression compression_;

  std::unique_ptr<Network> network_;
  Arena arena_;
  std::vector<uint8_t> labels_;
  uint32_t attempt_;  // that the rank is in, or has left
  struct {
    uint64_t descriptors = 0, bytes = 0;
    WireUse wire;
  } counted_;                   // in earlier attempts
  WireUse recorded_wire_;       // in records of steps, and in earlier attempts
  uint32_t updating_step_ = 0;  // whose update apply() makes; 0: none so far in this attempt
  OptimizerStep update_;
  std::optional<NormMeeting> meeting_;  // only with --clip
  double gradient_norm_ = 0;            // before clipping, of the last update that this rank has finished
  alignas(kLineBytes) float clipped_[kPieceElements];  // apply()'s
  UpdateStores update_stores_;
  StoreChooser weight_store_;  // goes by whole steps, because all ranks read the weights in the next forward
  HiddenTime hidden_;
  std::unique_ptr<Bridge> bridge_;          // only with several hosts
  std::unique_ptr<StepExchange> exchange_;  // last: where it has a thread, that uses the members above
};

}  // namespace annulus
