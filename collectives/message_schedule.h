// What a rank does in a call of Communicator: which algorithm's schedules make up which collective. A pure
// function.
#pragma once

#include "collectives/exchange.h"
#include "collectives/reduction.h"

namespace annulus {

enum class Collective : uint8_t {
  kAllReduce,
  kReduceScatter,
  kAllGather,
  kBroadcast,
  kGather,
  kScatter,
  kBarrier
};

struct MessageShape {
  Collective collective = Collective::kBarrier;
  Algorithm algorithm = Algorithm::kDirect;
  Deliver deliver =
      Deliver::kOwner;  // of an all-reduce: kEverybody, kShared, kReturned (direct), kNeighbor (ring)
  int root = 0;
  std::vector<ShardRange> slices;  // elements, by rank; of a broadcast the first is the message
  Domains domains;                 // hierarchical only
};

Schedule message_schedule(int rank, const MessageShape& shape);

}  // namespace annulus
