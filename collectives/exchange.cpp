#include "collectives/exchange.h"

#include "collectives/direct.h"
#include "collectives/ring.h"

namespace annulus {

int64_t descriptors_per_step(Algorithm algorithm, int from, int to, int ranks, int64_t shards,
                             const std::vector<BucketExtent>& buckets) {
  switch (algorithm) {
    case Algorithm::kDirect:
      return DirectExchange::descriptors_per_step(from, to, ranks, shards, buckets);
    case Algorithm::kRing:
      return RingExchange::descriptors_per_step(from, to, ranks, buckets);
  }
  return 0;
}

RankSum rank_sum_for(Algorithm algorithm, int rank, int ranks, int64_t shards) {
  return algorithm == Algorithm::kRing ? plan_single_rank_sum(rank, ranks, shards)
                                       : plan_rank_sum(rank, ranks, shards);
}

std::unique_ptr<Exchange> make_exchange(Algorithm algorithm, const ExchangeMemory& memory,
                                        const std::vector<BucketExtent>& buckets, int64_t shards,
                                        Versions versions, Waiter& waiter, SumSink sink) {
  switch (algorithm) {
    case Algorithm::kDirect:
      return std::make_unique<DirectExchange>(memory, buckets, shards, versions, waiter, std::move(sink));
    case Algorithm::kRing:
      return std::make_unique<RingExchange>(memory, buckets, versions, waiter, std::move(sink));
  }
  return nullptr;
}

}  // namespace annulus
