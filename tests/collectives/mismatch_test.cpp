// Calls that do not fit each other: whoever finds it names both ranks, and nobody is left behind once the box
// is told to abort.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "collectives/communicator.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

using std::chrono::milliseconds;

constexpr int kRanks = 3;
constexpr int64_t kCount = 300;  // so that every rank has a slice

// How ranks got out of their calls.
struct Outcome {
  std::vector<std::string> step_errors;
  int finished = 0, aborted = 0;
  int all() const { return static_cast<int>(step_errors.size()) + finished + aborted; }
};

// One rank, its two buffers in the heap and those outside.
struct Rank {
  Rank(const CommunicatorSegment& segment, int rank)
      : communicator(segment, rank),
        in(communicator.allocate<float>(kRanks * kCount)),
        out(communicator.allocate<float>(kRanks * kCount)),
        outside_in(kRanks * kCount),
        outside_out(kRanks * kCount) {}
  Communicator communicator;
  float *in, *out;
  std::vector<float> outside_in, outside_out;
};

using Body = std::function<void(int rank, Rank&)>;

// Runs all ranks; the first who fails aborts the others, as the launcher does, and the test does
// `abort_after` so long.
Outcome run(int ranks, const Body& body, milliseconds abort_after = milliseconds(20'000)) {
  const CommunicatorSegment segment({.ranks = ranks,
                                     .heap_bytes = int64_t{1} << 20,
                                     .domains = {},
                                     .waiting = {.spin_ns = 0, .deadline_ns = 60'000'000'000},
                                     .thresholds = {}});
  Outcome outcome;
  std::mutex mutex;
  std::atomic<int> out{0};
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      Rank self(segment, rank);
      try {
        body(rank, self);
        const std::lock_guard lock(mutex);
        ++outcome.finished;
      } catch (const StepAborted&) {
        const std::lock_guard lock(mutex);
        ++outcome.aborted;
      } catch (const StepError& error) {
        const std::lock_guard lock(mutex);
        outcome.step_errors.push_back(error.what());
        segment.abort();
      }
      ++out;
    });
  }
  const auto begin = std::chrono::steady_clock::now();
  while (out < ranks && std::chrono::steady_clock::now() - begin < abort_after) {
    std::this_thread::sleep_for(milliseconds(1));
  }
  segment.abort();
  for (std::thread& thread : threads) thread.join();
  return outcome;
}

// At least one rank found the fault, and named itself, another and `field`; `odd` is one of the two.
void expect_names(const Outcome& outcome, int odd, const std::vector<std::string>& fields) {
  EXPECT_EQ(outcome.all(), kRanks);
  ASSERT_FALSE(outcome.step_errors.empty());
  const auto names_odd = [&](const std::string& text) {
    return text.find("rank " + std::to_string(odd) + " took from rank ") != std::string::npos ||
           text.find(" took from rank " + std::to_string(odd) + " ") != std::string::npos;
  };
  EXPECT_TRUE(std::any_of(outcome.step_errors.begin(), outcome.step_errors.end(), names_odd))
      << outcome.step_errors[0];
  const std::string& text = outcome.step_errors[0];
  const auto has = [&](const std::string& field) {
    return text.find("whose " + field + " is ") != std::string::npos;
  };
  // Whatever differs is part of what the whole call is recognized by.
  EXPECT_TRUE(has("call (operation, type, algorithm, buffers)") ||
              std::any_of(fields.begin(), fields.end(), has))
      << text;
  EXPECT_NE(text.find("where "), std::string::npos) << text;
}

Communicator::Options by(Algorithm algorithm, DataType type = DataType::kF32) {
  return {type, Operation::kSum, algorithm};
}

class Mismatch : public testing::TestWithParam<Algorithm> {
 protected:
  const Communicator::Options options = by(GetParam());
};

TEST_P(Mismatch, of_counts_names_both_ranks) {
  for (const bool outside : {false, true}) {
    const Outcome outcome = run(kRanks, [&](int rank, Rank& self) {
      float* const in = outside ? self.outside_in.data() : self.in;
      float* const out = outside ? self.outside_out.data() : self.out;
      self.communicator.all_reduce(in, out, rank == 1 ? kCount + 1 : kCount, options);
      self.communicator.all_reduce(in, out, kCount, options);
    });
    expect_names(outcome, 1, {"length", "place"});
  }
}

TEST_P(Mismatch, of_operations_and_of_types_of_one_size_names_both_ranks) {
  Communicator::Options other = options;
  other.operation = Operation::kMax;
  const Outcome operations = run(kRanks, [&](int rank, Rank& self) {
    self.communicator.all_reduce(self.in, self.out, kCount, rank == 1 ? other : options);
  });
  expect_names(operations, 1, {});
  const Outcome types = run(kRanks, [&](int rank, Rank& self) {
    const DataType type = rank == 2 ? DataType::kBf16 : DataType::kF16;
    self.communicator.all_reduce(self.in, self.out, kCount, by(GetParam(), type));
  });
  expect_names(types, 2, {});
}

