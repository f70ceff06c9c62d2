// Waiting and waking between ranks: doorbells, heartbeats, the abort word.
//
// Who writes: a rank stores what others wait for (a ring line, a version), then wakes those who sleep. Who
// waits: a rank sleeps on its own doorbell only, never on a word that many watch. What blocks: wait() alone,
// never for more than 100 ms at a time, and it sees the abort word each time. When the awaited rank dies, the
// launcher raises the abort word and rings all doorbells; should the launcher fail to, wait() gives up after
// its own deadline. Nothing here is a lock: a dead rank can hold nothing. Where the exchange of a rank has a
// thread of its own, that one has a control, a bit and a Waiter of its own, and so counts as a second
// sleeper.
//
//      WaitControl (one)                     RankControl (one per rank, 128 bytes apart or more)
//      +-------+---------------------+       +----------+-----------+--------+-------------------------+
//      | abort | sleepers: 1 bit/rank|       | doorbell | heartbeat | parked | waiting: rank,bucket,.. |
//      +-------+---------------------+       +----------+-----------+--------+-------------------------+
//
// Ordering (Dekker's pattern: sleeper and waker each store, fence, and then read what the other stored):
//   S0 sleeper: sets its bit in `sleepers`      W0 waker: stores what is awaited (release)
//   S1 sleeper: seq_cst fence                   W1 waker: seq_cst fence
//   S2 sleeper: reads its doorbell, re-checks   W2 waker: reads `sleepers`; for each set bit:
//   S3 sleeper: FUTEX_WAIT(doorbell as read)    W3 waker: doorbell + 1, FUTEX_WAKE
//   Of S1 and W1 one comes first: either S2 sees W0, or W2 sees S0. A ring between S2 and S3 changes the
//   doorbell, and FUTEX_WAIT returns at once.
//   The fences order these words alone, all atomic; what lies behind a condition is ordered by ready()'s own
//   acquire loads. So ThreadSanitizer, which does not follow fences, reports nothing wrongly.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "telemetry/error.h"

namespace annulus {

inline constexpr int kMaxRanks = 256;
inline constexpr int kThreadsPerRank = 2;  // that may wait: compute, and the exchange's own, if any
inline constexpr std::size_t kLineBytes = 64;
inline constexpr std::size_t kRankSpacing = 128;  // two lines: the neighbour-line prefetcher fetches pairs
inline constexpr int64_t kSleepSliceNs = 100'000'000;

// What a rank waits for; kept in its RankControl while it waits, so that others can say so.
enum class Await : uint32_t {
  kNothing = 0,
  kMessage,    // a descriptor: the peer's gradient for a bucket, its part of a message
  kRingLine,   // the peer to read what was sent to it
  kVersion,    // the peer's update of a bucket
  kLauncher,   // the launcher: data loaded, leave to end
  kExchange,   // the compute thread: its rank's exchange thread
  kGradients,  // an exchange thread: its rank's compute thread
  kNorm,       // the norm of the peer's part of the gradient
  kHosts,      // its rank's bridge: the other hosts' sums
};
const char* to_string(Await what);

struct WaitFor {
  Await what = Await::kNothing;
  uint32_t rank = 0;
  uint32_t bucket = 0;
  uint32_t step = 0;
};

struct alignas(kRankSpacing) RankControl {
  // Rung by anyone who has stored something that this rank may be waiting for.
  alignas(kRankSpacing) std::atomic<uint32_t> doorbell{0};
  // Bumped by the rank at every primitive: layer, publication, update, time slice of a wait.
  alignas(kRankSpacing) std::atomic<uint64_t> heartbeat{0};
  // The attempt that the rank has left: after an abort it has unwound to the step's boundary, and writes
  // nothing until the next one.
  std::atomic<uint32_t> parked{0};
  // What the rank waits for now; `what` is kNothing when it does not wait.
  std::atomic<Await> waiting_what{Await::kNothing};
  std::atomic<uint32_t> waiting_rank{0}, waiting_bucket{0}, waiting_step{0};
};
static_assert(sizeof(RankControl) == 2 * kRankSpacing);
static_assert(std::atomic<uint32_t>::is_always_lock_free && std::atomic<uint64_t>::is_always_lock_free);

struct alignas(kRankSpacing) WaitControl {
  std::atomic<uint32_t> abort{0};  // 0: run; otherwise all ranks give up the step under way
  alignas(kRankSpacing) std::atomic<uint64_t> sleepers[kThreadsPerRank * kMaxRanks / 64]{};
};
static_assert(sizeof(WaitControl) == 2 * kRankSpacing);

// The controls of all ranks, `stride` bytes apart. Where exchanges have threads of their own (threads = 2),
// theirs lie right behind those of their ranks, and thread 1 of rank r has the index count + r.
struct RankControls {
  std::byte* first = nullptr;
  std::size_t stride = sizeof(RankControl);
  int count = 0;
  int threads = 1;

