// Layout of the segment: plain structs and offsets, no pointers, no logic.
//
//   +--------+---------+----------+--------+----------------------+-----------------------+----------------+
//   | header | ranks   | versions | rings  | state                | gradients             | data           |
//   | 1 page | P parts | P rows   | pairs  | 2 x (weights,moments)| P x sets x buffers    | images, labels |
//   +--------+---------+----------+--------+----------------------+-----------------------+----------------+
//              rank's    any        receiver's  a slice's pages on    rank's node             all nodes of
//              node      node       node        its owner's node                              ranks in turn
//
// With --clip there is a section of norms behind the versions (norm_meeting.h). With --compress topk there
// are residuals behind the gradients: 2 generations for each shard, on the node of the rank that computes it
// (--compress-where all), or 2 for the host (bridge); and beside them as many velocities
// (--momentum-correction on). Where checkpoints are made during the run there is a snapshot behind them: the
// arrays of one generation. There are 0, 1 or 2 arrays of moments. With --staleness 1 there is a third
// generation of weights behind the two of weights and moments, and gradients have two sets of buffers, not
// one.
//
// Sections start on pages. Everything inside is 64-byte aligned, words of different ranks 128 bytes apart or
// more. Who writes what is said at each field; nothing is allocated after the fork and no lock lives here.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "collectives/exchange.h"
#include "collectives/wait.h"
#include "runtime/buckets.h"
#include "runtime/dataset.h"
#include "telemetry/records.h"

namespace annulus {

inline constexpr uint64_t kSegmentMagic = 0x31'53'55'4c'55'4e'4e'41;  // "ANNULUS1" in memory order
inline constexpr uint32_t kSegmentVersion = 7;
inline constexpr int64_t kPageBytes = 4096;

struct Section {
  uint64_t offset = 0;  // bytes from the start of the segment
  uint64_t bytes = 0;
};

struct SegmentHeader {
  // Written by the launcher before the fork; magic last.
  std::atomic<uint64_t> magic;
  uint32_t version;
  uint32_t ranks;
  uint64_t bytes;      // of the segment
  uint64_t plan_hash;  // NetworkPlan::hash()
  uint32_t buckets;
  uint32_t state_arrays;        // of one generation: weights, and 0, 1 or 2 arrays of moments
  uint32_t weight_generations;  // step k's update writes weights k modulo this, and moments k modulo 2
  uint32_t gradient_sets;       // step k's gradients are in set k modulo this
  Section rank_parts, versions, norms, rings, state, gradients, residuals, snapshot, data;

  alignas(kRankSpacing) WaitControl wait;

  // Written by the launcher while ranks run; it wakes all of them afterwards.
  alignas(kRankSpacing) std::atomic<uint32_t> attempt;  // from 1; raised by each recovery (recovery.h)
  std::atomic<uint32_t> stop_requested;                 // 1: end the run at the next step's end
  std::atomic<uint32_t> data_ready;                     // 1: all images are in the data section
  std::atomic<uint32_t> dismissed;                      // 1: ranks that have finished, or parked, may leave
  // The last step whose evaluation is complete; written in recoveries alone, while all ranks stand still.
  std::atomic<uint32_t> evaluated_step;

  std::atomic<uint32_t> checkpoint_wanted;  // a checkpoint of this step, or of a later one, is asked for

  // Written by rank 0, before it publishes its first bucket of step k, so that every rank that sees step k
  // committed sees them.
  // The run's last step. Rank 0 lowers it to k; all of them stop at the same step. With several hosts it is
  // the first host's rank 0, and on the others whichever rank's bridge is the first to be told.
  alignas(kRankSpacing) std::atomic<uint32_t> last_step;
  // The last step that a checkpoint is made of; at first the run's initial one, which needs none. Its
  // generation is not overwritten, by the update of two steps later, before copied_step has reached it (K1).
  std::atomic<uint32_t> checkpoint_step;

  // Written by the process that writes the checkpoint, by the launcher when there is none: the generation of
  // this step is in the snapshot, or nobody will copy it (K0).
  alignas(kRankSpacing) std::atomic<uint32_t> copied_step;
  std::atomic<uint64_t> writer_beats;  // that process shows that it lives
};
static_assert(sizeof(SegmentHeader) <= kPageBytes);
static_assert(alignof(SegmentHeader) == kRankSpacing);

// kLinkFailed: a connection to another host broke; the rank has parked and goes on in the next attempt.
enum class RankState : uint32_t { kStarting = 0, kReady, kTraining, kFinished, kFailed, kLinkFailed };

// WireUse in shared memory; written by one thread.
struct WireCounts {
  std::atomic<int64_t> bytes, link_ns, unacknowledged_ns, cpu_ns, encode_ns, decode_ns;

  WireUse load() const {
    const auto of = [](const std::atomic<int64_t>& count) { return count.load(std::memory_order_relaxed); };
    return {of(bytes), of(link_ns), of(unacknowledged_ns), of(cpu_ns), of(encode_ns), of(decode_ns)};
  }
  void store(const WireUse& use) {
    bytes.store(use.bytes, std::memory_order_relaxed);
    link_ns.store(use.link_ns, std::memory_order_relaxed);
    unacknowledged_ns.store(use.unacknowledged_ns, std::memory_order_relaxed);
    cpu_ns.store(use.cpu_ns, std::memory_order_relaxed);
    encode_ns.store(use.encode_ns, std::memory_order_relaxed);
    decode_ns.store(use.decode_ns, std::memory_order_relaxed);
  }
};

// Written by its rank alone, save the doorbells and `life`; in a recovery, while all ranks stand still, by
// the launcher.
struct RankPart {
  RankControl control;
  RankControl comm_control;  // of its communication thread, if it has one

