// StepAggregator: puts the step records of all ranks together into one summary per step.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <vector>

#include "telemetry/records.h"

namespace annulus {

// One step of the whole run. Times in nanoseconds; compute, comm, sync and hidden are means over ranks, so
// that compute + comm + sync is the ranks' mean step time.
struct StepSummary {
  uint64_t step = 0;
  int64_t begin_ns = std::numeric_limits<int64_t>::max();  // first rank's
  int64_t end_ns = 0;                                      // last rank's
  double compute_ns = 0, comm_ns = 0, sync_ns = 0, hidden_ns = 0;
  int64_t images = 0;
  double loss = 0;           // mean over images in nats; NaN if an image's was not finite
  double gradient_norm = 0;  // StepRecord::gradient_norm
  int slowest_rank = 0;      // the one that computed longest
  WireUse wire = {};         // of all ranks together
};

// One evaluation of the whole run.
struct EvalSummary {
  uint64_t epoch = 0;
  uint64_t step = 0;
  double loss = 0;
  double accuracy = 0;  // 0 .. 1
  int64_t images = 0;
};

// Reads rings of records from where it stopped the last time. `Source` is called with a rank. What was done
// again in a later attempt counts once, as it was done last.
class StepAggregator {
 public:
  using StepSource = std::function<const StepRing&(int rank)>;
  using EvalSource = std::function<const EvalRing&(int rank)>;

  StepAggregator(int ranks, StepSource steps, EvalSource evaluations);

  // Takes what the ranks have written since the last call; calls back for each step and each evaluation that
  // all ranks have finished, in order.
  void poll(const std::function<void(const StepSummary&)>& on_step,
            const std::function<void(const EvalSummary&)>& on_evaluation);

  // The last step whose evaluation all ranks have finished; 0: none yet.
  uint64_t evaluated_step() const { return evaluated_step_; }
  uint64_t lost() const { return lost_; }  // records that were overwritten before they were read

 private:
  // Sums of one step or evaluation in one attempt over the ranks that have been read.
  struct Sums {
    uint64_t attempt = 0;
    int ranks = 0;
    StepSummary step;
    EvalSummary evaluation;
    int64_t loss_units = 0, images = 0, correct = 0, not_finite = 0, longest_compute = -1;
    double mean_loss() const;
  };
  // Where a record belongs; null where it has been handed on already, or a later attempt's is there.
  template <typename Record>
  static Sums* sums_for(std::map<uint64_t, Sums>& open, uint64_t handed_on, uint64_t key,
                        const Record& record);
  template <typename Ring, typename Add>
  void drain(const Ring& ring, uint64_t& next, Add add);
  // Hands on, in order, what all ranks have finished. What lost a rank's record is never whole: it is dropped
  // when a later one is.
  template <typename Emit>
  void emit_whole(std::map<uint64_t, Sums>& open, Emit emit) const;

  int ranks_;
  StepSource steps_;
  EvalSource evaluations_;
  std::vector<uint64_t> next_step_, next_evaluation_;  // per rank
  std::map<uint64_t, Sums> open_steps_, open_evaluations_;
  uint64_t last_step_ = 0, last_evaluation_ = 0;  // step and epoch that were handed on last
  uint64_t evaluated_step_ = 0;
  uint64_t lost_ = 0;
};

}  // namespace annulus
