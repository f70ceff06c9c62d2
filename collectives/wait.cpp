#include "collectives/wait.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

#include "collectives/protocol_point.h"
#include "telemetry/check.h"

namespace annulus {
namespace {

// Shared futexes: std::atomic::wait uses private ones, which never wake another process.
long futex(std::atomic<uint32_t>& word, int operation, uint32_t value, const timespec* timeout) {
  return syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), operation, value, timeout, nullptr, 0);
}

void ring(RankControl& rank) {
  protocol_point(ProtocolPoint::kRing);
  rank.doorbell.fetch_add(1, std::memory_order_release);
  futex(rank.doorbell, FUTEX_WAKE, 1, nullptr);
}

}  // namespace

const char* to_string(Await what) {
  switch (what) {
    case Await::kNothing:
      return "nothing";
    case Await::kMessage:
      return "a message";
    case Await::kRingLine:
      return "a free line in the ring";
    case Await::kVersion:
      return "the update";
    case Await::kLauncher:
      return "the launcher";
    case Await::kExchange:
      return "the communication thread";
    case Await::kGradients:
      return "the gradients";
    case Await::kNorm:
      return "the norm of the gradients";
    case Await::kHosts:
      return "the other hosts";
  }
  return "?";
}

void wake(WaitControl& control, const RankControls& ranks, int index) {
  protocol_point(ProtocolPoint::kWake);
  std::atomic_thread_fence(std::memory_order_seq_cst);                                 // W1
  const uint64_t bits = control.sleepers[index / 64].load(std::memory_order_relaxed);  // W2
  if (bits >> (index % 64) & 1) ring(ranks[index]);                                    // W3
}

void wake_all(WaitControl& control, const RankControls& ranks) {
  protocol_point(ProtocolPoint::kWake);
  std::atomic_thread_fence(std::memory_order_seq_cst);  // W1
  for (int word = 0; word * 64 < ranks.all(); ++word) {
    uint64_t bits = control.sleepers[word].load(std::memory_order_relaxed);  // W2
    for (; bits != 0; bits &= bits - 1) {
      const int index = word * 64 + __builtin_ctzll(bits);
      if (index < ranks.all()) ring(ranks[index]);  // W3
    }
  }
}

int64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
}

void Waiter::enter(const WaitFor& what) {
  check_abort();
  beat();
  own().waiting_rank.store(what.rank, std::memory_order_relaxed);
  own().waiting_bucket.store(what.bucket, std::memory_order_relaxed);
  own().waiting_step.store(what.step, std::memory_order_relaxed);
  own().waiting_what.store(what.what, std::memory_order_release);
  const int awaited = awaited_index(what);
  peer_heartbeat_ = awaited < 0 ? 0 : ranks_[awaited].heartbeat.load(std::memory_order_relaxed);
  peer_still_ns_ = 0;
  slice_begin_ = now_ns();
}

int Waiter::awaited_index(const WaitFor& what) const {
  switch (what.what) {
    case Await::kLauncher:   // if it dies, the kernel ends this process
    case Await::kHosts:      // the launchers judge each other
    case Await::kGradients:  // the launcher judges the compute thread, and it may evaluate for long
      return -1;
    case Await::kExchange:
      return index_of(rank_, kExchangeThread);
    default:
      return index_of(static_cast<int>(what.rank), thread_);
  }
}

void Waiter::leave() {
  own().waiting_what.store(Await::kNothing, std::memory_order_release);
  beat();
}

uint32_t Waiter::prepare_sleep() {
  control_.sleepers[index_ / 64].fetch_or(uint64_t{1} << (index_ % 64), std::memory_order_relaxed);  // S0
  std::atomic_thread_fence(std::memory_order_seq_cst);                                               // S1
  protocol_point(ProtocolPoint::kLieDown);
  return own().doorbell.load(std::memory_order_acquire);  // S2
}

void Waiter::sleep(uint32_t seen) {
  if (control_.abort.load(std::memory_order_acquire) != 0) return;  // check() will throw
  sleep_slice(seen);
}

void Waiter::sleep_slice(uint32_t seen) {
  protocol_point(ProtocolPoint::kSleep);
  const timespec slice{.tv_sec = 0, .tv_nsec = kSleepSliceNs};
  futex(own().doorbell, FUTEX_WAIT, seen, &slice);  // S3
}

void Waiter::leave_sleep() {
  control_.sleepers[index_ / 64].fetch_and(~(uint64_t{1} << (index_ % 64)), std::memory_order_relaxed);
}

bool Waiter::in_circle(const WaitFor& what) const {
  uint32_t rank = what.rank;
  for (int hops = 0; hops < ranks_.count; ++hops) {
    const RankControl& control = ranks_[index_of(static_cast<int>(rank), thread_)];
    const Await awaited = control.waiting_what.load(std::memory_order_acquire);
    if (awaited != Await::kMessage && awaited != Await::kRingLine) return false;
    rank = control.waiting_rank.load(std::memory_order_relaxed);
    if (rank >= static_cast<uint32_t>(ranks_.count)) return false;
    if (rank == static_cast<uint32_t>(rank_)) return true;
  }
  return false;
}

void Waiter::check(const WaitFor& what) {
  check_abort();
  beat();
  const int64_t now = now_ns();
  const int64_t slice = std::min(now - slice_begin_, kSleepSliceNs);  // a stopped machine does not age
  slice_begin_ = now;
  const int awaited = awaited_index(what);
  if (awaited < 0) return;
  const uint64_t heartbeat = ranks_[awaited].heartbeat.load(std::memory_order_relaxed);
  // Ranks that wait show signs of life; where they wait for each other in a circle nothing comes of it.
  if (heartbeat != peer_heartbeat_ && !in_circle(what)) {
    peer_heartbeat_ = heartbeat;
    peer_still_ns_ = 0;
    return;
  }
  peer_still_ns_ += slice;
  if (peer_still_ns_ < policy_.deadline_ns) return;
  if (in_circle(what)) {
    throw StepError(
        fmt::format("rank {} has waited for {} of rank {} (part {}, call {}) while that rank waits, by way "
                    "of others or at once, "
                    "for this one, for {:.1f} s; all ranks must make the same calls in the same order",
                    rank_, to_string(what.what), what.rank, what.bucket, what.step, peer_still_ns_ * 1e-9));
  }
  throw StepError(
      fmt::format("rank {} has waited for {} of rank {} for bucket {} in step {}, and that rank has shown no "
                  "sign of life for "
                  "{:.1f} s; look at what it does (ps, gdb -p), or raise --deadline if it is only slow",
                  rank_, to_string(what.what), what.rank, what.bucket, what.step, peer_still_ns_ * 1e-9));
}

}  // namespace annulus
