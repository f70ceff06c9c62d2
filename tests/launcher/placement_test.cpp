// Placement on synthetic machines: every policy, every limit, every message.
#include "launcher/placement.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "launcher/cpu_list.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

// 2 packages x 4 nodes x 2 L3 x 8 cores x 2 threads: 128 cores, 256 CPUs; core c has CPUs 2c and 2c + 1.
Machine big() { return Machine::synthetic("pack:2 numa:4 l3:2 core:8 pu:2"); }
Machine small() { return Machine::synthetic("pack:1 numa:1 l3:2 core:4 pu:1"); }  // 8 cores, two L3

std::vector<int> iota(int first, int count) {
  std::vector<int> list(count);
  std::iota(list.begin(), list.end(), first);
  return list;
}

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const UserError& error) {
    return error.what();
  }
  return "no error";
}

std::string error_of(const Machine& machine, const PlacementRequest& request) {
  return error_of([&] { plan_placement(machine, request); });
}

std::string joined(const std::vector<std::string>& lines) {
  std::string all;
  for (const std::string& line : lines) all += line + '\n';
  return all;
}

#define EXPECT_HAS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

std::vector<int> cpus_of(const Placement& plan, size_t rank) { return plan.workers.at(rank).cpus; }

TEST(PlacementTest, OneCoreMachineGetsOneWorkerOnIt) {
  Placement plan = plan_placement(Machine::synthetic("core:1 pu:1"), {});
  ASSERT_EQ(plan.workers.size(), 1u);
  EXPECT_EQ(cpus_of(plan, 0), std::vector<int>{0});
  EXPECT_EQ(plan.workers[0].thread_cpus, std::vector<int>{0});
  EXPECT_EQ(plan.workers[0].memory_node, 0);
  EXPECT_TRUE(plan.exclusive);
  EXPECT_TRUE(plan.warnings.empty()) << joined(plan.warnings);
  EXPECT_HAS(joined(plan.notes), "--workers auto: 1 worker of 1 thread, limited by 1 usable core");
}

TEST(PlacementTest, AutoOnTheBigMachineTakesTheFirstThreadOfEveryCore) {
  Placement plan = plan_placement(big(), {});
  ASSERT_EQ(plan.workers.size(), 128u);
  for (int rank = 0; rank < 128; ++rank) {
    EXPECT_EQ(cpus_of(plan, rank), std::vector<int>{2 * rank});
    EXPECT_EQ(plan.workers[rank].memory_node, rank / 16);
    EXPECT_TRUE(plan.workers[rank].pinned);
  }
  EXPECT_TRUE(plan.exclusive);
  EXPECT_EQ(plan.usable_cores, 128);
}

TEST(PlacementTest, SmtCountsEveryHardwareThread) {
  Placement plan = plan_placement(big(), {.threads_per_worker = 2, .smt = true});
  ASSERT_EQ(plan.workers.size(), 128u);
  EXPECT_EQ(plan.workers[5].thread_cpus, (std::vector<int>{10, 11}));
  EXPECT_EQ(plan.workers[5].domain, "core 5");
  EXPECT_TRUE(plan.exclusive);
  Placement all = plan_placement(big(), {.smt = true});
  EXPECT_EQ(all.workers.size(), 256u);
}

TEST(PlacementTest, WorkersDoNotStraddleAnL3WhereTheyFit) {
  // Three cores each: an L3 of 8 holds two workers, and two cores of it stay idle.
  Placement plan = plan_placement(big(), {.workers = 32, .threads_per_worker = 3});
  Machine machine = big();
  for (const WorkerPlace& place : plan.workers) {
    std::set<int> caches;
    for (int cpu : place.cpus) caches.insert(machine.cores()[cpu / 2].l3);
    EXPECT_EQ(caches.size(), 1u) << place.domain;
  }
  EXPECT_EQ(plan.workers[2].domain, "cores 8-10");
  // One more does not fit that way: then within NUMA nodes (5 a node).
  plan = plan_placement(big(), {.workers = 33, .threads_per_worker = 3});
  for (const WorkerPlace& place : plan.workers) EXPECT_GE(place.memory_node, 0);
  EXPECT_EQ(plan.workers[2].domain, "cores 6-8");
  EXPECT_EQ(plan.workers[5].domain, "cores 16-18");
}

