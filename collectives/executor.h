// Executor: runs schedules on one rank, without waiting or with.
//
// Several schedules may be under way (the buckets of a step); they are advanced in the order in which they
// were started, so that the transport carries them one after the other on both sides.
#pragma once

#include <array>
#include <functional>
#include <vector>

#include "collectives/schedule.h"
#include "collectives/transport.h"
#include "collectives/wait.h"
#include "kernels/reduce.h"

namespace annulus {

// Unit of summation where temporaries are needed: they stay in the first-level cache.
inline constexpr int64_t kPieceElements = 1024;
// Elements of a sum between two signs of life.
inline constexpr int64_t kSumBlock = 64 * kPieceElements;

// An array that a schedule's places count in. Slices of a message lie `stride` apart and are worked on a part
// at a time: element `at` of the schedule is element (at / part) * stride + begin + at % part of the array.
struct View {
  std::byte* base = nullptr;
  int64_t begin = 0;
  int64_t stride = 0, part = 0;  // part 0: one slice, no gaps

  std::byte* address(int64_t at, int64_t element_bytes) const {
    const int64_t slice = part == 0 || at < part ? 0 : at / part;
    return base + (begin + at + slice * (stride - part)) * element_bytes;
  }
};

// Where the places of a schedule are.
struct Binding {
  // By Space, then by rank: in shared memory, as all ranks see them.
  std::array<std::vector<View>, 3> shared;
  // The rank's own input and output, where they are in private memory: what others read is copied to the
  // shared view before it is posted.
  std::array<View, 2> own;
  std::array<bool, 2> own_is_private{};
  int64_t input_part_bytes = 0;    // from one partial sum of an input to the next
  DataType type = DataType::kF32;  // of inputs and outputs
  ReduceOp op = ReduceOp::kSum;
  float factor = 1;  // results are multiplied by it
  // What fp32 results are rounded to, so that who sums them has what others are sent; kF32: they are not.
  DataType rounded = DataType::kF32;
  Store store = Store::kCached;  // of what others read; private results are stored through the caches

  DataType type_of(Space space) const { return space == Space::kScratch ? DataType::kF32 : type; }
  // As others see it. What is returned lies where the input was staged.
  std::byte* shared_address(const Place& place) const {
    const Space array = place.space == Space::kReturned ? Space::kInput : place.space;
    return shared[static_cast<int>(array)][place.rank].address(place.at, size_of(type_of(place.space))) +
           place.part * input_part_bytes;
  }
  bool is_private(Space space) const {
    return (space == Space::kInput || space == Space::kOutput) && own_is_private[static_cast<int>(space)];
  }
  // As `rank`, whose binding this is, uses it.
  std::byte* address(const Place& place, int rank) const {
    if (place.rank != rank || !is_private(place.space)) return shared_address(place);
    return own[static_cast<int>(place.space)].address(place.at, size_of(type));
  }
};

// What all descriptors of one run of a schedule have in common.
struct RunLabel {
  Phase phase = Phase::kStep;
  uint32_t step = 0, bucket = 0;
  uint32_t attempt = 0;
  uint64_t call = 0;  // what else ranks must agree on (Descriptor::call)
};

// Receives sums that have no destination: `sum` holds `count` floats, those from element `at` of the schedule
// on; count is at most kPieceElements. Called on the executor's thread.
using SumSink = std::function<void(int64_t at, int64_t count, const float* sum)>;

struct ExchangeCounts {
  uint64_t descriptors = 0;  // sent through rings
  uint64_t bytes = 0;        // that those describe
  int64_t busy_ns = 0;       // spent in exchanging, waits not counted
};

class Executor {
 public:
  // One run of a schedule. What it refers to must stay until it is done.
  struct Run {
    const Schedule* schedule = nullptr;
    const Binding* binding = nullptr;
    const SumSink* sink = nullptr;
    RunLabel label;
    std::size_t next = 0;  // action
    bool done() const { return next == schedule->actions.size(); }
  };

  // Of the transport's rank. `segment`: where the places of descriptors count from; only where payloads are
  // read in place.
  explicit Executor(Transport& transport, std::byte* segment = nullptr);

  // Runs the announcement as far as the transport has room.
  void announce(Run& run);
  // Runs actions until the run is done or has to wait; says whether it is done. Throws StepError when a
  // descriptor is not the one that is due.
  bool advance(Run& run);
  // Returns once the run may be able to go on, or `or_else` (if any) is true. Throws as Transport::wait.
  void wait(const Run& run, const std::function<bool()>& or_else = nullptr);

  // How many descriptors have been sent to each peer. Kept as a mark of how far payloads are in use.
  void sent(std::vector<uint64_t>& mark) const;
  // The same for those to whom something was sent since; nothing to wait for from the others, who may have
  // given lines back without waking.
  std::vector<uint64_t> sent_since(const std::vector<uint64_t>& earlier) const;
  // Whether the peers have read what was sent before the mark. An empty mark is reached.
  bool given_back(const std::vector<uint64_t>& mark) const;
  // Waits for it. Throws as Transport::wait.
  void wait_given_back(const std::vector<uint64_t>& mark, const RunLabel& label);

  // Whether senders may wait for lines to come back: releases then wake them.
  void wake_on_release(bool wake) { wake_on_release_ = wake; }

  ExchangeCounts& counts() { return counts_; }
  const ExchangeCounts& counts() const { return counts_; }

 private:
  bool step(Run& run, const Action& action);
  Descriptor describe(const Run& run, const Action& action, int source) const;
  bool post(const Run& run, const Action& action);
  bool await(const Run& run, const Action& action);
  void sum(const Run& run, const Action& action);
  void copy(const Run& run, const Action& action);
  // Where a place can be read: in the rank's own memory, in what all share, or where it has arrived.
  const std::byte* readable(const Binding& binding, const Place& place) const;
  // Where a place can be written.
  std::byte* writable(const Binding& binding, const Place& place) const;

  Transport& transport_;
  std::byte* segment_;
  int rank_;
  bool wake_on_release_ = false;
  struct alignas(kLineBytes) Piece {
    float values[kPieceElements];
  };
  std::vector<Piece> pieces_;  // temporaries of sums
  ExchangeCounts counts_;
};

}  // namespace annulus