  std::atomic<RankState> state;
  std::atomic<uint32_t> pid;
  std::atomic<uint32_t> life;  // launcher: 0 before each fork; rank: tied; kernel: ended
  std::atomic<uint64_t> arena_address, arena_bytes;  // private memory, for reading back where its pages lie
  std::atomic<uint32_t> step;                        // that it is in, or was in last
  std::atomic<uint32_t> updating;                    // the last step of which it may have updated weights
  std::atomic<int64_t> held_ns;                      // waited for copies of generations
  std::atomic<uint64_t> descriptors, bytes;          // ExchangeCounts, as of the last finished step
  WireCounts wire;                                   // likewise
  char failure[1024];  // why the rank gave up, zero-terminated; valid once state is kFailed or kLinkFailed

  EvalRing evaluations;
  StepRing steps;
  // Of the step that the rank is in, once its loss is known: the record of a rank that dies, or is aborted,
  // between its update and its record. Read by the launcher alone, in a recovery.
  StepRecord unfinished;
};
static_assert(offsetof(RankPart, comm_control) == sizeof(RankControl));  // RankControls counts on it
static_assert(std::is_standard_layout_v<RankPart> && alignof(RankPart) == kRankSpacing);

// How the new generation of what its owner alone reads (moments) is written, for arrays of so many
// parameters: past the caches once the arrays of a step exceed them, so that their lines need not be read
// first.
inline Store store_of_moments(int64_t elements) {
  return elements * static_cast<int64_t>(sizeof(float)) >= (int64_t{16} << 20) ? Store::kStreaming
                                                                               : Store::kCached;
}

// Where everything lies in a segment for one run. A pure function of its inputs.
struct SegmentInputs {
  int ranks = 1;
  int64_t shards = 1;
  Algorithm algorithm = Algorithm::kDirect;
  Domains domains;
  BucketPlan buckets;
  int state_arrays = 2;     // of one generation: weights, and 0, 1 or 2 arrays of moments
  int staleness = 0;        // 1: an update goes on while the next step computes
  int waiting_threads = 1;  // of each rank; 2: exchanges have threads of their own
  bool norms = false;       // whether ranks meet for the norm of the gradient
  // Who keeps what top-k has not sent.
  enum class ResidualsOf : uint8_t { kNobody, kShards, kHost } residuals = ResidualsOf::kNobody;
  bool velocities = false;  // whether who has a residual keeps the momentum of its gradients too
  bool snapshot = false;    // whether checkpoints are made during the run
  DatasetInfo dataset;

  // While step k computes on what step k-2 wrote, step k-1 still reads that and writes another; should step
  // k-1 be done again, both k-2 and k-3 must be whole.
  int weight_generations() const { return 2 + staleness; }
  int gradient_sets() const { return 1 + staleness; }
  int all_state_arrays() const { return 2 * state_arrays + staleness; }
  // What goes on from a step needs: weights, moments, and with staleness the weights before.
  int snapshot_arrays() const {
    return snapshot ? state_arrays + staleness + static_cast<int>(residual_arrays() + velocity_arrays()) : 0;
  }
  // Of one generation.
  int64_t residual_arrays() const {
    return residuals == ResidualsOf::kShards ? shards : residuals == ResidualsOf::kHost ? 1 : 0;
  }
  int64_t velocity_arrays() const { return velocities ? residual_arrays() : 0; }

  ExchangePlan exchange() const { return {algorithm, ranks, shards, buckets.extents, domains}; }
};

struct SegmentPlan {
  Section rank_parts, versions, norms, rings, state, gradients, residuals, snapshot, data;
  uint64_t bytes = 0;

  uint64_t rank_part_stride = 0;
  std::vector<uint64_t> ring_offsets;     // [from * ranks + to], bytes from the segment's start; 0: no ring
  std::vector<uint32_t> ring_capacities;  // [from * ranks + to], lines
  uint64_t state_array_bytes = 0;
  uint64_t gradient_buffer_bytes = 0;
  std::vector<int> gradient_buffers;       // per rank, in each set
  std::vector<uint64_t> gradient_offsets;  // per rank: bytes from the segment's start
  // Per shard, or of the host: of two generations, likewise. Empty where there are none.
  std::vector<uint64_t> residual_offsets, velocity_offsets;
  uint64_t train_images = 0, train_labels = 0, test_images = 0,
           test_labels = 0;  // bytes from the segment's start

  // Ranges that should lie on the node of one rank (or, with rank -1, on all nodes in turn).
  struct Home {
    Section range;
    int rank;
  };
  std::vector<Home> homes;

  // Name and size of every part, for people.
  struct Part {
    std::string name;
    uint64_t bytes;
  };
  std::vector<Part> parts;
};

SegmentPlan plan_segment(const SegmentInputs& inputs);

}  // namespace annulus