  int all() const { return threads * count; }
  RankControl& operator[](int index) const {
    std::byte* const control =
        index < count ? first + index * stride : first + (index - count) * stride + sizeof(RankControl);
    return *reinterpret_cast<RankControl*>(control);
  }
};

// Wakes the thread with that index if it sleeps; no system call otherwise. Call after the store that it waits
// for. Any process may call it. Memory ordering: W1 to W3.
void wake(WaitControl& control, const RankControls& ranks, int index);
// The same for every thread that sleeps.
void wake_all(WaitControl& control, const RankControls& ranks);

// Monotonic time in nanoseconds.
int64_t now_ns();

struct WaitPolicy {
  int64_t spin_ns = 0;  // how long to spin before sleeping; 0 where ranks share cores
  int64_t deadline_ns =
      30'000'000'000;  // give up when the awaited rank's heartbeat has stood still for so long
};

// One thread's way of waiting. Used by that thread alone.
class Waiter {
 public:
  static constexpr int kComputeThread = 0, kExchangeThread = 1;

  Waiter(WaitControl& control, const RankControls& ranks, int rank, WaitPolicy policy)
      : Waiter(control, ranks, rank, policy, kComputeThread) {}

  // That of another thread of the same rank.
  Waiter of_thread(int thread, WaitPolicy policy) const { return {control_, ranks_, rank_, policy, thread}; }

  // Returns once ready() is true. Memory ordering: that of ready()'s own loads, which should be acquire
  // loads. Throws StepAborted when the abort word is raised, StepError when the awaited rank shows no sign of
  // life for the deadline.
  template <typename Ready>
  void wait(const WaitFor& what, Ready&& ready) {
    if (ready() || spin_briefly(ready)) return;
    const int64_t begin = now_ns();
    enter(what);
    while (!spin(ready, begin)) {
      const uint32_t seen = prepare_sleep();  // S0, S1, and the doorbell half of S2
      const bool done = ready();
      if (!done) sleep(seen);  // S3
      leave_sleep();
      if (done) break;
      check(what);
    }
    leave();
    waited_ns_ += now_ns() - begin;
  }

  // As wait() for the launcher, for a rank that has parked: the abort word does not end it, nor a deadline.
  template <typename Ready>
  void wait_parked(Ready&& ready) {
    own().waiting_what.store(Await::kLauncher, std::memory_order_release);
    while (!ready()) {
      const uint32_t seen = prepare_sleep();  // S0 to S2
      if (!ready()) sleep_slice(seen);        // S3
      leave_sleep();
      beat();
    }
    leave();
  }

  // Wakes the same thread of another rank.
  void wake(int rank) { annulus::wake(control_, ranks_, index_of(rank, thread_)); }
  // Wakes the other thread of the same rank.
  void wake_thread(int thread) { annulus::wake(control_, ranks_, index_of(rank_, thread)); }
  void wake_all() { annulus::wake_all(control_, ranks_); }

  // Shows that this rank is alive. Costs one store.
  void beat() {
    std::atomic<uint64_t>& heartbeat = own().heartbeat;
    heartbeat.store(heartbeat.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }

  // Throws StepAborted when the launcher has raised the abort word.
  void check_abort() const {
    if (control_.abort.load(std::memory_order_acquire) != 0) throw StepAborted();
  }

  int rank() const { return rank_; }
  int64_t waited_ns() const { return waited_ns_; }  // since construction
  // Takes back that much of it: this rank's own work was waited for.
  void waited_for_own_work(int64_t ns) { waited_ns_ -= ns; }

 private:
  Waiter(WaitControl& control, const RankControls& ranks, int rank, WaitPolicy policy, int thread)
      : control_(control),
        ranks_(ranks),
        rank_(rank),
        thread_(thread),
        index_(index_of(rank, thread)),
        policy_(policy) {}

  int index_of(int rank, int thread) const { return thread * ranks_.count + rank; }
  RankControl& own() const { return ranks_[index_]; }
  // Whose heartbeat shows that what is awaited may come; -1: nobody's.
  int awaited_index(const WaitFor& what) const;

  // A message that is under way is here before the clock could be read; such waits are not counted.
  template <typename Ready>
  bool spin_briefly(Ready& ready) const {
    for (int i = 0; policy_.spin_ns != 0 && i < 32; ++i) {
      if (ready()) return true;
      relax();
    }
    return false;
  }

  template <typename Ready>
  bool spin(Ready& ready, int64_t begin) {
    if (policy_.spin_ns == 0) return ready();
    do {
      for (int i = 0; i < 64; ++i) {
        if (ready()) return true;
        relax();
      }
      check_abort();
    } while (now_ns() - begin < policy_.spin_ns);
    return false;
  }

  static void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("isb");
#endif
  }

  void enter(const WaitFor& what);
  void leave();
  uint32_t prepare_sleep();
  void sleep(uint32_t seen);
  void sleep_slice(uint32_t seen);
  void leave_sleep();
  void check(const WaitFor& what);  // abort, deadline, heartbeat; once per time slice
  bool in_circle(
      const WaitFor& what) const;  // whether those waited for wait, one for the other, for this rank

  WaitControl& control_;
  RankControls ranks_;
  int rank_, thread_, index_;
  WaitPolicy policy_;
  int64_t waited_ns_ = 0;
  // The awaited rank's heartbeat as last seen to move, and how long it has stood still since.
  uint64_t peer_heartbeat_ = 0;
  int64_t peer_still_ns_ = 0;
  int64_t slice_begin_ = 0;
};

}  // namespace annulus