TEST(PlacementTest, WorkerLargerThanANodeHasNoMemoryNodeButSeveralLocalOnes) {
  Placement plan = plan_placement(big(), {.workers = 2, .threads_per_worker = 64});
  EXPECT_EQ(plan.workers[1].memory_node, -1);
  EXPECT_EQ(plan.workers[1].local_nodes, (std::vector<int>{4, 5, 6, 7}));
  EXPECT_HAS(joined(plan.notes), "2 workers over several NUMA nodes");
  EXPECT_TRUE(plan.exclusive);
}

TEST(PlacementTest, L3PolicyDealsContiguousBlocksThatFloat) {
  Placement plan = plan_placement(big(), {.workers = 32, .threads_per_worker = 2, .bind = "l3"});
  ASSERT_EQ(plan.workers.size(), 32u);
  for (int rank = 0; rank < 32; ++rank) {
    EXPECT_EQ(plan.workers[rank].domain, "L3 " + std::to_string(rank / 2));
    EXPECT_EQ(cpus_of(plan, rank).size(), 8u);
    EXPECT_TRUE(plan.workers[rank].thread_cpus.empty());
    EXPECT_EQ(plan.workers[rank].memory_node, rank / 4);
  }
  EXPECT_TRUE(plan.exclusive);
}

TEST(PlacementTest, NumaPolicyIsEvenWhenWorkersDoNotDivide) {
  Placement plan = plan_placement(big(), {.workers = 10, .bind = "numa"});
  std::vector<int> count(8, 0);
  int last = 0;
  for (const WorkerPlace& place : plan.workers) {
    ++count[place.memory_node];
    EXPECT_GE(place.memory_node, last);
    last = place.memory_node;
    EXPECT_EQ(place.cpus.size(), 16u);
  }
  EXPECT_EQ(count, (std::vector<int>{2, 2, 1, 1, 1, 1, 1, 1}));
}

TEST(PlacementTest, DomainsThatLostCoresGetFewerWorkers) {
  Machine machine = big();
  std::vector<int> allowed = iota(0, 8);  // 4 cores of node 0, all of node 1
  for (int cpu : iota(32, 32)) allowed.push_back(cpu);
  machine.restrict_cpus(allowed);
  Placement plan = plan_placement(machine, {.workers = 10, .threads_per_worker = 2, .bind = "numa"});
  EXPECT_EQ(
      std::count_if(plan.workers.begin(), plan.workers.end(), [](auto& p) { return p.memory_node == 0; }), 2);
  EXPECT_TRUE(plan.exclusive) << joined(plan.warnings);
}

TEST(PlacementTest, SocketPolicyFloatsOverAPackage) {
  Placement plan = plan_placement(big(), {.workers = 2, .bind = "socket", .smt = true});
  EXPECT_EQ(cpus_of(plan, 1), iota(128, 128));
  EXPECT_EQ(plan.workers[1].domain, "package 1");
  EXPECT_EQ(plan.workers[1].memory_node, -1);
}

TEST(PlacementTest, NumaPolicyOnAMachineWithOneNodeUsesAllOfIt) {
  Placement plan = plan_placement(small(), {.workers = 2, .bind = "numa"});
  EXPECT_EQ(cpus_of(plan, 0), iota(0, 8));
  EXPECT_EQ(plan.workers[1].memory_node, 0);
}

TEST(PlacementTest, NonePinsNothing) {
  Placement plan = plan_placement(big(), {.workers = 4, .bind = "none"});
  ASSERT_EQ(plan.workers.size(), 4u);
  EXPECT_FALSE(plan.workers[0].pinned);
  EXPECT_EQ(plan.workers[3].memory_node, -1);
  EXPECT_EQ(cpus_of(plan, 3).size(), 256u);
  EXPECT_TRUE(plan.exclusive);
  EXPECT_FALSE(plan_placement(small(), {.workers = 9, .bind = "none"}).exclusive);
}

