#include "telemetry/progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace annulus {
namespace {

constexpr int64_t kWindowNs = 3'000'000'000;

}  // namespace

void Progress::Sums::add(const StepSummary& step, int64_t span, int sign) {
  steps += sign;
  images += sign * step.images;
  span_ns += sign * span;
  compute_ns += sign * step.compute_ns;
  comm_ns += sign * step.comm_ns;
  sync_ns += sign * step.sync_ns;
  hidden_ns += sign * step.hidden_ns;
  wire.add(step.wire, sign);
}

void Progress::add(const StepSummary& step) {
  ++totals_.steps;
  totals_.images += step.images;
  if (totals_.steps == 1) {
    first_end_ns_ = step.end_ns;
  } else {
    // Ranks run ahead of each other, so a step lasts from the last one's end to its own; but where an
    // evaluation lies between, from its own begin.
    const int64_t span = step.end_ns - std::max(last_.end_ns, step.begin_ns);
    timed_.add(step, span, 1);
    recent_.add(step, span, 1);
    window_.emplace_back(step, span);
    while (window_.size() > 1 && recent_.span_ns > kWindowNs) {
      recent_.add(window_.front().first, window_.front().second, -1);
      window_.pop_front();
    }
  }
  last_ = step;
}

Progress::Means Progress::means_of(const Sums& sums) {
  if (sums.steps == 0) return {};
  const double per_step_ms = 1e-6 / static_cast<double>(sums.steps);
  return {.step_ms = (sums.compute_ns + sums.comm_ns + sums.sync_ns) * per_step_ms,
          .compute_ms = sums.compute_ns * per_step_ms,
          .comm_ms = sums.comm_ns * per_step_ms,
          .sync_ms = sums.sync_ns * per_step_ms,
          .hidden_ms = sums.hidden_ns * per_step_ms,
          .images_per_s = sums.span_ns > 0 ? sums.images / (sums.span_ns * 1e-9) : 0,
          .wire_bytes = static_cast<double>(sums.wire.bytes) / static_cast<double>(sums.steps),
          .wire_ms = static_cast<double>(sums.wire.link_ns) * per_step_ms,
          .encode_ms = static_cast<double>(sums.wire.encode_ns) * per_step_ms,
          .decode_ms = static_cast<double>(sums.wire.decode_ns) * per_step_ms};
}

Progress::Means Progress::means() const { return means_of(timed_); }

std::string Progress::line() const {
  const uint64_t epochs = (steps_ + steps_per_epoch_ - 1) / steps_per_epoch_;
  const uint64_t epoch = last_.step == 0 ? 1 : (last_.step - 1) / steps_per_epoch_ + 1;
  std::string line = fmt::format("epoch {}/{}  step {}/{}", epoch, epochs, last_.step, steps_);
  if (last_.step == 0) return line;
  line += fmt::format("  loss {:.4f}", last_.loss);
  if (recent_.steps == 0) return line;
  const Means means = means_of(recent_);
  const double seconds_per_step = recent_.span_ns * 1e-9 / static_cast<double>(recent_.steps);
  line += fmt::format("  {} images/s  T_compute {:.2f}  T_comm {:.2f}  T_sync {:.2f} ms{}  ETA {}",
                      with_thousands(std::llround(means.images_per_s)), means.compute_ms, means.comm_ms,
                      means.sync_ms, wire_part(means),
                      format_duration(seconds_per_step * static_cast<double>(steps_ - last_.step)));
  return line;
}

std::string Progress::wire_part(const Means& means) const {
  if (means.wire_bytes == 0) return "";
  std::string part = fmt::format("  wire {:.2f} MB", means.wire_bytes * 1e-6);
  if (whole_wire_bytes_ > 0) {
    part +=
        fmt::format(", {:.1f} % less", 100 * wire_saved(std::llround(means.wire_bytes), whole_wire_bytes_));
  }
  part += fmt::format(", {:.2f} ms", means.wire_ms);
  if (means.encode_ms + means.decode_ms == 0) return part;
  return part + fmt::format("  encode {:.2f}  decode {:.2f} ms", means.encode_ms, means.decode_ms);
}

std::string with_thousands(int64_t value) {
  std::string text = std::to_string(value);
  for (int at = static_cast<int>(text.size()) - 3; at > (value < 0 ? 1 : 0); at -= 3) text.insert(at, ",");
  return text;
}

std::string format_duration(double seconds) {
  const int64_t whole = std::llround(seconds);
  if (whole >= 3600) return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

}  // namespace annulus
