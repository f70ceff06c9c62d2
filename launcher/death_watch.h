// DeathWatch: tells of a process's death before the kernel has taken its memory down.
//
// A pidfd becomes readable only after that, and where a worker maps 650 MB it takes 16 ms: the page tables of
// shared memory go page by page. A robust futex is told of first (docs.kernel.org/locking/robust-futexes):
//
//   worker    keeps one word of shared memory in its robust list:  | waiters 1 | died 0 | thread id |
//   kernel    as that thread ends, marks and wakes:                | waiters 1 | died 1 |     0     |
//   watch     sleeps on all words (futex_waitv); writes to an eventfd whenever it was woken
//   launcher  reads the words: has_ended(word)
//
// It is a hint: the process may still run for moments, on other threads, so only its pidfd says that it
// writes no more. Where the kernel has no futex_waitv (before Linux 5.16, or forbidden), where no thread can
// be had, where a core dump comes first, the pidfd alone tells. The watch's threads take no lock and allocate
// nothing once they run, so the process can fork at any time.
//
// Ordering: none is needed: nothing but the word itself is read on its account.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace annulus {

// A word of shared memory: 0, not tied to a thread; a thread's id; or marked by the kernel: it has ended.
using LifeWord = std::atomic<uint32_t>;
static_assert(LifeWord::is_always_lock_free && sizeof(LifeWord) == sizeof(uint32_t));

// From now on the word lives as long as the calling thread: at its end, however it comes, the kernel marks
// the word and wakes who watches. One word a process. Replaces the thread's list of robust mutexes.
void tie_life(LifeWord& word);

// Whether the thread that `word` was tied to has ended.
bool has_ended(const LifeWord& word);

class DeathWatch {
 public:
  // Adds 1 to `eventfd` after a thread that one of `words` is tied to has ended, and sometimes for nothing. A
  // word that is tied anew and ends again before this one has looked may be missed. Words and eventfd outlive
  // the watch.
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