TEST(PlacementTest, ListGoesToWorkersInTheOrderGiven) {
  Placement plan = plan_placement(small(), {.workers = 2, .threads_per_worker = 2, .bind = "6,1,2-4"});
  EXPECT_EQ(plan.workers[0].thread_cpus, (std::vector<int>{6, 1}));
  EXPECT_EQ(cpus_of(plan, 0), (std::vector<int>{1, 6}));
  EXPECT_EQ(plan.workers[1].thread_cpus, (std::vector<int>{2, 3}));
  EXPECT_HAS(joined(plan.notes), "the last CPU listed not used");
  EXPECT_EQ(plan_placement(small(), {.bind = "0-3,7"}).workers.size(), 5u);
  EXPECT_EQ(plan_placement(small(), {.threads_per_worker = 2, .bind = "0-3,7"}).workers.size(), 2u);
}

TEST(PlacementTest, CoresMissingFromTheCpusetAreLeftOut) {
  Machine machine = big();
  machine.restrict_cpus({1, 2, 3, 9, 40});  // core 0 by its second thread, core 1, core 4, core 20
  Placement plan = plan_placement(machine, {});
  ASSERT_EQ(plan.workers.size(), 4u);
  EXPECT_EQ(cpus_of(plan, 0), std::vector<int>{1});
  EXPECT_EQ(cpus_of(plan, 1), std::vector<int>{2});
  EXPECT_EQ(cpus_of(plan, 2), std::vector<int>{9});
  EXPECT_EQ(cpus_of(plan, 3), std::vector<int>{40});
  EXPECT_EQ(plan.workers[3].memory_node, 1);
  EXPECT_HAS(joined(plan.notes),
             "limited by 4 usable cores (taskset or a cgroup cpuset leaves CPUs 1-3,9,40 of 0-255)");
}

TEST(PlacementTest, ForbiddenMemoryNodeIsNotBoundAndSaidSo) {
  Machine machine = big();
  machine.restrict_nodes({0, 2});
  Placement plan = plan_placement(machine, {.workers = 48});
  EXPECT_EQ(plan.workers[0].memory_node, 0);
  EXPECT_EQ(plan.workers[16].memory_node, -1);
  EXPECT_EQ(plan.workers[32].memory_node, 2);
  ASSERT_EQ(plan.warnings.size(), 1u);
  EXPECT_HAS(plan.warnings[0], "memory of NUMA node 1 may not be used (the cgroup's cpuset.mems)");
  EXPECT_TRUE(plan.exclusive);
}

TEST(PlacementTest, MoreWorkersThanCoresTakeTurns) {
  Placement plan = plan_placement(small(), {.workers = 19});
  ASSERT_EQ(plan.workers.size(), 19u);
  for (int rank = 0; rank < 19; ++rank) EXPECT_EQ(cpus_of(plan, rank), std::vector<int>{rank % 8});
  EXPECT_FALSE(plan.exclusive);
  ASSERT_EQ(plan.warnings.size(), 1u);
  EXPECT_HAS(plan.warnings[0], "--workers 19: 19 threads share 8 usable cores");
  EXPECT_HAS(plan.warnings[0], "8 workers is the most that own theirs");
  plan = plan_placement(small(), {.workers = 3, .threads_per_worker = 3});
  EXPECT_EQ(plan.workers[2].thread_cpus, (std::vector<int>{6, 7, 0}));
  EXPECT_FALSE(plan_placement(small(), {.workers = 3, .threads_per_worker = 3, .bind = "l3"}).exclusive);
}

