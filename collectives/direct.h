// Direct exchange: the owner of a slice reads it from all ranks' gradient buffers, where backward wrote it,
// and sums the tree in one pass. One descriptor per owner, bucket and partial sum; no payload is copied. Bits
// depend on the number of shards alone. When a rank dies, owners wait for it until Waiter::wait gives up.
#pragma once

#include "collectives/exchange.h"

namespace annulus {

class DirectExchange : public Exchange {
 public:
  DirectExchange(const ExchangeMemory& memory, std::vector<BucketExtent> buckets, int64_t shards,
                 Versions versions, Waiter& waiter, SumSink sink);

  void begin(uint32_t step) override;
  void publish() override;
  void progress() override;
  void finish() override;

  static int64_t descriptors_per_step(int from, int to, int ranks, int64_t shards,
                                      const std::vector<BucketExtent>& buckets);

 private:
  // The descriptors that a peer sends in a step come in one fixed order, so a position says what is due.
  struct Peer {
    std::optional<SpscRing::Sender> sender;
    std::optional<SpscRing::Receiver> receiver;
    int partials = 0;  // partial sums that the peer publishes per bucket
    int bucket = 0;    // next due from the peer
    int partial = 0;
  };

  Descriptor describe(int source, int owner, int bucket, int partial) const;
  void skip_empty_slices(Peer& peer) const;
  void poll(int peer);
  int missing_peer() const;  // one whose gradient of the next bucket has not come, or -1
  bool update_ready();       // updates the next bucket if all gradients are here; false if not
  void update_slice(int bucket);

  ExchangeMemory memory_;
  std::vector<BucketExtent> buckets_;
  TreeSum tree_;
  Versions versions_;
  Waiter& waiter_;
  SumSink sink_;
  int rank_;
  std::vector<Peer> peers_;
  uint32_t step_ = 0;
  int published_ = 0;  // buckets that this rank has published in this step
  int updated_ = 0;    // buckets whose slice this rank has updated in this step
  std::vector<const float*> leaves_;
};

}  // namespace annulus
