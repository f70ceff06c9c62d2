#include "launcher/death_watch.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstddef>
#include <span>
#include <system_error>
#include <utility>

namespace annulus {
namespace {

// What the kernel walks as the thread ends: a ring of entries, whose words lie at one distance from them.
struct OwnedWord {
  robust_list_head head{};
  robust_list entry{};
};

// Sleep ends when the word is not what it is now.
futex_waitv unchanged(const std::atomic<uint32_t>& word) {
  return {.val = word.load(std::memory_order_relaxed),
          .uaddr = reinterpret_cast<uint64_t>(&word),
          .flags = FUTEX_32,
          .__reserved = 0};
}

// Each round tells of what has changed before it read the words, and sleeps until they are others. It looks
// again after a second even if nobody woke it. Once, on an overloaded machine, the end of one of 16 processes
// killed together was not told of within 10 s; whether a wake-up was missing is not known.
void watch_words(std::span<const LifeWord* const> words, const std::atomic<uint32_t>& stopped, int eventfd) {
  std::array<futex_waitv, FUTEX_WAITV_MAX> sleep{};
  const uint64_t one = 1;
  for (bool changed = true;;) {
    sleep[0] = unchanged(stopped);
    if (sleep[0].val != 0) return;
    for (std::size_t i = 0; i < words.size(); ++i) {
      const futex_waitv word = unchanged(*words[i]);
      changed = changed || word.val != sleep[i + 1].val;
      sleep[i + 1] = word;
    }
    if (changed) (void)!write(eventfd, &one, sizeof one);
    timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    ++until.tv_sec;
    const long woken = syscall(SYS_futex_waitv, sleep.data(), words.size() + 1, 0, &until, CLOCK_MONOTONIC);
    if (woken < 0 && errno != EAGAIN && errno != EINTR && errno != ETIMEDOUT) return;
    changed = woken >= 0 || errno == EAGAIN;
  }
}

}  // namespace

void tie_life(LifeWord& word) {
  static OwnedWord owned;
  owned.head.list.next = &owned.entry;
  owned.head.futex_offset = reinterpret_cast<intptr_t>(&word) - reinterpret_cast<intptr_t>(&owned.entry);
  owned.head.list_op_pending = nullptr;
  owned.entry.next = &owned.head.list;
  // The kernel wakes only where it is told that somebody waits.
  word.store(static_cast<uint32_t>(syscall(SYS_gettid)) | FUTEX_WAITERS, std::memory_order_relaxed);
  (void)syscall(SYS_set_robust_list, &owned.head, sizeof owned.head);
}

bool has_ended(const LifeWord& word) {
  return (word.load(std::memory_order_relaxed) & FUTEX_OWNER_DIED) != 0;
}

DeathWatch::DeathWatch(std::vector<const LifeWord*> words, int eventfd) : words_(std::move(words)) {
  constexpr std::size_t kMost = FUTEX_WAITV_MAX - 1;  // beside the word that stops the thread
  const std::span<const LifeWord* const> all = words_;
  for (std::size_t begin = 0; begin < all.size(); begin += kMost) {
    const auto own = all.subspan(begin, std::min(kMost, all.size() - begin));
    try {
      threads_.emplace_back([this, own, eventfd] { watch_words(own, stopped_, eventfd); });
    } catch (const std::system_error&) {
      return;  // pidfds tell
    }
  }
}

DeathWatch::~DeathWatch() {
  stopped_.store(1, std::memory_order_relaxed);
  syscall(SYS_futex, &stopped_, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
  for (std::thread& thread : threads_) thread.join();
}

}  // namespace annulus
