// DeathWatch: tells of a process's death before the kernel has taken its memory down.
//
// A pidfd becomes readable only after that, and a worker that maps 650 MB is 16 ms about it: the page tables
// of shared memory go page by page. A robust futex is told of first (docs.kernel.org/locking/robust-futexes):
//
//   worker    in its robust list, one word of shared memory:  | waiters 1 | owner died 0 | thread id |
//   kernel    as that thread ends:                            | waiters 1 | owner died 1 |     0     |  and
//   wakes watch     sleeps on all words (futex_waitv), writes to an eventfd whenever one has changed launcher
//   reads the words: has_ended(word)
//
// It is a hint: the process may still run for moments, on other threads, so only its pidfd says that it
// writes no more. Where the kernel has no futex_waitv (before Linux 5.16, or forbidden), or the word is not
// looked at in time, the pidfd comes later and says the same. The watch's threads take no lock and allocate
// nothing, so the process can fork at any time.
//
// Ordering: none is needed: nothing but the word itself is read on its account.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace annulus {

// A word of shared memory: 0, or a thread that lives, or that it has ended.
using LifeWord = std::atomic<uint32_t>;
static_assert(LifeWord::is_always_lock_free && sizeof(LifeWord) == sizeof(uint32_t));

// From now on the word lives as long as the calling thread: at its end, however it comes, the kernel marks
// the word and wakes who watches. One word a process. Replaces the thread's list of robust mutexes.
void tie_life(LifeWord& word);

// Whether the thread that `word` was tied to has ended.
bool has_ended(const LifeWord& word);

class DeathWatch {
 public:
  // Adds 1 to `eventfd` after any of `words` has changed: no change is lost, several may be told of together,
  // and one may be told of that was none. Words and eventfd outlive the watch.
  DeathWatch(std::vector<const LifeWord*> words, int eventfd);
  ~DeathWatch();
  DeathWatch(const DeathWatch&) = delete;
  DeathWatch& operator=(const DeathWatch&) = delete;

 private:
  const std::vector<const LifeWord*> words_;
  std::atomic<uint32_t> stopped_{0};
  std::vector<std::thread> threads_;  // one for as many words as the kernel takes in one call
};

}  // namespace annulus
