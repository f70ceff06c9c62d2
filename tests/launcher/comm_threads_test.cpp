// Communication threads on synthetic machines: each kind, each refusal.
#include "launcher/comm_threads.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "telemetry/error.h"

namespace annulus {
namespace {

Machine with_smt() { return Machine::synthetic("pack:1 l3:2 core:4 pu:2"); }  // core c has CPUs 2c and 2c + 1
Machine without_smt() { return Machine::synthetic("pack:1 l3:2 core:4 pu:1"); }

std::vector<int> comm_cpus(const Placement& plan) {
  std::vector<int> cpus;
  for (const WorkerPlace& place : plan.workers) cpus.push_back(place.comm_cpu);
  return cpus;
}

std::string refusal(const Machine& machine, const PlacementRequest& request) {
  try {
    plan_placement(machine, request);
  } catch (const UserError& error) {
    return error.what();
  }
  return "(accepted)";
}

#define EXPECT_HAS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

TEST(CommThreads, AreNotThereInlineAndByDefault) {
  for (const char* kind : {"auto", "inline"}) {
    const Placement plan = plan_placement(with_smt(), {.workers = 4, .comm_thread = kind});
    EXPECT_EQ(comm_cpus(plan), std::vector<int>(4, -1));
    EXPECT_TRUE(plan.exclusive);
  }
  EXPECT_EQ(PlacementRequest{}.comm_thread, "inline");
}

TEST(CommThreads, AsSiblingsUseTheOtherHardwareThreadOfTheFirstCore) {
  const Placement one = plan_placement(with_smt(), {.workers = 3, .comm_thread = "sibling"});
  EXPECT_EQ(comm_cpus(one), (std::vector<int>{1, 3, 5}));
  EXPECT_TRUE(one.exclusive);
  EXPECT_TRUE(one.warnings.empty());
  const Placement two =
      plan_placement(with_smt(), {.workers = 2, .threads_per_worker = 2, .comm_thread = "sibling"});
  EXPECT_EQ(comm_cpus(two), (std::vector<int>{1, 5}));
  // A worker that a list puts on a second hardware thread has the first one as its sibling.
  const Placement listed =
      plan_placement(with_smt(), {.workers = 2, .bind = "3,4", .comm_thread = "sibling"});
  EXPECT_EQ(comm_cpus(listed), (std::vector<int>{2, 5}));
  const Placement four = plan_placement(Machine::synthetic("core:2 pu:4"), {.comm_thread = "sibling"});
  EXPECT_EQ(comm_cpus(four), (std::vector<int>{1, 5}));
}

TEST(CommThreads, AsSiblingsAreRefusedWhereThereIsNone) {
  const std::string text = refusal(without_smt(), {.workers = 2, .comm_thread = "sibling"});
  EXPECT_HAS(text, "--comm-thread sibling: the core of CPU 0 (rank 0) has no other hardware thread");
  EXPECT_HAS(text, "no SMT");
  EXPECT_HAS(text, "give --comm-thread inline");
}

TEST(CommThreads, AsSiblingsAreRefusedWhereSiblingsCompute) {
  EXPECT_HAS(refusal(with_smt(), {.workers = 2, .smt = true, .comm_thread = "sibling"}),
             "--smt on counts siblings as cores that compute; leave --smt off");
  EXPECT_HAS(refusal(with_smt(), {.workers = 2, .bind = "0,1", .comm_thread = "sibling"}),
             "CPU 1, beside rank 0's CPU 0 on the same core, computes for rank 1");
}

TEST(CommThreads, AsSiblingsAreRefusedWhereTheyMayNotRun) {
  Machine machine = with_smt();
  machine.restrict_cpus({0, 2, 4, 6});
  const std::string text = refusal(machine, {.workers = 2, .comm_thread = "sibling"});
  EXPECT_HAS(text, "CPU 1, beside rank 0's CPU 0 on the same core, may not be used by this process");
  EXPECT_HAS(text, "leaves it CPUs 0,2,4,6");
}

TEST(CommThreads, AsSiblingsNeedWorkersWithCoresOfTheirOwn) {
  for (const char* bind : {"none", "l3", "numa"}) {
    EXPECT_HAS(refusal(with_smt(), {.workers = 2, .bind = bind, .comm_thread = "sibling"}),
               "workers float and have no core whose sibling it could be");
  }
  EXPECT_HAS(refusal(with_smt(), {.workers = 9, .comm_thread = "sibling"}),
             "ranks 0 and 8 take turns on one core");
}

TEST(CommThreads, OnListedCpusGoOneToEachWorkerOrAllToTheOnlyOne) {
  const Placement each = plan_placement(without_smt(), {.workers = 2, .comm_thread = "6,7"});
  EXPECT_EQ(comm_cpus(each), (std::vector<int>{6, 7}));
  EXPECT_TRUE(each.exclusive);
  EXPECT_TRUE(each.warnings.empty());

  const Placement all = plan_placement(without_smt(), {.workers = 3, .comm_thread = "7"});
  EXPECT_EQ(comm_cpus(all), (std::vector<int>{7, 7, 7}));
  EXPECT_FALSE(all.exclusive);  // who spins keeps the others off the CPU
  ASSERT_EQ(all.warnings.size(), 1u);
  EXPECT_HAS(all.warnings[0], "3 communication threads share CPU 7");

  EXPECT_HAS(
      refusal(without_smt(), {.workers = 3, .comm_thread = "6,7"}),
      "--comm-thread 6,7: lists 2 CPUs for 3 workers; list one for each, or a single one that all share");
}

TEST(CommThreads, SetTheirCpusAsideWhereEnoughAreLeft) {
  const Placement first = plan_placement(without_smt(), {.workers = 1, .comm_thread = "0"});
  EXPECT_EQ(first.workers[0].cpus, std::vector<int>{1});
  EXPECT_TRUE(first.exclusive);
  const Placement automatic = plan_placement(without_smt(), {.comm_thread = "7"});
  EXPECT_EQ(automatic.workers.size(), 7u);
  EXPECT_EQ(comm_cpus(plan_placement(without_smt(), {.comm_thread = "6,7"})), (std::vector<int>{6, 7}));

  const Placement full = plan_placement(without_smt(), {.workers = 8, .comm_thread = "7"});
  EXPECT_EQ(full.workers[7].cpus, std::vector<int>{7});
  EXPECT_FALSE(full.exclusive);
  ASSERT_EQ(full.warnings.size(), 1u);
  EXPECT_HAS(full.warnings[0], "take turns with compute threads");
}

TEST(CommThreads, OnCpusThatAreNotThereOrNotOursAreRefused) {
  EXPECT_HAS(refusal(without_smt(), {.workers = 1, .comm_thread = "8"}),
             "--comm-thread 8: CPU 8 does not exist; this machine has CPUs 0-7");
  Machine machine = without_smt();
  machine.restrict_cpus({0, 1});
  EXPECT_HAS(refusal(machine, {.workers = 1, .comm_thread = "5"}),
             "--comm-thread 5: CPU 5 may not be used by this process");
}

TEST(CommThreads, WithoutTimeOfTheirOwnDoNotSpin) {
  EXPECT_FALSE(plan_placement(without_smt(), {.workers = 2, .cpu_quota = 3, .comm_thread = "6,7"}).exclusive);
  EXPECT_TRUE(plan_placement(without_smt(), {.workers = 2, .cpu_quota = 4, .comm_thread = "6,7"}).exclusive);
}

}  // namespace
}  // namespace annulus