TEST(PlacementTest, QuotaLimitsAutoAndIsNamed) {
  PlacementRequest request{.cpu_quota = 3.5, .cpu_quota_source = "/sys/fs/cgroup/x/cpu.max"};
  Placement plan = plan_placement(small(), request);
  EXPECT_EQ(plan.workers.size(), 3u);
  EXPECT_TRUE(plan.exclusive);
  EXPECT_HAS(joined(plan.notes), "limited by a CPU quota of 3.5 (/sys/fs/cgroup/x/cpu.max)");
  request.threads_per_worker = 2;
  EXPECT_EQ(plan_placement(small(), request).workers.size(), 1u);
  request = {.cpu_quota = 0.5};
  plan = plan_placement(small(), request);
  EXPECT_EQ(plan.workers.size(), 1u);
  EXPECT_FALSE(plan.exclusive);
  EXPECT_HAS(joined(plan.warnings), "a CPU quota of 0.5 (the cgroup) is less than the 1 thread of 1 worker");
  request = {.cpu_quota = 64};
  EXPECT_HAS(joined(plan_placement(small(), request).notes), "limited by 8 usable cores");
}

TEST(PlacementTest, QuotaBelowTheWorkersGivesUpSpinning) {
  Placement plan = plan_placement(small(), {.workers = 4, .cpu_quota = 2});
  EXPECT_EQ(plan.workers.size(), 4u);
  EXPECT_FALSE(plan.exclusive);
  EXPECT_HAS(joined(plan.warnings), "less than the 4 threads of 4 workers");
  EXPECT_TRUE(plan_placement(small(), {.workers = 2, .cpu_quota = 2}).exclusive);
}

TEST(PlacementTest, MemoryLimitsAuto) {
  Placement plan = plan_placement(small(), {.workers_in_memory = 2});
  EXPECT_EQ(plan.workers.size(), 2u);
  EXPECT_HAS(joined(plan.notes), "limited by memory");
}

TEST(PlacementTest, AutoStopsAtTheMostThatIsSupported) {
  Placement plan = plan_placement(Machine::synthetic("pack:4 numa:2 core:64 pu:2"), {.smt = true});
  EXPECT_EQ(plan.workers.size(), static_cast<size_t>(kMostWorkers));
  EXPECT_HAS(joined(plan.notes), "the most that are supported");
}

TEST(PlacementTest, EveryRequestThatCannotBeMetSaysWhyAndWhatToDo) {
  Machine machine = small();
  EXPECT_HAS(error_of(machine, {.workers = 257}), "--workers 257: must be auto or 1 to 256");
  EXPECT_HAS(error_of(machine, {.workers = -1}), "--workers -1: must be auto or 1 to 256");
  EXPECT_HAS(error_of(machine, {.threads_per_worker = 0}), "--threads-per-worker 0: must be at least 1");
  EXPECT_HAS(error_of(machine, {.threads_per_worker = 9}),
             "--threads-per-worker 9: more than the 8 cores that this process may use; give at most 8");
  EXPECT_HAS(error_of(machine, {.threads_per_worker = 5, .bind = "l3"}),
             "--threads-per-worker 5: more than the 4 cores that the largest L3 offers");
  EXPECT_HAS(error_of(machine, {.bind = "cores"}), "--bind cores: unknown policy, did you mean 'core'?");
  EXPECT_HAS(error_of(machine, {.bind = "nmua"}), "did you mean 'numa'?");
  EXPECT_HAS(error_of(machine, {.bind = ""}), "unknown policy");
  EXPECT_HAS(error_of(machine, {.bind = "0-3,8"}),
             "--bind 0-3,8: CPU 8 does not exist; this machine has CPUs 0-7");
  EXPECT_HAS(error_of(machine, {.bind = "0,1,0"}), "--bind 0,1,0: CPU 0 is listed twice");
  EXPECT_HAS(error_of(machine, {.bind = "3-1"}),
             "--bind 3-1: the range '3-1' runs backwards; give CPUs like 0-3,8");
  EXPECT_HAS(error_of(machine, {.bind = "0,,1"}), "'' is neither a CPU number nor a range");
  EXPECT_HAS(error_of(machine, {.bind = "0-"}), "'0-' is neither");
  EXPECT_HAS(error_of(machine, {.bind = "-1"}), "'-1' is neither");
  EXPECT_HAS(error_of(machine, {.bind = "0-99999999"}), "'0-99999999' is above 65535");
  EXPECT_HAS(error_of(machine, {.bind = "99999999999999"}), "neither");
  EXPECT_HAS(
      error_of(machine, {.workers = 3, .threads_per_worker = 2, .bind = "0-4"}),
      "--bind 0-4: lists 5 CPUs, but --workers 3 with --threads-per-worker 2 needs 6; list more or give "
      "--workers 2");
  EXPECT_HAS(error_of(machine, {.threads_per_worker = 3, .bind = "0-1"}),
             "--threads-per-worker 3: more than the 2 CPUs in --bind 0-1");
  Machine plain = Machine::synthetic("core:2 pu:1");
  EXPECT_HAS(error_of(plain, {.bind = "l3"}), "--bind l3: this machine shows no L3");
  EXPECT_HAS(error_of(plain, {.bind = "socket"}), "--bind socket: this machine shows no package");
  machine.restrict_cpus({0, 1, 5});
  std::string outside = error_of(machine, {.bind = "0-2"});
  EXPECT_HAS(outside, "--bind 0-2: CPU 2 may not be used by this process");
  EXPECT_HAS(outside, "cgroup");
  EXPECT_HAS(outside, "leaves it CPUs 0-1,5");
  machine.restrict_cpus({});
  EXPECT_HAS(error_of(machine, {}), "this process may use no CPU");
}

