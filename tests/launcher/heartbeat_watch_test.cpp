#include "launcher/heartbeat_watch.h"

#include <gtest/gtest.h>

#include <memory>

namespace annulus {
namespace {

constexpr int64_t kTick = 100'000'000;

// Controls of ranks with two threads each, in private memory.
class Ranks {
 public:
  explicit Ranks(int count, double deadline_s = 10)
      : parts_(new Part[count]),
        controls_{reinterpret_cast<std::byte*>(parts_.get()), sizeof(Part), count, 2},
        watch(controls_, static_cast<int64_t>(deadline_s * 1e9)),
        dead(count) {}

  void beat(int rank) { ++parts_[rank].compute.heartbeat; }
  void beat_communication(int rank) { ++parts_[rank].communication.heartbeat; }
  RankControl& control(int rank) { return parts_[rank].compute; }
  // Everything found in so many ticks, in each of which `each` is called first.
  template <typename Each>
  std::vector<HeartbeatWatch::Still> pass(int ticks, Each each) {
    std::vector<HeartbeatWatch::Still> all;
    for (int i = 0; i < ticks; ++i) {
      each();
      for (const HeartbeatWatch::Still& still : watch.look(kTick, dead)) all.push_back(still);
    }
    return all;
  }

 private:
  struct Part {
    RankControl compute, communication;
  };
  std::unique_ptr<Part[]> parts_;
  RankControls controls_;

 public:
  HeartbeatWatch watch;
  std::vector<bool> dead;
};

TEST(HeartbeatWatch, leaves_ranks_alone_that_beat_however_slowly) {
  Ranks ranks(2);
  int tick = 0;
  EXPECT_TRUE(ranks
                  .pass(500,
                        [&] {
                          if (++tick % 9 != 0) return;
                          ranks.beat(0);
                          ranks.beat(1);
                        })
                  .empty());
}

TEST(HeartbeatWatch, warns_once_after_a_second_and_finds_the_rank_hung_at_the_deadline) {
  Ranks ranks(2);
  const auto other = [&] { ranks.beat(0); };
  other();
  ranks.beat(1);
  ranks.pass(1, other);
  EXPECT_TRUE(ranks.pass(9, other).empty());
  const auto warning = ranks.pass(89, other);
  ASSERT_EQ(warning.size(), 1U);
  EXPECT_EQ(warning[0].rank, 1);
  EXPECT_FALSE(warning[0].hung);
  EXPECT_EQ(warning[0].still_ns, HeartbeatWatch::kWarnNs);
  const auto hung = ranks.pass(2, other);
  ASSERT_GE(hung.size(), 1U);
  EXPECT_TRUE(hung[0].hung);
  EXPECT_EQ(hung[0].doing, "computing");
}

TEST(HeartbeatWatch, warns_again_of_another_stillness) {
  Ranks ranks(1);
  EXPECT_EQ(ranks.pass(20, [] {}).size(), 1U);
  ranks.beat(0);
  EXPECT_EQ(ranks.pass(20, [] {}).size(), 1U);
}

TEST(HeartbeatWatch, says_what_the_rank_waits_for) {
  Ranks ranks(3, 0.5);
  ranks.control(2).waiting_rank = 1;
  ranks.control(2).waiting_bucket = 4;
  ranks.control(2).waiting_what = Await::kMessage;
  const auto hung = ranks.pass(6, [&] {
    ranks.beat(0);
    ranks.beat(1);
  });
  ASSERT_GE(hung.size(), 1U);
  EXPECT_EQ(hung[0].rank, 2);
  EXPECT_EQ(hung[0].doing, "waiting for a message of rank 1 for bucket 4");
}

TEST(HeartbeatWatch, counts_from_the_start_for_a_new_process_and_not_at_all_for_the_dead) {
  Ranks ranks(1);
  ranks.pass(90, [] {});
  ranks.dead[0] = true;
  EXPECT_TRUE(ranks.pass(200, [] {}).empty());
  ranks.dead[0] = false;
  ranks.watch.forked(0);
  EXPECT_TRUE(ranks.pass(9, [] {}).empty());
}

TEST(HeartbeatWatch, hears_communication_threads_once_they_have_begun_and_not_while_their_rank_is_parked) {
  Ranks ranks(1, 2);
  const auto compute = [&] { ranks.beat(0); };
  EXPECT_TRUE(ranks.pass(50, compute).empty());  // it has none yet
  ranks.beat_communication(0);
  const auto found = ranks.pass(25, compute);
  ASSERT_GE(found.size(), 2U);
  EXPECT_TRUE(found[0].communicates);
  EXPECT_TRUE(found.back().hung);
  ranks.beat_communication(0);
  ranks.control(0).waiting_what = Await::kLauncher;
  EXPECT_TRUE(ranks.pass(50, compute).empty());
}

}  // namespace
}  // namespace annulus
