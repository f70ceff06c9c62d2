// CommunicatorSegment: the memory of one communicator. Made before the ranks are forked (or started as
// threads).
//
//   +---------+----------+---------+-----------------------------------------------------------+--- - -
//   | header  | controls | rings   | rank 0: staging in, staging out, scratch (2 halves each), | rank 1 ...
//   | (wait)  | P        | P x P   | heap                                                      |
//   +---------+----------+---------+-----------------------------------------------------------+--- - -
#pragma once

#include <functional>
#include <span>

#include "collectives/hierarchical.h"
#include "collectives/shared_memory.h"
#include "collectives/spsc_ring.h"
#include "collectives/wait.h"

namespace annulus {

// A part of a message that goes through staging or scratch: 512 KiB of fp32, so that it stays in the
// second-level cache between who writes and who reads it.
inline constexpr int64_t kPartElements = int64_t{128} << 10;

// Sizes from which another way is faster. They never change bits.
struct Thresholds {
  int64_t hierarchical_bytes = 64 << 10;  // messages that auto reduces hierarchically, given domains
};

struct CommunicatorSpec {
  int ranks = 1;
  int64_t heap_bytes = 0;  // of each rank
  Domains domains = {};    // ranks that share a cache or a NUMA node; empty: all do
  WaitPolicy waiting = {};
  Thresholds thresholds = {};
};

class CommunicatorSegment {
 public:
  // `bind(address, bytes, rank)` places what belongs to a rank; empty: the kernel places it. Throws UserError
  // if the memory cannot be had.
  using Bind = std::function<void(void* address, uint64_t bytes, int rank)>;
  explicit CommunicatorSegment(const CommunicatorSpec& spec, const Bind& bind = {});

  // What a segment takes.
  static uint64_t bytes(const CommunicatorSpec& spec);

  const CommunicatorSpec& spec() const { return spec_; }
  // Makes every rank give up: their calls throw StepAborted.
  void abort() const;

  std::byte* base() const { return memory_.base(); }
  WaitControl& control() const;
  RankControls controls() const;
  SpscRing ring(int from, int to) const;
  std::span<std::byte> heap(int rank) const;
  // Half (0 or 1) of a rank's staging for inputs or outputs, or of its scratch.
  std::byte* half(Space space, int rank, int half) const;

 private:
  struct Layout {
    uint64_t controls, rings, ring_stride, ranks, rank_stride, bytes;
    uint32_t ring_capacity;
    explicit Layout(const CommunicatorSpec& spec);
  };

  CommunicatorSpec spec_;
  Layout layout_;
  SharedMemory memory_;
};

}  // namespace annulus
