#include "collectives/exchange.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>

#include "collectives/bridge.h"
#include "kernels/reduce.h"
#include "telemetry/error.h"
#include "tests/collectives/exchange_harness.h"
#include "tests/collectives/tree_domains.h"

namespace annulus {
namespace {

class ExchangeOf : public testing::TestWithParam<ExchangeCase> {};

TEST_P(ExchangeOf, sums_every_element_in_the_promised_order_for_several_steps) {
  const int ranks = GetParam().ranks;
  Box box(GetParam().plan(uneven_buckets(ranks)), Box::kWaiting, 1, GetParam().threads);
  std::atomic<int> wrong{0};
  box.run([&](int rank, Waiter& waiter, StepExchange& exchange) {
    for (uint32_t step = 1; step <= 4; ++step) {
      do_step(box, rank, step, waiter, exchange);
      for (const BucketExtent& extent :
           box.buckets()) {  // each owner checks its slices; others may still be summing
        const ShardRange slice = slice_of(rank, ranks, extent);
        for (int64_t i = slice.begin * kBlockElements; i < slice.end * kBlockElements; i += 97) {
          const int64_t at = extent.offset + i;
          wrong += box.result()[at] != promised_sum(step, box, rank, at);
        }
      }
    }
  });
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(box.versions().committed(), 4u);
}

TEST_P(ExchangeOf, sums_as_promised_while_the_next_step_computes) {
  const int ranks = GetParam().ranks;
  constexpr int kSets = 2;
  constexpr uint32_t kSteps = 6;
  Box box(GetParam().plan(uneven_buckets(ranks)), Box::kWaiting, kSets, GetParam().threads);
  std::atomic<int> wrong{0};
  const auto check = [&](int rank, uint32_t step) {
    for (const BucketExtent& extent : box.buckets()) {
      const ShardRange slice = slice_of(rank, ranks, extent);
      for (int64_t i = slice.begin * kBlockElements; i < slice.end * kBlockElements; i += 97) {
        const int64_t at = extent.offset + i;
        wrong += box.result()[at] != promised_sum(step, box, rank, at);
      }
    }
  };
  box.run([&](int rank, Waiter& waiter, StepExchange& exchange) {
    for (uint32_t step = 1; step <= kSteps; ++step) {
      do_delayed_step(box, rank, step, waiter, exchange);
      if (step % 3 != 0) continue;  // the others overlap
      exchange.finish();
      check(rank, step);
    }
  });
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(box.versions().committed(), kSteps);
}

std::vector<ExchangeCase> cases() {
  std::vector<ExchangeCase> cases;
  for (const int ranks : {1, 2, 3, 4, 5}) {
    for (const int64_t shards : {int64_t{ranks}, int64_t{ranks + 2}, int64_t{12}}) {
      cases.push_back({Algorithm::kDirect, ranks, shards});
      cases.push_back({Algorithm::kRing, ranks, shards});
      for (const int domains : {1, 2, 4}) {
        if (domains > ranks || tree_domains(ranks, shards, domains).empty()) continue;
        cases.push_back({Algorithm::kHierarchical, ranks, shards, domains});
      }
    }
  }
  cases.push_back({Algorithm::kDirect, 9, 9});
  cases.push_back({Algorithm::kRing, 9, 9});
  for (const int domains : {1, 2, 4}) cases.push_back({Algorithm::kHierarchical, 9, 9, domains});
  cases.push_back({Algorithm::kHierarchical, 8, 8, 8});
  cases.push_back({Algorithm::kHierarchical, 8, 24, 4});
  const std::size_t count = cases.size();
  for (std::size_t i = 0; i < count; ++i) {
    if (cases[i].ranks > 4) continue;
    cases.push_back(cases[i]);
    cases.back().threads = Box::Threads::kTwo;
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(AllAlgorithms, ExchangeOf, testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name(); });

constexpr Box::Threads kBoth[] = {Box::Threads::kOne, Box::Threads::kTwo};

// One of each way, with the largest number of domains that `ranks` allow.
std::vector<ExchangeCase> ways(int ranks, int64_t shards) {
  int domains = 1;
  while (2 * domains <= ranks && !tree_domains(ranks, shards, 2 * domains).empty()) domains *= 2;
  return {{Algorithm::kDirect, ranks, shards},
          {Algorithm::kRing, ranks, shards},
          {Algorithm::kHierarchical, ranks, shards, 1},
          {Algorithm::kHierarchical, ranks, shards, domains}};
}

TEST(Exchange, hierarchical_has_the_bits_of_direct_for_every_number_of_domains) {
  for (const auto& [ranks, shards] : {std::pair{2, 6}, {3, 5}, {4, 12}, {6, 6}, {8, 16}}) {
    Box direct(ExchangeCase{Algorithm::kDirect, ranks, shards}.plan({{0, 2 * ranks + 1}}));
    const auto run = [](Box& box) {
      box.run(
          [&](int rank, Waiter& waiter, StepExchange& exchange) { do_step(box, rank, 1, waiter, exchange); });
    };
    run(direct);
    for (int domains = 1; domains <= ranks; domains *= 2) {
      if (tree_domains(ranks, shards, domains).empty()) continue;
      Box box(ExchangeCase{Algorithm::kHierarchical, ranks, shards, domains}.plan({{0, 2 * ranks + 1}}));
      run(box);
      EXPECT_EQ(std::memcmp(direct.result(), box.result(), direct.elements() * sizeof(float)), 0)
          << ranks << " ranks, " << shards << " shards, " << domains << " domains";
    }
  }
}

TEST(Exchange, works_where_some_ranks_own_nothing_and_have_no_ring) {
  for (const int ranks : {2, 3, 5}) {
    for (const ExchangeCase& way : ways(ranks, ranks)) {
      Box box(way.plan({{0, 1}, {kBlockElements, 1}}));
      box.run([&](int rank, Waiter& waiter, StepExchange& exchange) {
        for (uint32_t step = 1; step <= 3; ++step) do_step(box, rank, step, waiter, exchange);
      });
      EXPECT_EQ(box.versions().committed(), 3u);
      for (int64_t i = 0; i < box.elements(); i += 97) {
        ASSERT_EQ(box.result()[i], promised_sum(3, box, ranks - 1, i));
      }
    }
  }
}

TEST(Exchange, a_rank_that_has_done_its_part_leaves_the_next_steps_descriptors_alone) {
  for (const ExchangeCase& way : ways(2, 2)) {
    Box box(way.plan({{0, 4}}));
    std::atomic<bool> ahead{false};
    box.run([&](int rank, Waiter&, StepExchange& exchange) {
      exchange.begin(1);
      exchange.publish();
      if (rank == 0) {
        exchange.finish();
        while (box.versions().committed() != 1) std::this_thread::yield();
        exchange.begin(2);
        exchange.publish();
        ahead = true;
      } else {
        while (box.versions().load(1, 0) != 1) exchange.progress();
        while (!ahead) std::this_thread::yield();  // the other rank is a step ahead
        EXPECT_NO_THROW(exchange.progress());
        EXPECT_NO_THROW(exchange.finish());
        exchange.begin(2);
        exchange.publish();
      }
      exchange.finish();
    });
    EXPECT_EQ(box.versions().committed(), 2u);
  }
}

TEST(Exchange, ring_equals_direct_for_two_ranks_with_one_whole_subtree_each) {
  for (const int64_t shards : {2, 4, 12}) {
    Box direct(ExchangeCase{Algorithm::kDirect, 2, shards}.plan({{0, 5}}));
    Box ring(ExchangeCase{Algorithm::kRing, 2, shards}.plan({{0, 5}}));
    for (Box* box : {&direct, &ring}) {
      box->run([&](int rank, Waiter& waiter, StepExchange& exchange) {
        do_step(*box, rank, 1, waiter, exchange);
      });
    }
    EXPECT_EQ(std::memcmp(direct.result(), ring.result(), direct.elements() * sizeof(float)), 0) << shards;
  }
}

void leave_early(const ExchangeCase& way, Box::Threads threads) {
  // Without spins the communication threads are asleep when the abort comes.
  Box box(way.plan({{0, 8}, {8 * kBlockElements, 8}}), {.spin_ns = 0, .deadline_ns = 20'000'000'000}, 1,
          threads);
  std::atomic<int> unwound{0}, waiting{0};
  std::thread launcher([&] {
    while (waiting < 3) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // let them fall asleep in a circle
    box.control.abort.store(1);
    wake_all(box.control, box.controls());
  });
  box.run([&](int rank, Waiter&, StepExchange& exchange) {
    exchange.begin(1);
    exchange.publish();
    if (rank == 2) return;  // its second bucket never comes
    exchange.publish();
    ++waiting;
    try {
      exchange.finish();
    } catch (const StepAborted&) {
      ++unwound;
    }
  });
  launcher.join();
  EXPECT_EQ(unwound, 3);
  EXPECT_EQ(box.versions().committed(), 0u);
}

TEST(Exchange, a_rank_that_leaves_early_hangs_nobody_once_the_launcher_aborts) {
  for (const ExchangeCase& way : ways(4, 4)) {
    for (const Box::Threads threads : kBoth) leave_early(way, threads);
  }
}

// A rank's bridge breaks, since another host's worker has died, while one of its own box has died as well:
// its sums never come, and so it hands nothing to the bridge.
TEST(Exchange, a_broken_bridge_ends_the_wait_for_a_rank_that_is_gone) {
  for (const ExchangeCase& way : ways(2, 2)) {
    for (const Box::Threads threads : kBoth) {
      alarm(60);  // ends the program where it hangs
      Box box(way.plan({{0, 4}}), Box::kWaiting, 1, threads);
      std::vector<float> array(box.elements());
      std::atomic<bool> published{false};
      int broken = 0;
      const auto connect = [&](const Bridge::Leave& leave) -> TcpTransport::Streams {
        while (!published && !leave.asked()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        throw LinkError("it is gone");
      };
      std::optional<Bridge> bridge;
      bridge.emplace(BridgePlan{.hosts = 2, .node = 0, .slices = {{0, box.elements()}}},
                     Bridge::Wiring{.connect = connect, .arrays = {array.data()}, .wake = [&] {
                                      wake_all(box.control, box.controls());
                                    }});
      box.bridge_of = [&](int rank) { return rank == 0 ? &*bridge : nullptr; };
      box.run([&](int rank, Waiter&, StepExchange& exchange) {
        if (rank == 1) return;
        exchange.begin(1);
        try {
          exchange.publish();
          published = true;
          exchange.finish();
        } catch (const LinkError&) {
          ++broken;
        }
      });
      EXPECT_EQ(broken, 1);
      alarm(0);
    }
  }
}

TEST(Exchange, a_descriptor_of_another_step_ends_the_step_with_both_ranks_named) {
  for (const ExchangeCase& way : ways(2, 2)) {
    for (const Box::Threads threads : kBoth) {
      Box box(way.plan({{0, 4}}), Box::kWaiting, 1, threads);
      std::string message;
      std::atomic<bool> ended{false};
      box.run([&](int rank, Waiter&, StepExchange& exchange) {
        exchange.begin(rank == 0 ? 7 : 8);
        try {
          exchange.publish();
          if (rank == 1) exchange.finish();
        } catch (const StepError& error) {  // on rank 0 too, where rank 1 was there first
          if (rank == 1) message = error.what();
        }
        if (rank == 1) ended = true;
        while (!ended) std::this_thread::yield();
      });
      EXPECT_NE(message.find("rank 1 took from rank 0"), std::string::npos) << message;
      EXPECT_NE(message.find("step is 7, where 8 was due"), std::string::npos) << message;
    }
  }
}

TEST(ExchangeThread, sums_while_the_compute_threads_do_other_things) {
  for (const ExchangeCase& way : ways(3, 5)) {
    Box box(way.plan({{0, 4}, {4 * kBlockElements, 3}}), Box::kWaiting, 1, Box::Threads::kTwo);
    box.run([&](int rank, Waiter&, StepExchange& exchange) {
      exchange.begin(1);
      compute(box, rank, 1, exchange, [&] { exchange.publish(); });
      while (box.versions().committed() != 1) std::this_thread::yield();
      exchange.finish();
      EXPECT_TRUE(exchange.finished());
    });
    for (int64_t i = 0; i < 4 * kBlockElements; i += 97) {
      int owner = 0;
      while (slice_of(owner, 3, box.buckets()[0]).end * kBlockElements <= i) ++owner;
      ASSERT_EQ(box.result()[i], promised_sum(1, box, owner, i));
    }
  }
}

TEST(ExchangeThread, leaves_at_once_when_its_worker_does) {
  Box box(ExchangeCase{Algorithm::kDirect, 2, 2}.plan({{0, 4}}), Box::kWaiting, 1, Box::Threads::kTwo);
  box.run([&](int rank, Waiter&, StepExchange& exchange) {
    exchange.begin(1);
    if (rank == 0) exchange.publish();  // what it waits for never comes
  });
  EXPECT_EQ(box.versions().committed(), 0u);
}

TEST(ExchangeThread, counts_what_was_not_hidden_as_communication_and_the_rest_as_waiting) {
  Box box(ExchangeCase{Algorithm::kDirect, 2, 2}.plan({{0, 64}}), Box::kWaiting, 1, Box::Threads::kTwo);
  box.run([&](int rank, Waiter& waiter, StepExchange& exchange) {
    const int64_t begin = now_ns();
    do_step(box, rank, 1, waiter, exchange);
    const int64_t wall = now_ns() - begin;
    EXPECT_GE(exchange.counts().busy_ns, 0);
    EXPECT_GE(waiter.waited_ns(), 0);
    EXPECT_LE(exchange.counts().busy_ns + waiter.waited_ns(), wall);
    EXPECT_EQ(exchange.counts().descriptors, 1u);
  });
}

TEST(Exchange, counts_descriptors_and_bytes) {
  Box box(ExchangeCase{Algorithm::kDirect, 3, 3}.plan({{0, 3}, {3 * kBlockElements, 6}}));
  box.run([&](int rank, Waiter& waiter, StepExchange& exchange) {
    do_step(box, rank, 1, waiter, exchange);
    EXPECT_EQ(exchange.counts().descriptors, 4u);  // two peers, two buckets
    EXPECT_EQ(exchange.counts().bytes, 2 * (1 + 2) * kBlockElements * sizeof(float));
  });
}

}  // namespace
}  // namespace annulus
