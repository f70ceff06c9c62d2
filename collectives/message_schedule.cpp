#include "collectives/message_schedule.h"

#include "collectives/direct.h"
#include "collectives/hierarchical.h"
#include "collectives/ring.h"
#include "collectives/rooted.h"

namespace annulus {

Schedule message_schedule(int rank, const MessageShape& shape) {
  const std::vector<ShardRange>& slices = shape.slices;
  const int ranks = static_cast<int>(slices.size());
  const Reduction reduction{.ranks = ranks,
                            .shards = ranks,
                            .slices = slices,
                            .deliver = shape.deliver,
                            .whole_output = shape.collective == Collective::kAllReduce};
  ScheduleBuilder builder(rank);
  const auto reduce = [&] {
    switch (shape.algorithm) {
      case Algorithm::kDirect:
        return direct_reduce(builder, reduction);
      case Algorithm::kRing:
        return ring_reduce(builder, reduction);
      case Algorithm::kHierarchical:
        return hierarchical_reduce(builder, reduction, shape.domains);
    }
  };
  const auto gather_slices = [&] {
    switch (shape.algorithm) {
      case Algorithm::kDirect:
        return direct_gather_slices(builder, slices);
      case Algorithm::kRing:
        return ring_gather_slices(builder, slices,
                                  shape.deliver == Deliver::kNeighbor ? Pass::kWrite : Pass::kRead);
      case Algorithm::kHierarchical:
        return hierarchical_gather_slices(builder, slices, shape.domains);
    }
  };
  switch (shape.collective) {
    case Collective::kAllReduce:
      reduce();
      if (shape.deliver == Deliver::kOwner || shape.deliver == Deliver::kNeighbor) gather_slices();
      break;
    case Collective::kReduceScatter:
      reduce();
      break;
    case Collective::kAllGather:
      builder.copy(builder.input(rank, 0), builder.output(rank, slices[rank].begin), slices[rank].count());
      gather_slices();
      break;
    case Collective::kBroadcast:
      if (slices[0].count() == 0) break;
      switch (shape.algorithm) {
        case Algorithm::kDirect:
          direct_broadcast(builder, ranks, shape.root, slices[0].count());
          break;
        case Algorithm::kRing:
          ring_broadcast(builder, ranks, shape.root, slices[0].count());
          break;
        case Algorithm::kHierarchical:
          hierarchical_broadcast(builder, ranks, shape.root, slices[0].count(), shape.domains);
          break;
      }
      break;
    case Collective::kGather:
      rooted_gather(builder, slices, shape.root);
      break;
    case Collective::kScatter:
      rooted_scatter(builder, slices, shape.root);
      break;
    case Collective::kBarrier:
      dissemination_barrier(builder, ranks);
      break;
  }
  return builder.take();
}

}  // namespace annulus
