// Exchanges in two passes: sums, a meeting of all ranks for their norm, and only then the sink.
#include "collectives/norm_meeting.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>

#include "kernels/squared_norm.h"
#include "tests/collectives/exchange_harness.h"
#include "tests/collectives/tree_domains.h"

namespace annulus {
namespace {

int owner_of(const Box& box, const BucketExtent& bucket, int64_t block) {
  int owner = 0;
  while (slice_of(owner, box.ranks(), bucket).end <= block) ++owner;
  return owner;
}

// By its definition: squares of promised sums, per block, added up by block number.
double promised_norm(uint32_t step, const Box& box, ShardRange part) {
  double sum = 0;
  std::vector<float> values(kBlockElements);
  for (const BucketExtent& bucket : box.buckets()) {
    for (int64_t block = 0; block < bucket.blocks; ++block) {
      const int64_t first = bucket.offset + block * kBlockElements;
      if (first < part.begin || first >= part.end) continue;
      const int owner = owner_of(box, bucket, block);
      for (int64_t i = 0; i < kBlockElements; ++i) values[i] = promised_sum(step, box, owner, first + i);
      double norm = 0;
      for (int64_t i = 0; i < kBlockElements; i += kPieceElements) {
        norm += squared_norm_reference(kPieceElements, &values[i]);
      }
      sum += norm;
    }
  }
  return std::sqrt(sum);
}

class MeetingOf : public testing::TestWithParam<ExchangeCase> {
 protected:
  static void check(const Box& box, int rank, uint32_t step, std::atomic<int>& wrong) {
    for (const BucketExtent& extent : box.buckets()) {
      const ShardRange slice = slice_of(rank, box.ranks(), extent);
      for (int64_t i = slice.begin * kBlockElements; i < slice.end * kBlockElements; i += 97) {
        wrong += box.result()[extent.offset + i] != promised_sum(step, box, rank, extent.offset + i);
      }
    }
    wrong += box.norm_seen(rank) != promised_norm(step, box, {0, box.elements()});
  }
};

TEST_P(MeetingOf, hands_on_promised_sums_with_their_norm_for_several_steps) {
  Box box(GetParam().plan(uneven_buckets(GetParam().ranks)), Box::kWaiting, 1, GetParam().threads,
          Box::Meets::kYes);
  std::atomic<int> wrong{0};
  box.run([&](int rank, Waiter& waiter, StepExchange& exchange) {
    for (uint32_t step = 1; step <= 3; ++step) {
      do_step(box, rank, step, waiter, exchange);
      check(box, rank, step, wrong);
    }
  });
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(box.versions().committed(), 3u);
}

TEST_P(MeetingOf, hands_on_promised_sums_with_their_norm_while_the_next_step_computes) {
  constexpr int kSets = 2;
  Box box(GetParam().plan(uneven_buckets(GetParam().ranks)), Box::kWaiting, kSets, GetParam().threads,
          Box::Meets::kYes);
  std::atomic<int> wrong{0};
  box.run([&](int rank, Waiter& waiter, StepExchange& exchange) {
    for (uint32_t step = 1; step <= 4; ++step) {
      do_delayed_step(box, rank, step, waiter, exchange);
      if (step % 2 != 0) continue;  // the others overlap
      exchange.finish();
      check(box, rank, step, wrong);
    }
  });
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(box.versions().committed(), 4u);
}

std::vector<ExchangeCase> cases() {
  std::vector<ExchangeCase> cases;
  for (const Box::Threads threads : {Box::Threads::kOne, Box::Threads::kTwo}) {
    for (const auto& [ranks, shards] : {std::pair{1, 3}, {2, 2}, {3, 7}, {4, 8}}) {
      cases.push_back({Algorithm::kDirect, ranks, shards, 1, threads});
      cases.push_back({Algorithm::kRing, ranks, shards, 1, threads});
      for (int domains = 1; domains <= ranks; domains *= 2) {
        if (tree_domains(ranks, shards, domains).empty()) continue;
        cases.push_back({Algorithm::kHierarchical, ranks, shards, domains, threads});
      }
    }
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(AllAlgorithms, MeetingOf, testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name(); });

TEST(NormMeeting, has_the_same_bits_on_any_number_of_ranks) {
  double expected = 0;
  for (const int ranks : {1, 2, 3, 4}) {
    Box box(ExchangeCase{Algorithm::kDirect, ranks, 12}.plan({{0, 5}, {5 * kBlockElements, 4}}),
            Box::kWaiting, 1, Box::Threads::kOne, Box::Meets::kYes);
    box.run(
        [&](int rank, Waiter& waiter, StepExchange& exchange) { do_step(box, rank, 1, waiter, exchange); });
    if (ranks == 1) expected = box.norm_seen(0);
    for (int rank = 0; rank < ranks; ++rank) EXPECT_EQ(box.norm_seen(rank), expected);
  }
  EXPECT_GT(expected, 0);
}

TEST(NormMeeting, leaves_out_what_takes_no_part) {
  Box box(ExchangeCase{Algorithm::kDirect, 2, 2}.plan({{0, 5}, {5 * kBlockElements, 4}}), Box::kWaiting, 1,
          Box::Threads::kOne, Box::Meets::kYes);
  const ShardRange part{0, 5 * kBlockElements};
  box.set_norm_part(part);
  box.run([&](int rank, Waiter& waiter, StepExchange& exchange) { do_step(box, rank, 1, waiter, exchange); });
  EXPECT_EQ(box.norm_seen(0), promised_norm(1, box, part));
  EXPECT_NE(box.norm_seen(0), promised_norm(1, box, {0, box.elements()}));
  // The others are handed on all the same.
  for (int64_t i = 0; i < box.elements(); i += 97) {
    const BucketExtent& bucket = box.buckets()[i >= part.end];
    const int owner = owner_of(box, bucket, (i - bucket.offset) / kBlockElements);
    ASSERT_EQ(box.result()[i], promised_sum(1, box, owner, i));
  }
}

// The second rank holds its last bucket back.
TEST(NormMeeting, nothing_is_handed_on_before_all_ranks_have_summed_everything) {
  for (const Box::Threads threads : {Box::Threads::kOne, Box::Threads::kTwo}) {
    Box box(ExchangeCase{Algorithm::kDirect, 2, 2}.plan({{0, 4}, {4 * kBlockElements, 4}}), Box::kWaiting, 1,
            threads, Box::Meets::kYes);
    std::fill_n(box.result(), box.elements(), -1.0f);
    std::atomic<bool> looked{false};
    box.run([&](int rank, Waiter& waiter, StepExchange& exchange) {
      exchange.begin(1);
      int bucket = 0;
      compute(box, rank, 1, exchange, [&] {
        if (bucket++ == 1 && rank == 1) {
          // All that the first rank can do meanwhile it has tried to.
          while (!looked) std::this_thread::yield();
        }
        exchange.publish();
      });
      if (rank == 0) {
        const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(50);
        while (std::chrono::steady_clock::now() < until) exchange.progress();
        EXPECT_FALSE(exchange.finished());
        EXPECT_EQ(box.versions().load(0, 0), 0u);
        looked = true;
      }
      exchange.finish();
      box.versions().wait_all(waiter, 1);
    });
    EXPECT_EQ(std::count(box.result(), box.result() + box.elements(), -1.0f), 0);
  }
}

// It has published everything, and then neither sums nor shows a sign of life.
TEST(NormMeeting, a_rank_that_does_not_come_is_named) {
  Box box(ExchangeCase{Algorithm::kDirect, 2, 2}.plan({{0, 4}}), {.spin_ns = 0, .deadline_ns = 300'000'000},
          1, Box::Threads::kOne, Box::Meets::kYes);
  std::string message;
  std::atomic<bool> published{false}, ended{false};
  box.run([&](int rank, Waiter&, StepExchange& exchange) {
    while (rank == 0 && !published) std::this_thread::yield();
    exchange.begin(1);
    exchange.publish();
    if (rank == 1) {
      published = true;  // the other rank's gradients are not there yet, so nothing has been summed
      while (!ended) std::this_thread::yield();
      return;
    }
    try {
      exchange.finish();
    } catch (const StepError& error) {
      message = error.what();
    }
    ended = true;
  });
  EXPECT_NE(message.find("rank 0 has waited for the norm of the gradients of rank 1"), std::string::npos)
      << message;
  EXPECT_NE(message.find("in step 1"), std::string::npos) << message;
  EXPECT_EQ(box.versions().load(0, 0), 0u);
}

TEST(NormMeeting, an_abort_wakes_those_who_wait_in_it) {
  Box box(ExchangeCase{Algorithm::kDirect, 3, 3}.plan({{0, 6}}),
          {.spin_ns = 0, .deadline_ns = 20'000'000'000}, 1, Box::Threads::kOne, Box::Meets::kYes);
  std::atomic<int> unwound{0};
  std::atomic<bool> published{false};
  const auto in_meeting = [&](int rank) { return box.controls()[rank].waiting_what.load() == Await::kNorm; };
  std::thread launcher([&] {
    while (!in_meeting(0) || !in_meeting(1)) std::this_thread::yield();
    box.control.abort.store(1);
    wake_all(box.control, box.controls());
  });
  box.run([&](int rank, Waiter&, StepExchange& exchange) {
    while (rank != 2 && !published) std::this_thread::yield();
    exchange.begin(1);
    exchange.publish();
    if (rank == 2) {
      published = true;
      return;  // the others have not published yet, so it has not summed
    }
    try {
      exchange.finish();
    } catch (const StepAborted&) {
      ++unwound;
    }
  });
  launcher.join();
  EXPECT_EQ(unwound, 2);
  EXPECT_EQ(box.versions().committed(), 0u);
}

}  // namespace
}  // namespace annulus
