// NormMeeting: the one meeting of all ranks inside a step whose update depends on the norm of the whole
// gradient.
//
// Who writes: each rank, in its own row alone, the squared norm of every block that it owns, then its word.
// Who reads: every rank, all rows, once all words are there. What blocks: wait(), as Waiter::wait does, and
// only a rank that has summed all of its slices. What a dead peer does: the others wait for its word until
// the launcher aborts them or their own deadline comes; nothing of the new generation is written before the
// meeting, so the old one is whole.
//
//   words                                  norms: doubles, in order of blocks
//   +--------+--------+-----+--------+     +----------------+----------------+-----+
//   | rank 0 | rank 1 | ... | P-1    |     | blocks of 0    | blocks of 1    | ... |
//   +--------+--------+-----+--------+     +----------------+----------------+-----+
//     128 bytes each                         each row starts on 128 bytes
//
// Ordering: M0 rank: word = k (release), after the norms of its blocks in step k
//           M1 rank: all words >= k (acquire), before it reads their norms
//   Rows are written again in step k+1, after Rule G (V1): all versions are k, and a rank raises those after
//   it has read (V0).
//
// The squares are added up by block number, in double, by every rank for itself. So the norm has the same
// bits on all ranks and on any number of them.
#pragma once

#include <functional>

#include "collectives/exchange.h"

namespace annulus {

class NormMeeting {
 public:
  // Bytes of shared memory that all ranks' meetings need; zeros, at a multiple of kRankSpacing.
  static int64_t bytes(const ExchangePlan& plan);

  // Sets all words, as Versions::reset does: only while no rank runs.
  static void reset(std::byte* memory, int ranks, uint32_t step);

  // Of `rank`. `part`: the elements (from the base of any array of parameters, whole blocks) that take part
  // in the norm; others, like running statistics, which are no gradient, leave it alone.
  NormMeeting(std::byte* memory, const ExchangePlan& plan, int rank, ShardRange part);

  // Begins step `step`. The step before must be committed (Rule G): others have read their norms by then.
  void begin(uint32_t step);
  // `count` sums from element `at` of the own slices on; pieces of a block come in order. count is a multiple
  // of 64, and no piece reaches over the end of its block.
  void add(int64_t at, int64_t count, const float* sums);
  // All of the own slices are in. Memory ordering: M0. Wakes nobody: call Waiter::wake_all afterwards.
  void announce();
  // Whether all ranks have announced; norm() holds from then on. Memory ordering: M1.
  bool complete();
  // Returns when complete() may be true, or `or_else` (if any) is. Throws as Waiter::wait.
  void wait(Waiter& waiter, const std::function<bool()>& or_else) const;

  // The L2 norm of the gradient of the last step that was complete; 0 before the first.
  double norm() const { return norm_; }

 private:
  Versions words_;
  double* norms_;
  const int rank_, ranks_;
  const ShardRange part_;            // blocks
  std::vector<std::size_t> places_;  // by number of the block: where in norms_ its norm is
  uint32_t step_ = 0;
  uint32_t met_ = 0;  // the last step that was complete
  double norm_ = 0;
};

}  // namespace annulus
