// Schedules of all ranks side by side, in every order of turns that matters: nobody waits for ever, every
// post is awaited once and is what was due, nothing is read too early or written too soon, every element of
// every output is the promised sum of the promised inputs, and rings are empty in the end.
// schedule_training_test does the same for training.
#include "collectives/schedule.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/collectives/simulated_calls.h"

namespace annulus::simulation {
namespace {

class SchedulesOf : public testing::TestWithParam<int> {};

TEST_P(SchedulesOf, every_collective_gives_every_element_in_every_order_of_turns) {
  const int ranks = GetParam();
  for (const Way& way : ways(ranks, ranks)) {
    for (const Collective collective : kAllCollectives) {
      for (const Call& shape : shapes(collective, ranks)) {
        const Call call = fitted(shape, way);
        // Twice, so that the second call meets what the first one leaves behind.
        ASSERT_EQ(fault_in(way, {call, call}, {}, kFewOrders), "") << call.text();
      }
    }
  }
}

TEST_P(SchedulesOf, calls_of_all_kinds_follow_each_other) {
  const int ranks = GetParam();
  std::mt19937 random(ranks);
  for (const Way& way : ways(ranks, ranks)) {
    for (int i = 0; i < 12; ++i) {
      std::vector<Call> calls;
      std::string text;
      for (int k = 0; k < 8; ++k) {
        const std::vector<Call> all = shapes(kAllCollectives[random() % 7], ranks);
        calls.push_back(fitted(all[random() % all.size()], way));
        text += calls.back().text() + "\n";
      }
      ASSERT_EQ(fault_in(way, calls), "") << text;
    }
  }
}

// What makes short messages fast: a line that another core has read since is expensive to write.
TEST_P(SchedulesOf, private_all_reduces_stage_in_lines_that_their_writer_has_read_last) {
  const int ranks = GetParam();
  for (const Call& call : shapes(Collective::kAllReduce, ranks)) {
    if (!call.is_returned()) continue;
    Communicators communicators({Algorithm::kDirect, ranks, {}});
    communicators.on_write_over([&](int rank, const Address& address, int reader) {
      if (address.array == kIn || address.array == kOut || reader == rank) return;
      throw Fault(fmt::format("rank {} writes element {} of rank {}'s array {}, which rank {} has read", rank,
                              address.index, address.rank, address.array, reader));
    });
    communicators.add(call);
    communicators.add(call);
    ASSERT_NO_THROW(communicators.run(Order::kRandom, ranks)) << call.text();
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, SchedulesOf, testing::Range(1, kMostRanks + 1));

TEST(Schedules, of_many_ranks_fit_the_rings_of_a_communicator) {
  for (const int ranks : kManyRanks) {
    for (const Way& way : ways(ranks, ranks)) {
      for (const Collective collective : kAllCollectives) {
        const int64_t stride = ranks < 40 ? 3 : 1;
        const int64_t whole = collective == Collective::kBroadcast ? stride : stride * ranks;
        for (const bool outside : {false, true}) {
          Call call{collective, whole, stride, 1, outside, outside};
          call.root = ranks / 3;
          call = fitted(call, way);
          Communicators communicators(way);
          communicators.add(call);
          communicators.add(call);
          ASSERT_NO_THROW(communicators.run(Order::kRandom, ranks)) << way.text() << call.text();
        }
      }
    }
  }
}

}  // namespace
}  // namespace annulus::simulation
