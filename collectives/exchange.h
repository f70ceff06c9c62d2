// Exchange: how the gradients of one step become updated parameters.
//
// A rank publishes each bucket as its backward pass finishes it. Each bucket is cut into slices of whole
// blocks, one slice per rank, its owner. The owner gets the sum of its slice over all ranks, piece by piece,
// and hands every piece to a sink (the optimizer), which writes the new generation. Then it raises its
// version of that bucket. All ranks publish the same buckets in the same order 0, 1, 2, ...
//
// Where the update depends on the norm of the whole gradient there are two passes: sums are kept in the
// owner's own gradient buffer, which nobody else reads there; when all ranks have summed everything
// (norm_meeting.h), they go to the sink.
//
// With other hosts there are two passes too: the sums of this host are kept there, the bridge (bridge.h)
// makes them those of all hosts, and then they go to the sink.
//
// The algorithm is a schedule per bucket (schedule.h). publish() and progress() do what can be done at once,
// finish() waits. When a rank dies, the others wait for it until
// Waiter::wait gives up.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "collectives/executor.h"
#include "collectives/hierarchical.h"
#include "collectives/memory_transport.h"
#include "collectives/versions.h"

namespace annulus {

// Unit of ownership: slices are runs of whole blocks, and buckets are padded with zeros to whole blocks.
inline constexpr int64_t kBlockElements = 4096;
// Where a bucket lies: elements from the base of any array of parameters.
struct BucketExtent {
  int64_t offset = 0;  // elements, a multiple of kBlockElements
  int64_t blocks = 0;
  std::vector<int64_t> cuts = {};  // blocks at which a slice may begin, ascending; none: at every one
};

// The blocks of a bucket that `rank` owns: as many as others, or as near to that as the cuts allow.
ShardRange slice_of(int rank, int ranks, const BucketExtent& bucket);

// What an exchange sees of the segment.
struct ExchangeMemory {
  std::byte* base = nullptr;  // descriptors' places count from here
  int ranks = 0;
  // [set][rank]: its first gradient buffer. Step k uses set k modulo the number of sets: with two, gradients
  // of the next step can be written while those of this one are still read.
  std::vector<std::vector<float*>> gradients;
  int64_t buffer_stride = 0;  // elements from one gradient buffer of a rank to its next
  uint32_t attempt = 0;       // that descriptors carry
  std::function<bool(int from, int to)> has_ring;
  std::function<SpscRing(int from, int to)> ring;
};

class Bridge;
class NormMeeting;

enum class Algorithm : uint8_t { kDirect, kRing, kHierarchical };
const char* to_string(Algorithm algorithm);  // as --algorithm names it

// What the exchange of a run is made from; the same on all ranks.
struct ExchangePlan {
  Algorithm algorithm = Algorithm::kDirect;
  int ranks = 1;
  int64_t shards = 1;
  std::vector<BucketExtent> buckets;
  Domains domains;  // hierarchical only

  // What `rank` does for a bucket. Places count elements from the base of any array of parameters.
  Schedule schedule(int rank, int bucket) const;
  // How a rank adds up its own shards before it publishes.
  RankSum rank_sum(int rank) const;
  // Descriptors of one step in the ring from each rank to each: [from * ranks + to]; 0: the algorithm does
  // not use that ring. A ring with room for all of them can never be full, because Rule G empties it before
  // the next step's first descriptor.
  std::vector<int64_t> descriptors_per_step() const;
};

// What a worker sees of an exchange; called by its compute thread.
class StepExchange {
 public:
  StepExchange() = default;
  virtual ~StepExchange() = default;
  StepExchange(const StepExchange&) = delete;
  StepExchange& operator=(const StepExchange&) = delete;

  // Begins step `step` (from 1). The step before must be finished.
  virtual void begin(uint32_t step) = 0;

  // This rank's gradient buffers hold its final partial sums of the next bucket (0, then 1, ...). Until the
  // step is committed, others read them, and this rank's exchange may write them: the caller must not, save
  // those of another set.
  // Memory ordering: they are visible to the receivers, non-temporal stores included. Throws as progress().
  virtual void publish() = 0;

  // Does what can be done without waiting. Call between layers. Throws StepError when a descriptor is not the
  // one that is due.
  virtual void progress() = 0;

  // Returns when this rank's slice of every bucket is updated and its version raised; other ranks' may not be
  // yet (Versions::wait_all). Throws StepAborted when the launcher aborts, StepError as progress() and when
  // an awaited rank shows no sign of life.
  virtual void finish() = 0;

  // Whether finish() has nothing left to do.
  virtual bool finished() const = 0;

  virtual const ExchangeCounts& counts() const = 0;
};

// Does it all on the calling thread; ExchangeThread (exchange_thread.h) has one of its own for it.
class Exchange final : public StepExchange {
 public:
  // `plan`, `versions` and `waiter` are those of the waiter's rank. `sink` gets the sums of its slices:
  // `count` floats, a multiple of 64, from element `at` of the parameters on. With a meeting (that of the
  // same rank and plan), which must outlive the exchange, it gets them after all ranks have met:
  // meeting->norm() is then that of the step. With a bridge, which must outlive it too, it gets the sums over
  // all hosts.
  Exchange(const ExchangePlan& plan, const ExchangeMemory& memory, Versions versions, Waiter& waiter,
           SumSink sink, NormMeeting* meeting = nullptr, Bridge* bridge = nullptr);

  void begin(uint32_t step) override;
  void publish() override;
  void progress() override;
  void finish() override;
  bool finished() const override { return updated_ == schedules_.size(); }
  const ExchangeCounts& counts() const override { return executor_.counts(); }

  // Returns once progress() may be able to do something, or `or_else` is true. Throws as finish().
  void wait(const std::function<bool()>& or_else);

 private:
  bool advance();  // one bucket's sum or update, or both; whether that could be done
  void sum();      // what follows when a bucket's sum is complete on this host
  void join();     // and what follows when it is complete on all
  void commit();   // the first bucket that is not updated yet has been updated
  // Calls body(at, count, sum) for the pieces of the own slice of a bucket, which have been kept.
  void for_each_kept(std::size_t bucket, const SumSink& body);
  bool keeps() const { return meeting_ != nullptr || bridge_ != nullptr; }
  // Whether the first bucket that is not updated yet can be.
  bool can_update() const;

  Waiter& waiter_;
  Versions versions_;
  NormMeeting* meeting_;
  Bridge* bridge_;
  SumSink sink_;
  SumSink keep_;                   // takes the place of sink_ in the first of two passes
  std::vector<float*> kept_;       // by set of gradient buffers: where
  std::vector<ShardRange> own_;    // by bucket: the own slice, elements
  std::vector<Binding> bindings_;  // one per set of gradient buffers
  std::vector<Schedule> schedules_;
  std::vector<Executor::Run> runs_;
  MemoryTransport transport_;
  Executor executor_;
  uint32_t step_ = 0;
  std::size_t published_ = 0;  // buckets that this rank has published in this step
  std::size_t summed_ = 0;     // buckets whose slice this rank has summed in this step
  std::size_t joined_ = 0;     // buckets whose slice is summed over all hosts
  std::size_t updated_ = 0;    // buckets whose slice this rank has updated in this step
  const uint32_t attempt_;
};

}  // namespace annulus
