#include "telemetry/step_aggregator.h"

#include <algorithm>
#include <cmath>

namespace annulus {

StepAggregator::StepAggregator(int ranks, StepSource steps, EvalSource evaluations)
    : ranks_(ranks),
      steps_(std::move(steps)),
      evaluations_(std::move(evaluations)),
      next_step_(ranks),
      next_evaluation_(ranks) {}

double StepAggregator::Sums::mean_loss() const {
  if (not_finite > 0 || images == 0) return std::nan("");
  return static_cast<double>(loss_units) * kLossUnitNats / static_cast<double>(images);
}

template <typename Record>
StepAggregator::Sums* StepAggregator::sums_for(std::map<uint64_t, Sums>& open, uint64_t handed_on,
                                               uint64_t key, const Record& record) {
  if (key <= handed_on) return nullptr;
  Sums& sums = open[key];
  if (record.attempt < sums.attempt) return nullptr;
  if (record.attempt > sums.attempt) {
    sums = {};
    sums.attempt = record.attempt;
  }
  return &sums;
}

template <typename Ring, typename Add>
void StepAggregator::drain(const Ring& ring, uint64_t& next, Add add) {
  const uint64_t written = ring.written();
  if (written - next > Ring::capacity()) {
    lost_ += written - Ring::capacity() - next;
    next = written - Ring::capacity();
  }
  for (; next < written; ++next) {
    if (!add(ring, next)) ++lost_;
  }
}

template <typename Emit>
void StepAggregator::emit_whole(std::map<uint64_t, Sums>& open, Emit emit) const {
  for (auto it = open.begin(); it != open.end();) {
    if (it->second.ranks < ranks_) {
      ++it;
      continue;
    }
    emit(it->second);
    it = open.erase(open.begin(), std::next(it));
  }
}

void StepAggregator::poll(const std::function<void(const StepSummary&)>& on_step,
                          const std::function<void(const EvalSummary&)>& on_evaluation) {
  for (int rank = 0; rank < ranks_; ++rank) {
    drain(steps_(rank), next_step_[rank], [&](const StepRing& ring, uint64_t n) {
      StepRecord record;
      if (!ring.read(n, record)) return false;
      Sums* const open = sums_for(open_steps_, last_step_, record.step, record);
      if (open == nullptr) return true;
      Sums& sums = *open;
      ++sums.ranks;
      StepSummary& step = sums.step;
      step.step = record.step;
      step.begin_ns = std::min(step.begin_ns, record.begin_ns);
      step.end_ns = std::max(step.end_ns, record.end_ns);
      step.compute_ns += static_cast<double>(record.compute_ns) / ranks_;
      step.comm_ns += static_cast<double>(record.comm_ns) / ranks_;
      step.sync_ns += static_cast<double>(record.sync_ns) / ranks_;
      step.hidden_ns += static_cast<double>(record.hidden_ns) / ranks_;
      if (record.compute_ns > sums.longest_compute) {
        sums.longest_compute = record.compute_ns;
        step.slowest_rank = rank;
      }
      step.gradient_norm = record.gradient_norm;
      step.wire.add(record.wire);
      sums.loss_units += record.loss_units;
      sums.images += record.images;
      sums.not_finite += record.not_finite;
      return true;
    });
    drain(evaluations_(rank), next_evaluation_[rank], [&](const EvalRing& ring, uint64_t n) {
      EvalRecord record;
      if (!ring.read(n, record)) return false;
      Sums* const open = sums_for(open_evaluations_, last_evaluation_, record.epoch, record);
      if (open == nullptr) return true;
      Sums& sums = *open;
      ++sums.ranks;
      sums.evaluation.epoch = record.epoch;
      sums.evaluation.step = record.step;
      sums.loss_units += record.loss_units;
      sums.correct += record.correct;
      sums.images += record.images;
      sums.not_finite += record.not_finite;
      return true;
    });
  }
  emit_whole(open_steps_, [&](Sums& sums) {
    sums.step.images = sums.images;
    sums.step.wire.link_ns /= ranks_;
    sums.step.wire.unacknowledged_ns /= ranks_;
    sums.step.loss = sums.mean_loss();
    last_step_ = sums.step.step;
    on_step(sums.step);
  });
  emit_whole(open_evaluations_, [&](Sums& sums) {
    sums.evaluation.images = sums.images;
    last_evaluation_ = sums.evaluation.epoch;
    evaluated_step_ = sums.evaluation.step;
    sums.evaluation.loss = sums.mean_loss();
    sums.evaluation.accuracy = sums.images > 0 ? static_cast<double>(sums.correct) / sums.images : 0;
    on_evaluation(sums.evaluation);
  });
}

}  // namespace annulus
