// Progress: from step summaries to the line that a person watches and to the means of a whole run.
#pragma once

#include <cstdint>
#include <deque>
#include <string>

#include "telemetry/step_aggregator.h"

namespace annulus {

class Progress {
 public:
  // `whole_wire_bytes`: as wire_saved() takes them, of a step.
  Progress(uint64_t steps, uint64_t steps_per_epoch, double whole_wire_bytes = 0)
      : steps_(steps), steps_per_epoch_(steps_per_epoch), whole_wire_bytes_(whole_wire_bytes) {}

  void add(const StepSummary& step);

  // "epoch 2/5  step 512/2345  loss 0.4312  12,034 images/s  T_compute 9.90  T_comm 0.31  T_sync 0.42 ms  ETA
  // 0:31"; speeds are means over the last seconds. With several hosts also what this one sends in a step:
  // "wire 0.48 MB, 98.9 % less, 4.10 ms  encode 12.31  decode 1.22 ms".
  std::string line() const;

  uint64_t steps_done() const { return totals_.steps; }

  // Means over all steps but the first, which also warms up; milliseconds, and images per second of wall time
  // between the first step's end and the last step's (evaluations in between not counted).
  struct Means {
    double step_ms = 0, compute_ms = 0, comm_ms = 0, sync_ms = 0, hidden_ms = 0, images_per_s = 0;
    double wire_bytes = 0, wire_ms = 0, encode_ms = 0, decode_ms = 0;
  };
  Means means() const;
  int64_t images() const { return totals_.images; }
  int64_t first_step_end_ns() const { return first_end_ns_; }

 private:
  // Sums over some steps; nanoseconds.
  struct Sums {
    uint64_t steps = 0;
    int64_t images = 0;
    int64_t span_ns = 0;  // from step's end to step's end, or from begin to end where something lay between
    double compute_ns = 0, comm_ns = 0, sync_ns = 0, hidden_ns = 0;
    WireUse wire;
    void add(const StepSummary& step, int64_t span_ns, int sign);
  };
  static Means means_of(const Sums& sums);

  std::string wire_part(const Means& means) const;

  uint64_t steps_, steps_per_epoch_;
  double whole_wire_bytes_;
  StepSummary last_;
  int64_t first_end_ns_ = 0;
  Sums totals_;  // images and steps of all, the rest without the first step
  Sums timed_;
  std::deque<std::pair<StepSummary, int64_t>> window_;  // the last seconds, with each step's span
  Sums recent_;
};

// 12345678 -> "12,345,678"
std::string with_thousands(int64_t value);
// 75.2 -> "1:15"
std::string format_duration(double seconds);

}  // namespace annulus
