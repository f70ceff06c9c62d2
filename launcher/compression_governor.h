// CompressionGovernor: says when top-k between hosts takes longer than it saves. It changes nothing.
//
// Measured in every step, of a rank (means over a host's): processor time to encode and decode, other
// processor time of the bridge, time on the way (until bytes are acknowledged, which may be late), and bytes.
// Reckoned: what whole gradients, whose bytes are known, would have taken of the two in the middle. Both are
// taken to grow with the bytes, by so much a byte as
//   - the bytes of all steps and their times say (least squares), as far as bytes have differed, which they
//     do while the ratio falls; or
//   - their sums do, as though nothing took time whatever the bytes (a handshake, a wake-up),
// plus two standard errors, whichever is less. Either is rather too much than too little, and neither is
// taken to hide behind the other or behind the backward pass. So compression is said not to pay only where
// that is plain.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "telemetry/wire_use.h"

namespace annulus {

// Milliseconds of a step.
struct CompressionEstimate {
  double coding_ms = 0;      // processor time to encode and decode
  double saved_wire_ms = 0;  // at most, on the way
  double saved_cpu_ms = 0;   // at most, of the bridge's other processor time
  double gbit_per_s = 0;     // that the link is taken to have, at least

  bool pays() const { return coding_ms <= saved_wire_ms + saved_cpu_ms; }
};

// "--compress topk takes 12.00 ms a step to encode and decode, and saves at most 3.00 ms on the way (at 9.2
// Gbit/s or more) and 1.00 ms of other processor time: --compress none would be faster here"
std::string describe(const CompressionEstimate& estimate);

class CompressionGovernor {
 public:
  static constexpr int kSkipped = 5;  // the first steps: connections are new
  static constexpr int kFewest = 50;  // steps of the last ratio, before which nothing is said

  // `whole_bytes`: as wire_saved() takes them, of a host's step.
  CompressionGovernor(double whole_bytes, int ranks) : whole_bytes_(whole_bytes), ranks_(ranks) {}

  // A host's step. `settled`: it sends as large a share as all later ones.
  void add(const WireUse& step, bool settled);
  // Of the settled steps; nothing while they are too few, where nothing is compressed, or where the kernel
  // does not tell how fast the link is.
  std::optional<CompressionEstimate> estimate() const;

 private:
  // Times of steps, y, by their bytes, x.
  class TimeByBytes {
   public:
    void add(double x, double y);
    bool never() const { return mean_y_ == 0; }  // whether no step took any
    double most_per_byte() const;

   private:
    double count_ = 0, mean_x_ = 0, mean_y_ = 0, xx_ = 0, xy_ = 0, yy_ = 0;  // about the means
  };

  double whole_bytes_;
  int ranks_;
  int64_t steps_ = 0, settled_ = 0;
  double settled_bytes_ = 0, coding_ns_ = 0;
  TimeByBytes link_, cpu_;
};

}  // namespace annulus
