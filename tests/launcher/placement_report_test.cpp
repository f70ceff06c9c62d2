#include "launcher/placement_report.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

namespace annulus {
namespace {

PlacementReport two_ranks() {
  PlacementReport report;
  report.ranks = {{.cpus = {0, 1, 2}, .node = 0, .pages = 3000, .remote = 0},
                  {.cpus = {3}, .node = -1, .pages = 1096, .remote = 17}};
  return report;
}

TEST(PlacementReport, adds_up_the_pages_of_all_ranks) {
  EXPECT_EQ(two_ranks().pages(), 4096);
  EXPECT_EQ(two_ranks().remote(), 17);
  EXPECT_EQ(PlacementReport().pages(), 0);
}

TEST(PlacementReport, has_a_line_for_each_rank) {
  EXPECT_EQ(describe_ranks(two_ranks()),
            "rank 0: CPUs 0-2, NUMA node 0, 3000 pages, 0 remote\n"
            "rank 1: CPU 3, NUMA node any, 1096 pages, 17 remote\n");
}

TEST(PlacementReport, has_a_line_over_all) {
  PlacementReport report = two_ranks();
  EXPECT_EQ(describe_placement(report),
            "all 2 workers are on the planned CPUs; 17 of 4,096 pages are remote");
  report.misplaced = {1};
  EXPECT_EQ(describe_placement(report),
            "1 of 2 workers may run on other CPUs than planned; 17 of 4,096 pages are remote");
  report.misplaced.clear();
  report.ranks.pop_back();
  EXPECT_EQ(describe_placement(report), "the worker is on the planned CPUs; 0 of 3,000 pages are remote");
}

TEST(PlacementReport, says_why_nothing_is_known) {
  EXPECT_EQ(describe_placement({}), "not read back: the run ended before its first step");
  PlacementReport report = two_ranks();
  report.refusal = "move_pages: Operation not permitted";
  EXPECT_EQ(describe_placement(report), "cannot be read back: move_pages: Operation not permitted");
}

TEST(ReadPss, counts_private_pages_of_a_process) {
  const int64_t before = read_pss(getpid());
  if (before == 0) GTEST_SKIP() << "SKIPPED: /proc/<pid>/smaps_rollup cannot be read here";
  constexpr int64_t kBytes = 64 << 20;
  void* memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  std::memset(memory, 1, kBytes);
  EXPECT_GE(read_pss(getpid()) - before, kBytes - (1 << 20));
  munmap(memory, kBytes);
}

TEST(ReadPss, of_no_process_is_zero) { EXPECT_EQ(read_pss(-5), 0); }

}  // namespace
}  // namespace annulus
