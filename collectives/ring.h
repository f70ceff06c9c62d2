// Ring exchange: reduce-scatter round the ring (Patarasuk and Yuan 2009), every rank adding its own gradient
// to what its left neighbour has summed so far.
//
// In round t rank r sends slice r-1-t (mod P), chunk by chunk, to rank r+1, which adds its own gradient to
// it, in its own gradient buffer; after P-1 rounds every owner holds the sum of its slice. Chunks go on as
// soon as they are summed, so a slice's chunks are in several ranks at once. Payload is read in place. The
// all-gather half of a ring all-reduce is the owner's update: it writes the one shared copy of the
// parameters, and every rank reads it there.
//
// Sums are added in the order in which chunks travel, r+1, r+2, ..., r for the slice of r. So bits repeat
// from run to run at equal ranks, and equal the tree's for two ranks that hold one whole subtree each; other
// rank counts differ.
#pragma once

#include "collectives/exchange.h"

namespace annulus {

class RingExchange : public Exchange {
 public:
  static constexpr int64_t kChunkBlocks = 16;  // 256 KiB: in flight while its neighbour is being added

  RingExchange(const ExchangeMemory& memory, std::vector<BucketExtent> buckets, Versions versions,
               Waiter& waiter, SumSink sink);

  void begin(uint32_t step) override;
  void publish() override;
  void progress() override;
  void finish() override;

  static int64_t descriptors_per_step(int from, int to, int ranks, const std::vector<BucketExtent>& buckets);

 private:
  // How far one bucket's chunks have come from the left neighbour.
  struct Cursor {
    int round = 0;
    int64_t chunk = 0;
  };

  int slice_in_round(int source, int round) const {
    return ((source - 1 - round) % ranks_ + ranks_) % ranks_;
  }
  ShardRange chunk_blocks(int bucket, int slice, int64_t chunk) const;  // blocks within the bucket
  Descriptor describe(int source, int bucket, int round, int64_t chunk) const;
  void send(int bucket, int round, int64_t chunk);
  void skip_empty_rounds(int bucket);
  bool take_one();  // adds one chunk that has come; false if none has, or this rank's own part is not ready
  void commit(int bucket);

  ExchangeMemory memory_;
  std::vector<BucketExtent> buckets_;
  Versions versions_;
  Waiter& waiter_;
  SumSink sink_;
  int rank_, ranks_, left_, right_;
  std::optional<SpscRing::Sender> sender_;
  std::optional<SpscRing::Receiver> receiver_;
  uint32_t step_ = 0;
  int published_ = 0;
  int updated_ = 0;
  int64_t due_ = 0;              // descriptors of this step that are still to come from the left neighbour
  std::vector<Cursor> cursors_;  // per bucket
};

}  // namespace annulus
