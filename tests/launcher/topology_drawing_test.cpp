#include "launcher/topology_drawing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

namespace annulus {
namespace {

TEST(TopologyDrawingTest, SmallMachineWithEveryKindOfCore) {
  Machine machine = Machine::synthetic("pack:1 numa:2(memory=3GB) l3:1 core:4 pu:2");
  machine.restrict_cpus({0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15});
  machine.restrict_nodes({0});
  Placement plan = plan_placement(machine, {.workers = 2, .threads_per_worker = 2});
  EXPECT_EQ(draw_machine(machine, plan),
            "machine: 1 package, 2 NUMA nodes, 2 L3 caches, 8 cores, 16 CPUs; 7 cores may be used\n"
            "package 0\n"
            "  NUMA node 0, 2.8 GiB\n"
            "    L3 0\n"
            "      cores 0-1 (CPUs 0-3): rank 0\n"
            "      core 2 (CPUs 4-5): idle\n"
            "      core 3 (CPUs 6-7): not allowed\n"
            "  NUMA node 1, 2.8 GiB, memory not allowed\n"
            "    L3 1\n"
            "      cores 4-5 (CPUs 8-11): rank 1\n"
            "      cores 6-7 (CPUs 12-15): idle\n");
  std::string table = draw_workers(plan, {1536, 3 << 20});
  EXPECT_NE(table.find("     0  0,2   cores 0-1  0          1.5 KiB\n"), std::string::npos) << table;
  EXPECT_NE(table.find("     1  8,10  cores 4-5  not bound  3.0 MiB\n"), std::string::npos) << table;
  EXPECT_NE(table.find("warning: memory of NUMA node 1 may not be used"), std::string::npos) << table;
}

TEST(TopologyDrawingTest, CommunicationThreadsHaveAColumnWhereThereAreAny) {
  const Machine machine = Machine::synthetic("core:2 pu:2");
  PlacementRequest request{.workers = 2};
  EXPECT_EQ(draw_workers(plan_placement(machine, request)).find("communication"), std::string::npos);
  request.comm_thread = "sibling";
  const std::string table = draw_workers(plan_placement(machine, request), {1536, 1536});
  EXPECT_NE(table.find("NUMA node  communication  memory\n"), std::string::npos) << table;
  EXPECT_NE(table.find("     1  2     core 1  0          CPU 3          1.5 KiB\n"), std::string::npos)
      << table;
}

TEST(TopologyDrawingTest, BigMachineFitsOnAScreen) {
  Machine machine = Machine::synthetic("pack:2 numa:4 l3:2 core:8 pu:2");
  std::string text = draw_machine(machine, plan_placement(machine, {}));
  EXPECT_LE(std::count(text.begin(), text.end(), '\n'), 45);
  EXPECT_NE(text.find("      cores 120-127 (CPUs 240-255): ranks 120-127, one each\n"), std::string::npos)
      << text;
}

TEST(TopologyDrawingTest, RanksThatFloatOrShareAreDrawnTogether) {
  Machine machine = Machine::synthetic("pack:1 numa:1 l3:2 core:4 pu:1");
  std::string text = draw_machine(machine, plan_placement(machine, {.workers = 6, .bind = "l3"}));
  EXPECT_NE(text.find("cores 0-3 (CPUs 0-3): ranks 0-2, shared\n"), std::string::npos) << text;
  EXPECT_NE(text.find("cores 4-7 (CPUs 4-7): ranks 3-5, shared\n"), std::string::npos) << text;
  text = draw_machine(machine, plan_placement(machine, {.workers = 9}));
  EXPECT_NE(text.find("core 0 (CPU 0): ranks 0,8, shared\n"), std::string::npos) << text;
  EXPECT_NE(text.find("cores 1-3 (CPUs 1-3): ranks 1-3, one each\n"), std::string::npos) << text;
  text = draw_machine(machine, plan_placement(machine, {.workers = 2, .bind = "none"}));
  EXPECT_NE(text.find("cores 0-3 (CPUs 0-3): idle\n"), std::string::npos) << text;
}

TEST(TopologyDrawingTest, OneCoreWithoutPackageOrCache) {
  Machine machine = Machine::synthetic("core:1 pu:1");
  EXPECT_EQ(draw_machine(machine, plan_placement(machine, {})),
            "machine: 1 NUMA node, 1 core, 1 CPU; 1 core may be used\n"
            "NUMA node 0, 1.0 GiB\n"
            "  core 0 (CPU 0): rank 0\n");
}

TEST(TopologyDrawingTest, BytesAreReadable) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1536), "1.5 KiB");
  EXPECT_EQ(format_bytes(int64_t{5} << 40), "5.0 TiB");
  EXPECT_EQ(format_bytes(int64_t{5} << 50), "5120.0 TiB");
}

}  // namespace
}  // namespace annulus
