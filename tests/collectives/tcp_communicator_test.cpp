// What is different about a Communicator whose ranks share no memory: who is done may go, and what happens to
// those who wait for one who is gone or says nothing. That results are right is communicator_test.cpp's.
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "collectives/communicator.h"
#include "collectives/tcp_ranks.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

constexpr int kRanks = 3;
constexpr int64_t kCount = 300;
constexpr int64_t kLongNs = 60'000'000'000;

// What each rank has thrown: the kind, then the text; "" for one that came to its end.
std::vector<std::string> run(const std::function<void(Communicator&)>& body, int64_t deadline_ns = kLongNs) {
  const TcpRanks meeting(kRanks);
  std::vector<std::string> thrown(kRanks);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < kRanks; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        Communicator communicator({.ranks = kRanks, .heap_bytes = 1 << 20, .domains = {}},
                                  meeting.connect(rank, deadline_ns));
        body(communicator);
      } catch (const UserError& error) {
        thrown[rank] = std::string("user: ") + error.what();
      } catch (const StepError& error) {
        thrown[rank] = std::string("step: ") + error.what();
      } catch (const LinkError& error) {
        thrown[rank] = std::string("link: ") + error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return thrown;
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// The root is done and gone while the last rank still waits for the one between.
TEST(TcpCommunicator, LetsThoseGoWhoAreDone) {
  for (int root = 0; root < kRanks; ++root) {
    const std::vector<std::string> thrown = run([&](Communicator& communicator) {
      const bool between = communicator.rank() == (root + 1) % kRanks;
      if (between) std::this_thread::sleep_for(std::chrono::milliseconds(50));
      std::vector<float> values(kCount, static_cast<float>(communicator.rank() + 1));
      communicator.broadcast(values.data(), kCount, root, {.algorithm = Algorithm::kRing});
      EXPECT_EQ(values, std::vector<float>(kCount, static_cast<float>(root + 1)));
    });
    EXPECT_EQ(thrown, std::vector<std::string>(kRanks));
  }
}

TEST(TcpCommunicator, TellsThoseWhoWaitForOneWhoIsGone) {
  const std::vector<std::string> thrown = run([](Communicator& communicator) {
    std::vector<float> values(kCount);
    communicator.barrier();
    if (communicator.rank() == 1) return;
    communicator.all_reduce(values.data(), values.data(), kCount, {});
  });
  EXPECT_EQ(thrown[1], "");
  for (const int rank : {0, 2}) EXPECT_TRUE(thrown[rank].starts_with("link: rank ")) << thrown[rank];
  EXPECT_TRUE(has(thrown[0], "rank 1 at 127.0.0.1:") || has(thrown[2], "rank 1 at 127.0.0.1:"));
}

TEST(TcpCommunicator, EndsWaitsForWhoSaysNothing) {
  std::atomic<int> given_up{0};
  const std::vector<std::string> thrown = run(
      [&](Communicator& communicator) {
        std::vector<float> values(kCount);
        communicator.barrier();
        if (communicator.rank() == 1) {
          while (given_up == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
          return;
        }
        try {
          communicator.all_reduce(values.data(), values.data(), kCount, {});
        } catch (...) {
          ++given_up;
          throw;
        }
      },
      300'000'000);
  const std::string& text = thrown[0].starts_with("step: ") ? thrown[0] : thrown[2];
  EXPECT_TRUE(has(text, "while nothing came or went")) << text;
  EXPECT_TRUE(has(text, "rank 1")) << text;
}

TEST(TcpCommunicator, NamesBothRanksOfCallsThatDoNotFit) {
  for (const Algorithm algorithm : {Algorithm::kDirect, Algorithm::kRing, Algorithm::kHierarchical}) {
    const std::vector<std::string> thrown = run([&](Communicator& communicator) {
      std::vector<float> values(kCount + 1);
      communicator.all_reduce(values.data(), values.data(), kCount + (communicator.rank() == 1),
                              {.algorithm = algorithm});
      communicator.barrier();
    });
    bool named = false;
    for (const std::string& text : thrown) {
      EXPECT_NE(text, "");
      named |= text.starts_with("step: ") &&
               (has(text, "rank 1 took from rank ") || has(text, " took from rank 1 "));
    }
    EXPECT_TRUE(named) << thrown[0] << "\n" << thrown[1] << "\n" << thrown[2];
  }
}

TEST(TcpCommunicator, HasNoSharedResults) {
  const std::vector<std::string> thrown = run([](Communicator& communicator) {
    float* const values = communicator.allocate<float>(kCount);
    communicator.all_reduce_shared(values, values, kCount, {});
  });
  for (const std::string& text : thrown) {
    EXPECT_EQ(text.find("user: ranks that share no memory"), 0u) << text;
  }
}

TEST(TcpCommunicator, DoesNotWaitForEverForOneWhoDoesNotCome) {
  const TcpRanks meeting(2);
  try {
    (void)meeting.connect(0, 300'000'000);
    FAIL() << "connected to nobody";
  } catch (const LinkError& error) {
    EXPECT_TRUE(has(error.what(), "rank 0 and rank 1 at 127.0.0.1:")) << error.what();
  }
}

TEST(TcpCommunicator, WorksOnCallsUnderWayTogetherWhilePolled) {
  const std::vector<std::string> thrown = run([](Communicator& communicator) {
    constexpr int kCalls = 6;
    std::vector<std::vector<float>> in(kCalls, std::vector<float>(300'000)), out = in;
    std::vector<Communicator::Handle> handles;
    for (int call = 0; call < kCalls; ++call) {
      std::fill(in[call].begin(), in[call].end(), static_cast<float>(call + communicator.rank()));
      handles.push_back(communicator.start({Collective::kAllReduce,
                                            in[call].data(),
                                            out[call].data(),
                                            300'000,
                                            0,
                                            false,
                                            {.algorithm = static_cast<Algorithm>(call % 3)}}));
    }
    while (!handles.back().done()) {
      communicator.progress();
      std::this_thread::yield();
    }
    for (int call = 0; call < kCalls; ++call) {
      EXPECT_EQ(out[call], std::vector<float>(300'000, static_cast<float>(3 * call + 3)));
    }
  });
  EXPECT_EQ(thrown, std::vector<std::string>(kRanks));
}

}  // namespace
}  // namespace annulus