TEST(PlacementTest, CpusAreAlwaysAllowedAndDisjointWhenExclusive) {
  std::vector<Machine> machines;
  for (const char* text : {"core:1 pu:1", "pack:1 numa:1 l3:2 core:4 pu:1", "pack:2 numa:4 l3:2 core:8 pu:2",
                           "pack:2 l3:3 core:3 pu:2", "numa:3 core:5 pu:1"}) {
    machines.push_back(Machine::synthetic(text));
    Machine cut = Machine::synthetic(text);
    std::vector<int> kept;
    for (int cpu : cut.cpus()) {
      if (cpu == 0 || cpu * 7 % 5 < 3) kept.push_back(cpu);
    }
    cut.restrict_cpus(kept);
    machines.push_back(std::move(cut));
  }
  int plans = 0;
  for (const Machine& machine : machines) {
    std::vector<int> allowed = machine.allowed_cpus();
    for (const char* bind : {"core", "l3", "numa", "socket", "none"}) {
      for (int workers : {0, 1, 2, 3, 5, 8, 31, 128, 200}) {
        for (int threads : {1, 2, 3, 7}) {
          for (bool smt : {false, true}) {
            Placement plan;
            try {
              plan = plan_placement(machine, {workers, threads, bind, smt});
            } catch (const UserError&) {
              continue;
            }
            ++plans;
            ASSERT_TRUE(workers == 0 || plan.workers.size() == static_cast<size_t>(workers));
            ASSERT_FALSE(plan.workers.empty());
            std::multiset<int> used;
            for (const WorkerPlace& place : plan.workers) {
              ASSERT_TRUE(std::is_sorted(place.cpus.begin(), place.cpus.end()));
              ASSERT_TRUE(
                  std::includes(allowed.begin(), allowed.end(), place.cpus.begin(), place.cpus.end()));
              ASSERT_TRUE(!plan.exclusive || place.cpus.size() >= static_cast<size_t>(threads));
              used.insert(place.cpus.begin(), place.cpus.end());
              size_t own = std::string(bind) == "core" ? threads : 0;
              ASSERT_EQ(place.thread_cpus.size(), own);
            }
            ASSERT_EQ(plan.exclusive, plan.warnings.empty());
            if (std::string(bind) == "core" && plan.exclusive) {
              ASSERT_EQ(std::set<int>(used.begin(), used.end()).size(), used.size());
            }
          }
        }
      }
    }
  }
  EXPECT_GT(plans, 500);
}

TEST(CpuListTest, RoundTrips) {
  EXPECT_EQ(parse_cpu_list("0-3,8"), (std::vector<int>{0, 1, 2, 3, 8}));
  EXPECT_EQ(parse_cpu_list("5"), std::vector<int>{5});
  EXPECT_EQ(format_cpu_list({8, 0, 2, 1, 3}), "0-3,8");
  EXPECT_EQ(format_cpu_list({}), "none");
}

}  // namespace
}  // namespace annulus
