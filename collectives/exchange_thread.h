// ExchangeThread: an exchange on a thread of its own, so that sums and updates go on while the worker's
// compute thread computes.
//
// Who writes: the compute thread hands over steps and buckets (`handed`), the exchange's thread says which
// step it has finished (`finished`). What blocks: the exchange's thread sleeps on a doorbell of its own
// (thread 1 of its rank, wait.h) until there is a bucket, a message of a peer's exchange thread, or the end;
// finish() sleeps on the compute thread's. What a dead peer does: as in Exchange, on this thread; whatever it
// throws is thrown again by the compute thread's next call.
//
//   compute thread                                   the exchange's thread
//   +------------------------------+                 +-----------------------------------------+
//   | begin, publish: handed       | --- H0 -> H1 -> | begins, publishes, sums, updates        |
//   | finish: waits for finished   | <-- F1 <- F0 -- | finished = step, or failed and why      |
//   +------------------------------+                 +-----------------------------------------+
//
// Ordering: H0 compute: store_fence, handed = (step, buckets) (release), after gradients and the sink's state
//           H1 exchange: handed (acquire), before it sends or sums anything of them
//           F0 exchange: finished = step (release), after its last update and its counts
//           F1 compute: finished (acquire), before it changes the sink's state
// The fence is needed on the compute thread: gradients may have been written past the caches, and one on
// another thread does not order them (publish.h).
#pragma once

#include <atomic>
#include <exception>
#include <thread>

#include "collectives/exchange.h"

namespace annulus {

class ExchangeThread final : public StepExchange {
 public:
  static constexpr int kUnbound = -1;  // where the caller may run
  struct Place {
    int cpu = kUnbound;
    WaitPolicy waiting;
  };

  // As Exchange; `waiter` is the compute thread's, and all further calls are made by that thread. `controls`
  // must have two threads per rank. Starts the thread. The sink is called on it, and the meeting used by it:
  // the compute thread may ask for the norm of a finished step until it begins the next one.
  ExchangeThread(const ExchangePlan& plan, const ExchangeMemory& memory, Versions versions, Waiter& waiter,
                 const Place& place, SumSink sink, NormMeeting* meeting = nullptr, Bridge* bridge = nullptr);
  // Ends the thread, finished or not.
  ~ExchangeThread() override;

  void begin(uint32_t step) override;
  // Hands the bucket over. Memory ordering: H0. Throws what the exchange's thread has thrown.
  void publish() override;
  // Throws what the exchange's thread has thrown.
  void progress() override;
  void finish() override;

  bool finished() const override { return finished_.load(std::memory_order_acquire) == step_; }  // F1
  // busy_ns: what the compute thread waited for, of the thread's own work. Descriptors and bytes: as of the
  // last finished step.
  const ExchangeCounts& counts() const override { return counts_; }

 private:
  // A step, and how many of its buckets are published.
  static uint64_t command(uint32_t step, uint32_t buckets) { return uint64_t{step} << 32 | buckets; }

  void run();
  void serve();
  void rethrow();
  void hand_over();
  bool idle(uint64_t seen) const;  // the thread has been told nothing since

  Waiter& compute_;
  const int cpu_;
  Waiter waiter_;  // the thread's own
  Exchange exchange_;

  // The compute thread's.
  uint32_t step_ = 0;
  uint32_t published_ = 0;
  ExchangeCounts counts_;

  alignas(kRankSpacing) std::atomic<uint64_t> handed_{0};  // by the compute thread
  std::atomic<bool> leave_{false};
  alignas(kRankSpacing) std::atomic<uint32_t> finished_{0};  // by the exchange's thread
  std::atomic<int64_t> busy_ns_{0};
  std::atomic<bool> failed_{false};
  std::exception_ptr failure_;  // valid once failed_ is set
  std::thread thread_;
};

}  // namespace annulus
