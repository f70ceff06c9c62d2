// Domains of ranks on synthetic machines, and what auto makes of them.
#include "launcher/domains.h"

#include <gtest/gtest.h>

#include "telemetry/error.h"

namespace annulus {
namespace {

// 2 packages x 4 nodes x 2 L3 x 8 cores x 2 threads: 128 cores; core c has CPUs 2c and 2c + 1.
Machine big() { return Machine::synthetic("pack:2 numa:4 l3:2 core:8 pu:2"); }
// 8 cores on one node, two L3.
Machine small() { return Machine::synthetic("pack:1 numa:1 l3:2 core:4 pu:1"); }

DomainPlan domains(const Machine& machine, const PlacementRequest& request) {
  return find_domains(machine, plan_placement(machine, request));
}

Domains equal_domains(int count, int ranks_each) {
  Domains result;
  for (int i = 0; i < count; ++i) result.push_back({i * ranks_each, (i + 1) * ranks_each});
  return result;
}

std::string refusal(const DomainPlan& plan, int ranks, int64_t shards) {
  try {
    choose_algorithm("hierarchical", plan, ranks, shards);
  } catch (const UserError& error) {
    return error.what();
  }
  return "(accepted)";
}

#define EXPECT_HAS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

TEST(Domains, AreTheNumaNodesOfAFullMachine) {
  const DomainPlan plan = domains(big(), {});
  EXPECT_EQ(plan.domains, equal_domains(8, 16));
  EXPECT_EQ(plan.level, "NUMA node");
  EXPECT_EQ(plan.why_one, "");
  EXPECT_EQ(describe_domains(plan).substr(0, 32), "8 NUMA nodes, ranks 0-15, 16-31,");
}

TEST(Domains, OfWorkersOnOneNodeAreItsL3Caches) {
  const DomainPlan plan = domains(big(), {.workers = 12});
  EXPECT_EQ(plan.domains, (Domains{{0, 8}, {8, 12}}));
  EXPECT_EQ(describe_domains(plan), "2 L3s, ranks 0-7, 8-11");
  EXPECT_EQ(domains(small(), {}).domains, equal_domains(2, 4));
}

TEST(Domains, OfAPartlyFilledMachineFollowTheWorkers) {
  // 40 workers: nodes 0 and 1 full, node 2 half.
  EXPECT_EQ(domains(big(), {.workers = 40}).domains, (Domains{{0, 16}, {16, 32}, {32, 40}}));
  EXPECT_EQ(domains(big(), {.workers = 24, .bind = "numa"}).domains, equal_domains(8, 3));
  EXPECT_EQ(domains(big(), {.workers = 8, .bind = "numa"}).domains, equal_domains(8, 1));
  Machine machine = big();
  machine.restrict_cpus({0, 2, 4, 32, 34, 64});
  EXPECT_EQ(domains(machine, {}).domains, (Domains{{0, 3}, {3, 5}, {5, 6}}));
}

TEST(Domains, AreOneWhereAllShareIt) {
  const DomainPlan plan = domains(big(), {.workers = 8});
  EXPECT_EQ(plan.domains, equal_domains(1, 8));
  EXPECT_EQ(describe_domains(plan), "one for all ranks: all ranks share one L3");
  EXPECT_EQ(describe_domains(domains(Machine::synthetic("core:4 pu:1"), {})),
            "one for all ranks: all ranks share one NUMA node");
}

TEST(Domains, FollowAListOfCpus) {
  EXPECT_EQ(domains(big(), {.workers = 4, .bind = "0,2,32,34"}).domains, equal_domains(2, 2));
  const DomainPlan mixed = domains(big(), {.workers = 4, .bind = "0,32,2,34"});
  EXPECT_EQ(mixed.domains, equal_domains(1, 4));
  EXPECT_EQ(mixed.why_one, "ranks go to and fro between NUMA nodes");
}

TEST(Domains, AreOneWhereWorkersAreNotKeptWithinThem) {
  EXPECT_EQ(domains(big(), {.workers = 4, .bind = "none"}).why_one,
            "rank 0 is not kept within one NUMA node");
  EXPECT_EQ(domains(big(), {.workers = 2, .bind = "socket"}).why_one,
            "rank 0 is not kept within one NUMA node");
  EXPECT_EQ(domains(big(), {.workers = 2, .threads_per_worker = 64}).domains, equal_domains(1, 2));
  EXPECT_EQ(domains(small(), {.workers = 2, .bind = "numa"}).why_one, "rank 0 is not kept within one L3");
  // Ranks that take turns on the cores come back to the first.
  EXPECT_EQ(domains(small(), {.workers = 12}).why_one, "ranks go to and fro between L3s");
}

TEST(Domains, ThatArePretendedFitTheTreeOfOneShardPerRank) {
  for (int ranks = 1; ranks <= 9; ++ranks) {
    for (int count = 1; count <= ranks; count *= 2) {
      const Domains parts = pretend_domains(ranks, count);
      ASSERT_EQ(static_cast<int>(parts.size()), count);
      EXPECT_EQ(parts.front().begin, 0);
      EXPECT_EQ(parts.back().end, ranks);
      EXPECT_EQ(why_not_hierarchical(parts, ranks, ranks), "") << ranks << " ranks, " << count;
    }
  }
  EXPECT_EQ(pretend_domains(7, 3).size(), 3u);
}

TEST(ChooseAlgorithm, AutoTakesHierarchicalOnManyRanksInDomainsThatFit) {
  const AlgorithmChoice choice = choose_algorithm("auto", domains(big(), {}), 128, 128);
  EXPECT_EQ(choice.algorithm, Algorithm::kHierarchical);
  EXPECT_HAS(choice.note, "hierarchical, direct within each of 8 NUMA nodes");
}

TEST(ChooseAlgorithm, AutoTakesDirectElsewhereAndSaysWhy) {
  const auto note = [](const PlacementRequest& request, int ranks, int64_t shards) {
    const AlgorithmChoice choice = choose_algorithm("auto", domains(big(), request), ranks, shards);
    EXPECT_EQ(choice.algorithm, Algorithm::kDirect);
    return choice.note;
  };
  EXPECT_HAS(note({.workers = 8}, 8, 8), "direct, because all ranks share one L3");
  EXPECT_HAS(note({.workers = 40}, 40, 40), "direct, because halving does not fit: 3 domains");
  EXPECT_HAS(note({}, 128, 300), "halving does not fit: domain 0 (ranks 0 to 15)");
  EXPECT_HAS(note({.workers = 24, .bind = "numa"}, 24, 24), "8 NUMA nodes with 3 ranks each are too few");
}

TEST(ChooseAlgorithm, TakesWhatTheUserWants) {
  const DomainPlan plan = domains(big(), {.workers = 16, .bind = "numa"});
  for (const Algorithm algorithm : {Algorithm::kDirect, Algorithm::kRing, Algorithm::kHierarchical}) {
    const AlgorithmChoice choice = choose_algorithm(to_string(algorithm), plan, 16, 16);
    EXPECT_EQ(choice.algorithm, algorithm);
    EXPECT_EQ(choice.note, "");
  }
  // One domain: direct inside it.
  EXPECT_EQ(refusal(domains(big(), {.workers = 4}), 4, 4), "(accepted)");
}

TEST(ChooseAlgorithm, RefusesHierarchicalWhereItDoesNotFit) {
  const std::string uneven = refusal(domains(big(), {.workers = 40}), 40, 40);
  EXPECT_HAS(uneven, "--algorithm hierarchical: 3 domains: halving needs 1, 2, 4, 8, ...");
  EXPECT_HAS(uneven, "--algorithm direct");
  EXPECT_HAS(refusal(domains(big(), {}), 128, 127), "does not hold a whole subtree");
}

}  // namespace
}  // namespace annulus