TEST_P(Mismatch, of_collectives_names_both_ranks) {
  const Outcome outcome = run(kRanks, [&](int rank, Rank& self) {
    if (rank == 2) {
      self.communicator.all_gather(self.in, self.out, kCount / 3, options);
    } else {
      self.communicator.all_reduce(self.in, self.out, kCount, options);
    }
    self.communicator.barrier();
  });
  expect_names(outcome, 2, {"type", "place", "length", "slice", "bucket"});
}

TEST_P(Mismatch, of_a_buffer_in_the_heap_and_one_outside_names_both_ranks) {
  const Outcome outcome = run(kRanks, [&](int rank, Rank& self) {
    float* const in = rank == 0 ? self.outside_in.data() : self.in;
    self.communicator.all_reduce(in, self.out, kCount, options);
    self.communicator.barrier();
  });
  expect_names(outcome, 0, {"place", "length", "bucket", "type"});
}

TEST_P(Mismatch, of_places_in_the_heap_names_both_ranks) {
  const Outcome outcome = run(kRanks, [&](int rank, Rank& self) {
    self.communicator.all_reduce(self.in + (rank == 1 ? 16 : 0), self.out, kCount, options);
    self.communicator.barrier();
  });
  expect_names(outcome, 1, {"place"});
}

TEST_P(Mismatch, of_types_names_both_ranks) {
  const Outcome outcome = run(kRanks, [&](int rank, Rank& self) {
    const DataType type = rank == 1 ? DataType::kBf16 : DataType::kF32;
    self.communicator.all_reduce(self.in, self.out, kCount, by(GetParam(), type));
    self.communicator.barrier();
  });
  expect_names(outcome, 1, {"length", "place"});
}

TEST_P(Mismatch, of_a_call_left_out_names_both_ranks) {
  const Outcome outcome = run(kRanks, [&](int rank, Rank& self) {
    if (rank != 2) self.communicator.all_reduce(self.in, self.out, kCount, options);
    self.communicator.reduce_scatter(self.in, self.out, kCount, options);
    self.communicator.barrier();
  });
  expect_names(outcome, 2, {"type", "place", "length", "slice", "bucket"});
}

TEST_P(Mismatch, of_who_leaves_early_hangs_nobody_after_an_abort) {
  std::atomic<int> through{0};
  const Outcome outcome = run(
      kRanks,
      [&](int rank, Rank& self) {
        self.communicator.all_reduce(self.in, self.out, kCount, options);
        ++through;
        if (rank == 1) return;
        self.communicator.all_reduce(self.in, self.out, kCount, options);
      },
      milliseconds(300));
  EXPECT_EQ(through, kRanks);
  EXPECT_EQ(outcome.finished, 1);
  EXPECT_EQ(outcome.aborted, 2);
}

INSTANTIATE_TEST_SUITE_P(AllAlgorithms, Mismatch,
                         testing::Values(Algorithm::kDirect, Algorithm::kRing, Algorithm::kHierarchical),
                         [](const auto& info) { return to_string(info.param); });

TEST(Mismatches, of_algorithms_name_both_ranks) {
  const Outcome outcome = run(kRanks, [&](int rank, Rank& self) {
    self.communicator.all_reduce(self.in, self.out, kCount,
                                 by(rank == 1 ? Algorithm::kRing : Algorithm::kDirect));
    self.communicator.barrier();
  });
  expect_names(outcome, 1, {"type", "place", "length", "slice", "bucket", "round"});
}

TEST(Mismatches, of_roots_end_in_an_error_or_an_abort) {
  const Outcome outcome = run(
      kRanks,
      [&](int rank, Rank& self) {
        self.communicator.broadcast(self.in, kCount, rank == 1 ? 1 : 0, {});
        self.communicator.barrier();
      },
      milliseconds(300));
  EXPECT_EQ(outcome.all(), kRanks);
  EXPECT_EQ(outcome.finished, 0);
}

TEST(Mismatches, where_all_wait_in_a_circle_end_with_the_abort) {
  const Outcome outcome = run(
      kRanks,
      [&](int rank, Rank& self) {
        // Each is the root in its own mind, and waits for the others to read.
        self.communicator.broadcast(self.in, kCount, rank, {});
      },
      milliseconds(300));
  EXPECT_EQ(outcome.aborted, kRanks);
}

