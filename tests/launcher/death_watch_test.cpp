#include "launcher/death_watch.h"

#include <gtest/gtest.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#include "launcher/child_process.h"

namespace annulus {
namespace {

bool readable(int fd, int timeout_ms) {
  pollfd watch{fd, POLLIN, 0};
  return poll(&watch, 1, timeout_ms) == 1;
}

// Children whose lives are tied to words of shared memory.
class DeathWatchTest : public testing::Test {
 protected:
  DeathWatchTest()
      : words_(static_cast<LifeWord*>(mmap(nullptr, kWords * sizeof(LifeWord), PROT_READ | PROT_WRITE,
                                           MAP_SHARED | MAP_ANONYMOUS, -1, 0))),
        told_(eventfd(0, EFD_NONBLOCK)) {}
  void SetUp() override {
    // Returns at once: no word is what it is said to be.
    futex_waitv waiter{
        .val = 1, .uaddr = reinterpret_cast<uint64_t>(words_), .flags = FUTEX_32, .__reserved = 0};
    if (syscall(SYS_futex_waitv, &waiter, 1, 0, nullptr, 0) < 0 && errno != EAGAIN) {
      GTEST_SKIP() << "SKIPPED: no futex_waitv here: " << std::strerror(errno);
    }
  }
  ~DeathWatchTest() override {
    munmap(words_, kWords * sizeof(LifeWord));
    close(told_);
  }

  std::vector<const LifeWord*> all() const {
    std::vector<const LifeWord*> words;
    for (int i = 0; i < kWords; ++i) words.push_back(&words_[i]);
    return words;
  }

  // A child that has tied its life to the word, and then runs `body`.
  ChildProcess start(int word, const std::function<void()>& body) {
    ChildProcess child = spawn("annulus:test", [&](int output) {
      tie_life(words_[word]);
      write_all(output, "tied");
      body();
      return 0;
    });
    EXPECT_TRUE(readable(child.output, 10'000));
    return child;
  }

  // Waits until the watch has told of the ends of `count` words from `first` on.
  bool told_of(int first, int count = 1) {
    while (readable(told_, 10'000)) {
      uint64_t changes;
      (void)!read(told_, &changes, sizeof changes);
      if (std::all_of(words_ + first, words_ + first + count, has_ended)) return true;
    }
    return false;
  }

  static constexpr int kWords = 300;  // more than the kernel takes in one call
  LifeWord* words_;
  int told_;
};

TEST_F(DeathWatchTest, tells_of_a_process_that_is_killed) {
  const DeathWatch watch(all(), told_);
  for (const int word : {0, 1, kWords - 1, 0}) {  // the last with a word that was used before
    words_[word].store(0);
    ChildProcess child = start(word, [] { pause(); });
    EXPECT_FALSE(has_ended(words_[word]));
    kill(child.pid, SIGKILL);
    EXPECT_TRUE(told_of(word)) << "word " << word;
    finish(child);
  }
}

TEST_F(DeathWatchTest, tells_of_every_end) {
  const DeathWatch watch(all(), told_);
  const std::function<void()> ends[] = {[] {}, [] { raise(SIGSEGV); }, [] { _exit(3); }};
  for (int i = 0; i < 3; ++i) {
    ChildProcess child = start(i, ends[i]);
    EXPECT_TRUE(told_of(i)) << "end " << i;
    finish(child);
  }
}

// What it is for: the process is not at its end yet, here because another of its threads goes on.
TEST_F(DeathWatchTest, tells_before_the_process_can_be_reaped) {
  const DeathWatch watch(all(), told_);
  ChildProcess child = start(0, [] {
    std::thread([] { pause(); }).detach();
    syscall(SYS_exit, 0);  // of this thread alone
  });
  EXPECT_TRUE(told_of(0));
  EXPECT_FALSE(readable(child.pidfd, 0));
  kill(child.pid, SIGKILL);
  EXPECT_EQ(finish(child).signal, SIGKILL);
}

TEST_F(DeathWatchTest, loses_none_of_many_deaths_at_once) {
  const DeathWatch watch(all(), told_);
  constexpr int kChildren = 16;
  for (int round = 0; round < 10; ++round) {
    std::vector<ChildProcess> children;
    for (int i = 0; i < kChildren; ++i) {
      words_[i].store(0);
      children.push_back(start(i, [] { pause(); }));
    }
    for (const ChildProcess& child : children) kill(child.pid, SIGKILL);
    EXPECT_TRUE(told_of(0, kChildren)) << "round " << round;
    for (ChildProcess& child : children) finish(child);
  }
}

TEST_F(DeathWatchTest, is_silent_while_nobody_dies) {
  const DeathWatch watch(all(), told_);
  ChildProcess child = start(0, [] { pause(); });
  uint64_t changes;
  while (readable(told_, 100)) (void)!read(told_, &changes, sizeof changes);
  EXPECT_FALSE(readable(told_, 200));
  EXPECT_FALSE(has_ended(words_[0]));
  kill(child.pid, SIGKILL);
  finish(child);
}

TEST_F(DeathWatchTest, ends_while_words_live_on) {
  for (int i = 0; i < 1000; ++i) const DeathWatch watch(all(), told_);
}

}  // namespace
}  // namespace annulus
