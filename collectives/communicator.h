// Communicator: all-reduce, reduce-scatter, all-gather, broadcast, gather, scatter and barrier among the
// ranks of one box, or of any.
//
// Every rank makes the same calls in the same order. Ranks check what they get from each other, and a call
// that does not fit ends with a StepError that names both.
//
// In one box: buffers in a rank's heap (a part of the shared segment) are used where they are; others are
// copied to and from the segment, part by part. A buffer in the heap must lie at the same place of every
// rank's heap: allocate() gives such places when all ranks call it alike.
//
// Over connections (tcp_transport.h) ranks share no memory: payloads go from where they lie, part by part,
// and nobody writes another's results. Any buffer will do; a heap is only memory.
//
// Sums are made in fp32 in the order of the summation tree over ranks (summation_tree.h) and rounded once, so
// direct and hierarchical give equal bits and repeat them; a ring repeats its own (ring.h).
// docs/communicator.md has an example.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <span>

#include "collectives/communicator_segment.h"
#include "collectives/memory_transport.h"
#include "collectives/message_schedule.h"
#include "collectives/store_chooser.h"

namespace annulus {

enum class Operation : uint8_t { kSum, kAverage, kMax };

// One rank's side. Used by one thread.
class Communicator {
 public:
  // A rank of one box.
  Communicator(const CommunicatorSegment& segment, int rank);
  // The transport's rank, which shares no memory with the others. Of `spec`, which is equal on all ranks,
  // what is about waiting is the transport's own. Its end is not the others': who is done may go.
  Communicator(const CommunicatorSpec& spec, std::unique_ptr<Transport> transport);
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return rank_; }
  int ranks() const { return spec_.ranks; }

  // The next `count` elements of this rank's heap, on a page of their own. Throws UserError when it is full.
  template <typename T>
  T* allocate(int64_t count) {
    return static_cast<T*>(allocate_bytes(count * static_cast<int64_t>(sizeof(T))));
  }

  // How a call may be refined.
  struct Options {
    DataType type = DataType::kF32;
    Operation operation = Operation::kSum;
    std::optional<Algorithm> algorithm =
        {};  // empty: auto, which chooses among those with the bits of direct
  };

  // Blocking calls. `in` and `out` hold elements of options.type; they may be the same (or, where one is a
  // slice of the other, that slice; but for gather in the heap, where all ranks' inputs lie at one place). A
  // buffer that a rank does not use (gather, scatter) is given as on the root if that is in the heap, and may
  // be null otherwise. When a call returns, its buffers are the caller's again. Throws UserError where the
  // algorithm does not fit the domains or a buffer lies in the heap in part, StepError where another rank's
  // call does not fit, it shows no sign of life or all wait in a circle, StepAborted after
  // CommunicatorSegment::abort(), LinkError where a connection to a rank that is waited for has ended.

  // out[i] = in[i] of all ranks combined; count elements each.
  void all_reduce(const void* in, void* out, int64_t count, const Options& options);
  // The same into one array that all ranks share, in the heap of any of them. Throws UserError where ranks
  // share no memory.
  void all_reduce_shared(const void* in, void* shared_out, int64_t count, const Options& options);
  // out[i] = in[rank * count + i] of all ranks combined; in: ranks * count elements, out: count.
  void reduce_scatter(const void* in, void* out, int64_t count, const Options& options);
  // out[r * count + i] = in[i] of rank r; in: count elements, out: ranks * count.
  void all_gather(const void* in, void* out, int64_t count, const Options& options);
  // buffer[i] = that of the root; count elements.
  void broadcast(void* buffer, int64_t count, int root, const Options& options);
  // On the root out[r * count + i] = in[i] of rank r; elsewhere `out` is not used.
  void gather(const void* in, void* out, int64_t count, int root, const Options& options);
  // out[i] = in[rank * count + i] of the root; elsewhere `in` is not used.
  void scatter(const void* in, void* out, int64_t count, int root, const Options& options);
  // Returns when all ranks have called it. Memory ordering: what they wrote before is visible.
  void barrier();

  // A call under way. Calls are worked on in order, whenever the rank waits for one or calls progress().
  class Handle {
   public:
    bool done() const { return communicator_->finished_ >= number_; }  // without making progress
    void wait() const { communicator_->wait(number_); }                // throws as the blocking calls

   private:
    friend class Communicator;
    Handle(Communicator* communicator, uint64_t number) : communicator_(communicator), number_(number) {}
    Communicator* communicator_;
    uint64_t number_;
  };

  // Any of the calls above, without waiting. The buffers are in use until the handle is done.
  struct Call {
    Collective collective = Collective::kBarrier;
    const void* in = nullptr;
    void* out = nullptr;
    int64_t count = 0;
    int root = 0;
    bool shared_result = false;
    Options options = {};
  };
  Handle start(const Call& call);
  // Does what can be done without waiting. Throws as the blocking calls.
  void progress();

  const ExchangeCounts& counts() const { return executor_.counts(); }
  // For waits of the caller's own between calls, in one box.
  Waiter& waiter() { return *waiter_; }

  // The algorithm that a call takes for a message of so many bytes. Throws UserError where the one that was
  // asked for does not fit the domains.
  static Algorithm choose(const CommunicatorSpec& spec, Collective collective, int64_t bytes,
                          const Options& options);
  // Which elements of an all-reduce of `count` elements a rank sums.
  static ShardRange slice(int rank, int ranks, int64_t count);

 private:
  struct Work;
  struct Shape;

  void run(const Call& call) { start(call).wait(); }
  void wait(uint64_t number);
  void* allocate_bytes(int64_t bytes);
  bool shares_memory() const { return own_segment_ == nullptr; }
  // This rank's part of the segment.
  int place() const { return shares_memory() ? rank_ : 0; }
  std::span<std::byte> heap() const { return segment_.heap(place()); }
  bool in_heap(const void* address) const;
  void check_extent(const void* buffer, int64_t bytes, const char* name) const;
  void check_shared_output(const void* buffer, int64_t bytes) const;
  uint64_t signature(const Work& work) const;
  void open(Work& work);
  void open_part(Work& work);
  bool advance(Work& work);
  const Schedule& schedule_for(const Shape& shape);

  const CommunicatorSpec spec_;
  // Where ranks share none: of this rank alone, for its heap and scratch.
  const std::unique_ptr<const CommunicatorSegment> own_segment_;
  const CommunicatorSegment& segment_;
  const int rank_;
  std::optional<Waiter> waiter_;  // in one box
  const std::unique_ptr<Transport> transport_;
  Executor executor_;
  int64_t heap_used_ = 0;
  std::deque<std::unique_ptr<Work>> queue_;
  std::unique_ptr<Work> spare_;
  uint64_t started_ = 0, finished_ = 0;
  StoreChooser store_chooser_;
  int half_ = 0;                                // of staging and scratch, that the next part uses
  std::vector<uint64_t> half_in_use_until_[2];  // what must have been given back before it is used again
  struct Cached;
  std::vector<std::unique_ptr<Cached>> schedules_;
};

}  // namespace annulus
