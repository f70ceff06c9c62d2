// Delays at every step of the protocol: whatever a rank does while another one is held up, results have the
// same bits. Built with a library of its own that has the delays compiled in.
#include <gtest/gtest.h>

#include "tests/collectives/conformance.h"
#include "tests/collectives/exchange_harness.h"
#include "tests/collectives/protocol_delays.h"

namespace annulus {
namespace {

constexpr uint32_t kSteps = 5;

// All that comes out of a few steps; every rank of run `seed` is held up in its own way (0: none is).
std::vector<float> exchanged(const ExchangeCase& c, uint64_t seed, int64_t spin_ns) {
  Box box(c.plan(uneven_buckets(c.ranks)), {.spin_ns = spin_ns, .deadline_ns = 60'000'000'000});
  std::vector<float> all;
  for (uint32_t step = 1; step <= kSteps; ++step) all.resize(step * box.elements());
  box.run([&](int rank, Waiter& waiter, StepExchange& exchange) {
    delay_this_thread(seed == 0 ? 0 : seed * 1000 + rank + 1);
    for (uint32_t step = 1; step <= kSteps; ++step) {
      do_step(box, rank, step, waiter, exchange);
      for (const BucketExtent& extent : box.buckets()) {  // its own slices: others may still be summing
        const ShardRange slice = slice_of(rank, c.ranks, extent);
        const int64_t begin = extent.offset + slice.begin * kBlockElements;
        std::copy_n(box.result() + begin, slice.count() * kBlockElements,
                    all.data() + (step - 1) * box.elements() + begin);
      }
    }
    delay_this_thread(0);
  });
  EXPECT_EQ(box.versions().committed(), kSteps);
  return all;
}

// The sums of the last step, where each step is finished while the next one computes. With two threads it is
// the compute threads that are held up.
std::vector<float> exchanged_late(const ExchangeCase& c, uint64_t seed, int64_t spin_ns, Box::Threads threads,
                                  Box::Meets meets = Box::Meets::kNo) {
  constexpr int kSets = 2;
  Box box(c.plan(uneven_buckets(c.ranks)), {.spin_ns = spin_ns, .deadline_ns = 60'000'000'000}, kSets,
          threads, meets);
  box.run([&](int rank, Waiter& waiter, StepExchange& exchange) {
    delay_this_thread(seed * 1000 + rank + 1);
    for (uint32_t step = 1; step <= kSteps; ++step) do_delayed_step(box, rank, step, waiter, exchange);
    exchange.finish();
    delay_this_thread(0);
  });
  EXPECT_EQ(box.versions().committed(), kSteps);
  return {box.result(), box.result() + box.elements()};
}

class DelaysInTraining : public testing::TestWithParam<ExchangeCase> {};

TEST_P(DelaysInTraining, change_no_bit_of_several_steps) {
  const std::vector<float> expected = exchanged(GetParam(), 0, 0);
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    const std::vector<float> got = exchanged(GetParam(), seed, seed % 2 == 0 ? 2000 : 0);
    ASSERT_EQ(std::memcmp(got.data(), expected.data(), expected.size() * sizeof(float)), 0) << seed;
  }
}

TEST_P(DelaysInTraining, change_no_bit_where_a_step_is_finished_during_the_next_one) {
  const std::vector<float> all = exchanged(GetParam(), 0, 0);
  for (const Box::Threads threads : {Box::Threads::kOne, Box::Threads::kTwo}) {
    for (uint64_t seed = 1; seed <= 8; ++seed) {
      const std::vector<float> got = exchanged_late(GetParam(), seed, seed % 2 == 0 ? 2000 : 0, threads);
      const float* const last = all.data() + (kSteps - 1) * got.size();
      ASSERT_EQ(std::memcmp(got.data(), last, got.size() * sizeof(float)), 0) << seed;
    }
  }
}

TEST_P(DelaysInTraining, change_no_bit_where_ranks_meet_for_the_norm) {
  const std::vector<float> all = exchanged(GetParam(), 0, 0);
  for (const Box::Threads threads : {Box::Threads::kOne, Box::Threads::kTwo}) {
    for (uint64_t seed = 1; seed <= 8; ++seed) {
      const std::vector<float> got =
          exchanged_late(GetParam(), seed, seed % 2 == 0 ? 2000 : 0, threads, Box::Meets::kYes);
      const float* const last = all.data() + (kSteps - 1) * got.size();
      ASSERT_EQ(std::memcmp(got.data(), last, got.size() * sizeof(float)), 0) << seed;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    AllAlgorithms, DelaysInTraining,
    testing::Values(ExchangeCase{Algorithm::kDirect, 2, 2, 1}, ExchangeCase{Algorithm::kDirect, 3, 7, 1},
                    ExchangeCase{Algorithm::kDirect, 5, 5, 1}, ExchangeCase{Algorithm::kRing, 2, 4, 1},
                    ExchangeCase{Algorithm::kRing, 4, 7, 1}, ExchangeCase{Algorithm::kHierarchical, 4, 8, 2},
                    ExchangeCase{Algorithm::kHierarchical, 5, 5, 4}),
    [](const auto& info) { return info.param.name(); });

class DelaysInCalls : public testing::TestWithParam<conformance::Group> {};

TEST_P(DelaysInCalls, change_no_bit_of_any_collective) {
  for (uint64_t seed = 1; seed <= 2; ++seed) {
    conformance::run_group(GetParam(), [&](int ranks, const auto& body) {
      return conformance::run_as_threads(ranks, [&](int rank) {
        delay_this_thread(seed * 1000 + rank + 1);
        std::string wrong = body(rank);
        delay_this_thread(0);
        return wrong;
      });
    });
  }
}

INSTANTIATE_TEST_SUITE_P(AllAlgorithms, DelaysInCalls,
                         testing::Values(conformance::Group{Algorithm::kDirect, 2, 1, true},
                                         conformance::Group{Algorithm::kDirect, 5, 1, true},
                                         conformance::Group{Algorithm::kRing, 2, 1, true},
                                         conformance::Group{Algorithm::kRing, 4, 1, true},
                                         conformance::Group{Algorithm::kHierarchical, 4, 2, true},
                                         conformance::Group{Algorithm::kHierarchical, 6, 2, true}),
                         [](const auto& info) { return info.param.name(); });

// Runs last: what the tests above have been held up at.
class Delays : public testing::Environment {
 public:
  void TearDown() override {
    if (testing::UnitTest::GetInstance()->test_to_run_count() <
        testing::UnitTest::GetInstance()->total_test_count()) {
      return;  // a filter
    }
    for (int point = 0; point < kExchangePoints; ++point) {
      EXPECT_GT(visits(static_cast<ProtocolPoint>(point)), 100) << "point " << point;
    }
  }
};
const testing::Environment* const kDelays = testing::AddGlobalTestEnvironment(new Delays);

}  // namespace
}  // namespace annulus
