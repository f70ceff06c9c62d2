#include "launcher/compression_governor.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace annulus {

void CompressionGovernor::TimeByBytes::add(double x, double y) {
  ++count_;
  const double dx = x - mean_x_, dy = y - mean_y_;
  mean_x_ += dx / count_;
  mean_y_ += dy / count_;
  xx_ += dx * (x - mean_x_);
  xy_ += dx * (y - mean_y_);
  yy_ += dy * (y - mean_y_);
}

double CompressionGovernor::TimeByBytes::most_per_byte() const {
  if (mean_x_ <= 0) return std::numeric_limits<double>::infinity();
  if (count_ < 3) return std::numeric_limits<double>::infinity();
  const double error = std::sqrt(yy_ / (count_ - 1) / count_);  // of the mean
  const double by_sums = (mean_y_ + 2 * error) / mean_x_;
  if (xx_ <= 0) return by_sums;
  const double slope = xy_ / xx_;
  const double unexplained = std::max(yy_ - slope * xy_, 0.0) / (count_ - 2);
  return std::min(by_sums, std::max(slope, 0.0) + 2 * std::sqrt(unexplained / xx_));
}

void CompressionGovernor::add(const WireUse& step, bool settled) {
  if (++steps_ <= kSkipped) return;
  const double bytes = static_cast<double>(step.bytes);
  const double coding_ns = static_cast<double>(step.encode_ns + step.decode_ns) / ranks_;
  link_.add(bytes, static_cast<double>(step.unacknowledged_ns));
  cpu_.add(bytes, std::max(static_cast<double>(step.cpu_ns) / ranks_ - coding_ns, 0.0));
  if (!settled) return;
  ++settled_;
  settled_bytes_ += bytes;
  coding_ns_ += coding_ns;
}

std::optional<CompressionEstimate> CompressionGovernor::estimate() const {
  if (whole_bytes_ <= 0 || settled_ < kFewest || link_.never()) return std::nullopt;
  const double steps = static_cast<double>(settled_);
  const double saved_bytes = std::max(whole_bytes_ - settled_bytes_ / steps, 0.0);
  const double link_ns = link_.most_per_byte(), cpu_ns = cpu_.most_per_byte();
  return CompressionEstimate{.coding_ms = coding_ns_ / steps * 1e-6,
                             .saved_wire_ms = saved_bytes * link_ns * 1e-6,
                             .saved_cpu_ms = saved_bytes * cpu_ns * 1e-6,
                             .gbit_per_s = 8 / link_ns};
}

std::string describe(const CompressionEstimate& estimate) {
  return fmt::format(
      "--compress topk takes {:.2f} ms a step to encode and decode, and saves at most {:.2f} ms on the way "
      "(at {:.2g} Gbit/s or more) and {:.2f} ms of other processor time: --compress none would be faster "
      "here",
      estimate.coding_ms, estimate.saved_wire_ms, estimate.gbit_per_s, estimate.saved_cpu_ms);
}

}  // namespace annulus
