// Worker: one rank's life, from making its kernels to its last step.
//
// Everything that a run needs to go on lies in the segment and in the RunPlan; a worker can be replaced at
// any time.
#pragma once

#include <functional>
#include <memory>

#include "collectives/store_chooser.h"
#include "kernels/network.h"
#include "kernels/optimizer.h"
#include "runtime/arena.h"
#include "runtime/data_order.h"
#include "runtime/run_plan.h"
#include "runtime/segment.h"

namespace annulus {

class Worker {
 public:
  // `run` and `segment` outlive the worker. Runs in the worker's own process, after it has been bound.
  // `notify` tells the launcher that this rank's RankState has changed.
  Worker(const RunPlan& run, const Segment& segment, int rank, std::function<void()> notify);

  // Prepares (kernels, memory, initial weights of the own slices), trains until the last step, and returns
  // when the launcher has dismissed the rank. Throws StepAborted, StepError, UserError.
  void run();

 private:
  void prepare();
  void enter(RankState state);
  void write_initial_state();
  bool step(uint32_t step);  // false: the run had ended with the step before
  void forward(uint32_t step, const float* weights, bool wait_for_updates);
  void backward(const float* weights, const RankSum::Shard& shard, bool empty, bool last);
  void finish_bucket(int bucket, const RankSum::Shard& shard, bool last);
  void load_images(const StepImages& images, const ShardRange& part);
  void apply(int64_t offset, int64_t count,
             const float* sum);  // the exchange's sink: one piece of the update
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

  std::unique_ptr<Network> network_;
  Arena arena_;
  std::unique_ptr<Exchange> exchange_;
  std::vector<uint8_t> labels_;
  uint32_t updating_step_ = 0;  // whose update apply() makes
  SgdStep sgd_;
  UpdateStores update_stores_;
  StoreChooser weight_store_;  // goes by whole steps, because all ranks read the weights in the next forward
  int64_t first_publish_ns_ = 0;        // of the step under way; 0: nothing published yet
  int64_t exchange_at_publish_ns_ = 0;  // busy and waiting time of the exchange before that
};

}  // namespace annulus
