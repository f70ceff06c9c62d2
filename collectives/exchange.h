// Exchange: how the gradients of one step become updated parameters. The seam between the step and the
// algorithms.
//
// A rank publishes each bucket as its backward pass finishes it. Each bucket is cut into slices of whole
// blocks, one slice per rank, its owner. The owner gets the sum of its slice over all ranks, piece by piece,
// and hands every piece to a sink (the optimizer), which writes the new generation. Then it raises its
// version of that bucket. All ranks publish the same buckets in the same order 0, 1, 2, ...
//
// Everything runs on the calling thread: publish() and progress() do what can be done at once, finish()
// waits.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "collectives/spsc_ring.h"
#include "collectives/summation_tree.h"
#include "collectives/versions.h"
#include "collectives/wait.h"

namespace annulus {

// Unit of ownership: slices are runs of whole blocks, and buckets are padded with zeros to whole blocks.
inline constexpr int64_t kBlockElements = 4096;
// Unit of summation, so that temporaries stay in the first-level cache; divides a block.
inline constexpr int64_t kPieceElements = 1024;

// Where a bucket lies: elements from the base of any array of parameters.
struct BucketExtent {
  int64_t offset = 0;  // elements, a multiple of kBlockElements
  int64_t blocks = 0;
};

// The blocks of a bucket that `rank` owns.
inline ShardRange slice_of(int rank, int ranks, const BucketExtent& bucket) {
  return deal(rank, ranks, bucket.blocks);
}

// Receives sums. `sum` holds `count` floats, the sum over all shards of the elements from `offset` on
// (elements from the base of the parameters). `count` is a multiple of 64. Called on the owner's thread.
using SumSink = std::function<void(int64_t offset, int64_t count, const float* sum)>;

// What an exchange sees of the segment.
struct ExchangeMemory {
  std::byte* base = nullptr;  // descriptors' places count from here
  int ranks = 0;
  std::vector<float*> gradients;  // per rank: its first gradient buffer
  int64_t buffer_stride = 0;      // elements from one gradient buffer of a rank to its next
  std::function<SpscRing(int from, int to)> ring;
};

struct ExchangeCounts {
  uint64_t descriptors = 0;  // sent through rings
  uint64_t bytes = 0;        // that those describe
  int64_t busy_ns = 0;       // spent in publish, progress and finish, waits not counted
};

class Exchange {
 public:
  virtual ~Exchange() = default;

  // Begins step `step` (from 1). The step before must be finished.
  virtual void begin(uint32_t step) = 0;

  // This rank's gradient buffers hold its final partial sums of the next bucket (0, then 1, ...). Until the
  // step is committed, others read them (ring: and this rank's exchange writes them): the caller must not
  // write them. Memory ordering: they are visible to the receivers, non-temporal stores included. Throws as
  // progress().
  virtual void publish() = 0;

  // Does what can be done without waiting. Call between layers. Throws StepError when a descriptor is not the
  // one that is due.
  virtual void progress() = 0;

  // Returns when this rank's slice of every bucket is updated and its version raised; other ranks' may not be
  // yet (Versions::wait_all). Throws StepAborted when the launcher aborts, StepError as progress() and when
  // an awaited rank shows no sign of life.
  virtual void finish() = 0;

  const ExchangeCounts& counts() const { return counts_; }

 protected:
  ExchangeCounts counts_;
};

enum class Algorithm { kDirect, kRing };

// Descriptors of one step in the ring from one rank to another; 0: the algorithm does not use that ring. A
// ring with room for all of them can never be full, because Rule G empties it before the next step's first
// descriptor.
int64_t descriptors_per_step(Algorithm algorithm, int from, int to, int ranks, int64_t shards,
                             const std::vector<BucketExtent>& buckets);

// How a rank adds up its own shards before it publishes, as the algorithm needs it.
RankSum rank_sum_for(Algorithm algorithm, int rank, int ranks, int64_t shards);

std::unique_ptr<Exchange> make_exchange(Algorithm algorithm, const ExchangeMemory& memory,
                                        const std::vector<BucketExtent>& buckets, int64_t shards,
                                        Versions versions, Waiter& waiter, SumSink sink);

}  // namespace annulus
