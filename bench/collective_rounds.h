// Rounds of one collective, as a rank runs them for `annulus bench collectives`: refill, meet, measure,
// check.
#pragma once

#include <optional>

#include "collectives/communicator.h"

namespace annulus {

// One line of the table.
struct CollectiveCase {
  Collective collective = Collective::kAllReduce;
  int64_t bytes =
      0;  // of the message: what an all-reduce reduces, what a rank ends with in an all-gather, ...
  DataType type = DataType::kF32;
  std::optional<Algorithm> algorithm;
  bool private_buffers = false;  // outside the segment
  bool shared_result = false;    // all-reduce: one result in the segment instead of one in each rank's buffer

  // Elements that each rank passes as `count`.
  int64_t count(int ranks) const;
};

// How a round is made.
enum class Way : uint8_t {
  kCommunicator,
  kFloor,          // plain loops over all ranks' buffers, one exchange of flags before and one after
  kFloorStreaming  // the same with non-temporal stores
};

// One rank's part in measuring. The heap holds two messages and the floor's flags; see heap_bytes.
class CollectiveRounds {
 public:
  // Bytes of heap that messages of up to `bytes` need.
  static int64_t heap_bytes(int ranks, int64_t bytes);

  // `communicator` is that of the segment, on which ranks meet; `measured` makes the calls, and may be the
  // same.
  CollectiveRounds(const CommunicatorSegment& segment, Communicator& communicator, Communicator& measured,
                   int64_t most_bytes);

  // Refills the buffers, lets all ranks meet, and makes one round. Returns its time on this rank in
  // nanoseconds. Throws StepError if the result is wrong.
  int64_t round(const CollectiveCase& c, Way way);

 private:
  void fill(const CollectiveCase& c);
  void check(const CollectiveCase& c, Way way) const;
  void floor(const CollectiveCase& c, Store store);
  void exchange_flags();
  std::byte* heap_of(int rank, const std::byte* own) const;

  const CommunicatorSegment& segment_;
  Communicator &communicator_, &measured_;
  const int rank_, ranks_;
  std::byte *heap_in_, *heap_out_;
  std::atomic<uint64_t>* flag_;  // of this rank; the others' lie at the same place of their heaps
  std::vector<std::byte> private_in_, private_out_;
  std::byte *in_ = nullptr, *out_ = nullptr;  // of the round
  uint64_t flags_ = 0, round_ = 0;
};

}  // namespace annulus
