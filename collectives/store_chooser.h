// StoreChooser: whether results are stored through the caches or past them, by what is faster here and now.
//
// Storing past the caches pays where a result exceeds them, and where the line to be written has to come back
// from another core's cache at a high price, which may change while a program runs (docs/architecture.md has
// figures). So no threshold is kept: both kinds are tried in turn for a few messages of each size, the faster
// one (by its fastest message, which noise disturbs least) is used for the next ones, and then both are tried
// again.
// Bits do not depend on it.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>

#include "kernels/reduce.h"

namespace annulus {

class StoreChooser {
 public:
  // For the next message of so many bytes. Ranks that make the same calls try the same kinds at the same
  // time.
  Store choose(int64_t bytes) {
    const SizeClass& c = class_of(bytes);
    if (c.messages < 2 * kTries) return c.messages % 2 == 0 ? Store::kCached : Store::kStreaming;
    return c.best[1] < c.best[0] ? Store::kStreaming : Store::kCached;
  }

  // The message that was asked for last took so long.
  void took(int64_t bytes, int64_t ns) {
    SizeClass& c = class_of(bytes);
    if (c.messages < 2 * kTries) {
      double& best = c.best[c.messages % 2];
      best = std::min(best, static_cast<double>(ns) / static_cast<double>(std::max<int64_t>(bytes, 1)));
    }
    if (++c.messages == kPeriod) c = {};
  }

 private:
  static constexpr int kTries = 4;     // of each kind
  static constexpr int kPeriod = 256;  // messages between the beginnings of trials
  struct SizeClass {
    int messages = 0;
    double best[2] = {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()};
  };
  // Sizes within a factor of two.
  SizeClass& class_of(int64_t bytes) { return classes_[std::bit_width(static_cast<uint64_t>(bytes))]; }

  SizeClass classes_[65];
};

}  // namespace annulus