TEST(Mismatches, are_seen_by_who_polls) {
  const Outcome outcome = run(
      kRanks,
      [&](int rank, Rank& self) {
        if (rank == 2) return;  // never calls
        const auto handle =
            self.communicator.start({Collective::kAllReduce, self.in, self.out, kCount, 0, false, {}});
        while (!handle.done()) {
          self.communicator.progress();
          std::this_thread::yield();
        }
      },
      milliseconds(200));
  EXPECT_EQ(outcome.finished, 1);
  EXPECT_EQ(outcome.aborted, 2);
}

TEST(Mismatches, leave_calls_that_are_under_way_alone_to_die) {
  // A rank may give up with calls under way that nobody waits for.
  const Outcome outcome = run(
      kRanks,
      [&](int rank, Rank& self) {
        for (int i = 0; i < 3; ++i) {
          self.communicator.start({Collective::kAllReduce, self.in, self.out, kCount, 0, false, {}});
        }
        if (rank == 0) return;
        self.communicator.barrier();
      },
      milliseconds(300));
  EXPECT_EQ(outcome.finished, 1);
  EXPECT_EQ(outcome.aborted, 2);
}

TEST(Calls, under_way_together_end_in_order_with_their_own_results) {
  const Outcome outcome = run(kRanks, [&](int rank, Rank& self) {
    constexpr int kCalls = 6;
    std::vector<std::vector<float>> in(kCalls, std::vector<float>(kCount)), out = in;
    std::vector<Communicator::Handle> handles;
    for (int call = 0; call < kCalls; ++call) {
      for (int64_t i = 0; i < kCount; ++i) in[call][i] = static_cast<float>(call + rank * i);
      const auto algorithm = static_cast<Algorithm>(call % 3);
      handles.push_back(self.communicator.start(
          {Collective::kAllReduce, in[call].data(), out[call].data(), kCount, 0, false, by(algorithm)}));
    }
    handles[4].wait();
    for (int call = 0; call < 4; ++call) EXPECT_TRUE(handles[call].done());
    handles[5].wait();
    for (int call = 0; call < kCalls; ++call) {
      for (int64_t i = 0; i < kCount; ++i) {
        ASSERT_EQ(out[call][i], static_cast<float>(3 * call + 3 * i)) << call << ", element " << i;
      }
    }
  });
  EXPECT_EQ(outcome.finished, kRanks);
}

TEST(Calls, with_domains_that_do_not_fit_are_the_users_error) {
  const CommunicatorSegment segment(
      {.ranks = 4, .heap_bytes = 1 << 16, .domains = {{0, 1}, {1, 4}}, .waiting = {}, .thresholds = {}});
  Communicator communicator(segment, 0);
  float* const buffer = communicator.allocate<float>(16);
  try {
    communicator.all_reduce(buffer, buffer, 16, by(Algorithm::kHierarchical));
    FAIL() << "was accepted";
  } catch (const UserError& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("does not hold a whole subtree"), std::string::npos) << text;
    EXPECT_NE(text.find("use direct or ring"), std::string::npos) << text;
  }
}

TEST(Calls, out_of_heap_are_the_users_error) {
  const CommunicatorSegment segment(
      {.ranks = 1, .heap_bytes = 8192, .domains = {}, .waiting = {}, .thresholds = {}});
  Communicator communicator(segment, 0);
  communicator.allocate<float>(1000);
  EXPECT_THROW(communicator.allocate<float>(2000), UserError);
}

TEST(Circle, of_ranks_that_wait_for_each_other_ends_at_the_deadline_though_all_are_alive) {
  const CommunicatorSegment segment(
      {.ranks = 2, .heap_bytes = 4096, .waiting = {.spin_ns = 0, .deadline_ns = 300'000'000}});
  std::atomic<int> named{0};
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      Communicator communicator(segment, rank);
      float* const buffer = communicator.allocate<float>(16);
      try {
        communicator.broadcast(buffer, 16, rank, {});  // each takes itself for the root
      } catch (const StepError& error) {
        named += std::string(error.what()).find("while that rank waits") != std::string::npos;
        segment.abort();
      } catch (const StepAborted&) {
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GE(named, 1);
}

TEST(Extent, of_a_buffer_that_ends_beyond_the_heap_or_of_a_shared_result_outside_is_refused) {
  const CommunicatorSegment segment({.ranks = 1, .heap_bytes = 4096});
  Communicator communicator(segment, 0);
  float* const buffer = communicator.allocate<float>(1024);
  EXPECT_THROW(communicator.all_reduce(buffer, buffer, 1025, {}), UserError);
  EXPECT_NO_THROW(communicator.all_reduce(buffer, buffer, 1024, {}));
  float outside[4];
  EXPECT_THROW(communicator.all_reduce_shared(buffer, outside, 4, {}), UserError);
  EXPECT_THROW(communicator.allocate<float>(1), UserError);
}

}  // namespace
}  // namespace annulus
