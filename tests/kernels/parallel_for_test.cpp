#include "kernels/parallel_for.h"

#include <gtest/gtest.h>

#include <mutex>
#include <set>
#include <thread>
#include <vector>

namespace annulus {
namespace {

TEST(ParallelFor, CoversEveryIndexOnce) {
  for (const int threads : {1, 2, 3}) {
    for (const int64_t n : {0, 1, 2, 7, 100}) {
      std::vector<int> visits(n);  // parts are disjoint, so no two threads touch one element
      parallel_for(threads, n, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) ++visits[i];
      });
      EXPECT_EQ(visits, std::vector<int>(n, 1));
    }
  }
}

TEST(ParallelFor, OneThreadRunsInTheCallingThreadInOnePart) {
  int calls = 0;
  parallel_for(1, 100, [&](int64_t begin, int64_t end) {
    ++calls;
    EXPECT_EQ(begin, 0);
    EXPECT_EQ(end, 100);
  });
  EXPECT_EQ(calls, 1);
}

TEST(ParallelFor, TheSplitDependsOnLengthAndThreadsAlone) {
  std::mutex mutex;
  std::set<std::pair<int64_t, int64_t>> parts;
  parallel_for(3, 10, [&](int64_t begin, int64_t end) {
    const std::lock_guard lock(mutex);
    parts.insert({begin, end});
  });
  EXPECT_EQ(parts, (std::set<std::pair<int64_t, int64_t>>{{0, 3}, {3, 6}, {6, 10}}));
}

}  // namespace
}  // namespace annulus
