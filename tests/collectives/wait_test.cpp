#include "collectives/wait.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

namespace annulus {
namespace {

using std::chrono::milliseconds;

struct Pair {
  WaitControl control;
  RankControl ranks[2];
  RankControls controls() { return {reinterpret_cast<std::byte*>(ranks), sizeof(RankControl), 2}; }
  Waiter waiter(int rank, WaitPolicy policy) { return {control, controls(), rank, policy}; }
};

constexpr WaitFor kForRankOne{Await::kMessage, 1, 3, 17};

TEST(Waiter, sleeping_or_spinning_is_woken_every_time) {
  for (const int64_t spin_ns : {int64_t{0}, int64_t{100'000}}) {
    Pair pair;
    std::atomic<uint32_t> ball{0};
    constexpr uint32_t kRounds = 3000;
    const auto play = [&](int rank) {
      Waiter waiter = pair.waiter(rank, {.spin_ns = spin_ns});
      for (uint32_t round = rank; round < kRounds; round += 2) {
        waiter.wait({Await::kVersion, static_cast<uint32_t>(1 - rank)},
                    [&] { return ball.load(std::memory_order_acquire) == round; });
        ball.store(round + 1, std::memory_order_release);
        waiter.wake(1 - rank);
      }
    };
    const auto begin = std::chrono::steady_clock::now();
    std::thread other(play, 1);
    play(0);
    other.join();
    EXPECT_EQ(ball, kRounds);
    // A lost wake-up costs a whole time slice of 100 ms; this many rounds would take minutes if they were
    // lost.
    const auto took = std::chrono::steady_clock::now() - begin;
    RecordProperty("milliseconds", static_cast<int>(took / milliseconds(1)));
  }
}

TEST(Waiter, wakes_without_a_time_slice_running_out) {
  Pair pair;
  std::atomic<bool> ready{false};
  Waiter waiter = pair.waiter(0, {.spin_ns = 0});
  std::thread other([&] {
    while (pair.control.sleepers[0].load() == 0) std::this_thread::yield();
    ready.store(true, std::memory_order_release);
    wake_all(pair.control, pair.controls());
  });
  waiter.wait(kForRankOne, [&] { return ready.load(std::memory_order_acquire); });
  other.join();
  EXPECT_GE(pair.ranks[0].doorbell.load(), 1u);  // rung, not timed out
  EXPECT_EQ(pair.control.sleepers[0].load(), 0u);
}

TEST(Waiter, says_what_it_waits_for_while_it_does) {
  Pair pair;
  std::atomic<bool> ready{false};
  std::thread other([&] {
    while (pair.ranks[0].waiting_what.load() == Await::kNothing) std::this_thread::yield();
    EXPECT_EQ(pair.ranks[0].waiting_what.load(), Await::kMessage);
    EXPECT_EQ(pair.ranks[0].waiting_rank.load(), 1u);
    EXPECT_EQ(pair.ranks[0].waiting_bucket.load(), 3u);
    EXPECT_EQ(pair.ranks[0].waiting_step.load(), 17u);
    ready = true;
    wake(pair.control, pair.controls(), 0);
  });
  Waiter waiter = pair.waiter(0, {.spin_ns = 0});
  waiter.wait(kForRankOne, [&] { return ready.load(); });
  other.join();
  EXPECT_EQ(pair.ranks[0].waiting_what.load(), Await::kNothing);
}

TEST(Waiter, gives_up_when_the_abort_word_is_raised) {
  for (const int64_t spin_ns : {int64_t{0}, int64_t{60'000'000'000}}) {
    Pair pair;
    std::thread launcher([&] {
      while (pair.ranks[0].waiting_what.load() == Await::kNothing) std::this_thread::yield();
      pair.control.abort.store(1, std::memory_order_release);
      wake_all(pair.control, pair.controls());
    });
    Waiter waiter = pair.waiter(0, {.spin_ns = spin_ns});
    EXPECT_THROW(waiter.wait(kForRankOne, [] { return false; }), StepAborted);
    launcher.join();
  }
}

TEST(Waiter, gives_up_on_a_rank_without_heartbeat_and_names_both_bucket_and_step) {
  Pair pair;
  Waiter waiter = pair.waiter(0, {.spin_ns = 0, .deadline_ns = 150'000'000});
  try {
    waiter.wait(kForRankOne, [] { return false; });
    FAIL() << "waited for ever";
  } catch (const StepError& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("rank 0 has waited for a message of rank 1 for bucket 3 in step 17"),
              std::string::npos)
        << text;
    EXPECT_NE(text.find("--deadline"), std::string::npos) << text;
  }
}

TEST(Waiter, does_not_give_up_on_a_slow_rank_whose_heart_beats) {
  Pair pair;
  std::atomic<bool> ready{false};
  std::thread slow([&] {
    Waiter self = pair.waiter(1, {});
    for (int i = 0; i < 12; ++i) {
      std::this_thread::sleep_for(milliseconds(50));
      self.beat();
    }
    ready = true;
    self.wake(0);
  });
  Waiter waiter = pair.waiter(0, {.spin_ns = 0, .deadline_ns = 250'000'000});
  EXPECT_NO_THROW(waiter.wait(kForRankOne, [&] { return ready.load(); }));
  slow.join();
  EXPECT_GT(waiter.waited_ns(), 0);
}

}  // namespace
}  // namespace annulus
