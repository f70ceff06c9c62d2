// Reduction: which rank sums what. What every algorithm's schedule starts from.
#pragma once

#include <algorithm>
#include <vector>

#include "collectives/schedule.h"

namespace annulus {

// Where the sum of a slice goes, once it is complete.
enum class Deliver : uint8_t {
  kSink,       // to the executor's sink, on its owner
  kOwner,      // to the owner's output
  kEverybody,  // by the owner to the outputs of all ranks
  kNeighbor,   // by the owner to its own output and that of the next rank
  kShared,     // to the one output that all ranks share
  kReturned,   // to the owner's output, and to the others in place of what they brought
};

struct Reduction {
  int ranks = 1;
  int64_t shards = 1;
  std::vector<ShardRange> slices;  // per owner, elements; may be empty
  Deliver deliver = Deliver::kOwner;
  // Output places are those of the whole message; otherwise the output holds the owner's slice alone.
  bool whole_output = true;
  // Running sums take the place of the rank's own input; otherwise they lie in scratch and inputs stay.
  bool in_place = false;
  int64_t chunk = INT64_MAX;  // elements that a ring passes on at once

  int partials(int rank) const { return plan_rank_sum(rank, ranks, shards).partials; }
  Place running(int rank, int64_t at) const {
    return {in_place ? Space::kInput : Space::kScratch, rank, 0, at};
  }
  std::vector<Place> destinations(int owner, int64_t at) const {
    std::vector<Place> places;
    const int64_t out = whole_output ? at : at - slices[owner].begin;
    const int receivers = deliver == Deliver::kSink        ? 0
                          : deliver == Deliver::kEverybody ? ranks
                          : deliver == Deliver::kNeighbor  ? std::min(2, ranks)
                                                           : 1;
    for (int i = 0; i < receivers; ++i) {
      places.push_back({Space::kOutput, (owner + i) % ranks, 0, out});
    }
    for (int i = 1; deliver == Deliver::kReturned && i < ranks; ++i) {
      places.push_back({Space::kReturned, (owner + i) % ranks, 0, at});
    }
    return places;
  }
};

}  // namespace annulus
