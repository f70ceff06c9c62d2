#include "launcher/machine.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "launcher/cpu_list.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

TEST(MachineTest, SyntheticMachineHasTheShapeAskedFor) {
  Machine machine = Machine::synthetic("pack:2 numa:4 l3:2 core:8 pu:2");
  EXPECT_EQ(machine.cores().size(), 128u);
  EXPECT_EQ(machine.nodes().size(), 8u);
  EXPECT_EQ(machine.packages(), 2);
  EXPECT_EQ(machine.l3_caches(), 16);
  EXPECT_EQ(machine.cpus().size(), 256u);
  EXPECT_EQ(machine.cpus(), machine.allowed_cpus());
  EXPECT_FALSE(machine.is_this_machine());
  const MachineCore& core = machine.cores()[70];
  EXPECT_EQ(core.package, 1);
  EXPECT_EQ(core.node, 4);
  EXPECT_EQ(core.l3, 8);
  EXPECT_EQ(core.cpus, (std::vector<int>{140, 141}));
}

TEST(MachineTest, OneCoreHasNoPackageAndNoL3ButOneNode) {
  Machine machine = Machine::synthetic("core:1 pu:1");
  ASSERT_EQ(machine.cores().size(), 1u);
  EXPECT_EQ(machine.cores()[0].package, -1);
  EXPECT_EQ(machine.cores()[0].l3, -1);
  EXPECT_EQ(machine.cores()[0].node, 0);
  ASSERT_EQ(machine.nodes().size(), 1u);
  EXPECT_GT(machine.nodes()[0].bytes, 0);
}

TEST(MachineTest, MachineWithoutCoreObjectsHasOneCorePerCpu) {
  EXPECT_EQ(Machine::synthetic("numa:2 pu:3").cores().size(), 6u);
}

TEST(MachineTest, CpusNumberedAcrossPackagesKeepTheirNumbers) {
  Machine machine = Machine::synthetic("pack:2 core:2 pu:1(indexes=0,2,1,3)");
  EXPECT_EQ(machine.cores()[1].cpus, std::vector<int>{2});
  EXPECT_EQ(machine.cores()[1].package, 0);
  EXPECT_EQ(machine.cpus(), (std::vector<int>{0, 1, 2, 3}));
}

TEST(MachineTest, RestrictingKeepsWhatExistsAndNarrowsWhatIsAllowed) {
  Machine machine = Machine::synthetic("numa:2 core:2 pu:2");
  machine.restrict_cpus({1, 2, 3, 99});
  machine.restrict_nodes({1});
  EXPECT_EQ(machine.cpus().size(), 8u);
  EXPECT_EQ(machine.allowed_cpus(), (std::vector<int>{1, 2, 3}));
  EXPECT_EQ(machine.cores()[0].allowed, std::vector<int>{1});
  EXPECT_FALSE(machine.nodes()[0].allowed);
  EXPECT_TRUE(machine.nodes()[1].allowed);
}

TEST(MachineTest, BadDescriptionsNameTheFlagTheValueAndAnExample) {
  for (std::string bad : {"", "  ", "bogus", "core:0 pu:1", "core:4", "core:x pu:1",
                          "core:1000000 pu:1000000", "pu:2 core:2", "core:99999999999999999999 pu:1"}) {
    try {
      Machine::synthetic(bad);
      ADD_FAILURE() << "accepted " << bad;
    } catch (const UserError& error) {
      std::string text = error.what();
      EXPECT_NE(text.find("--synthetic \"" + bad + "\""), std::string::npos) << text;
      EXPECT_NE(text.find("for example \"pack:2"), std::string::npos) << text;
    }
  }
}

TEST(MachineTest, ThisMachineAllowsWhatTheAffinityMaskAllows) {
  Machine machine = Machine::this_machine();
  EXPECT_TRUE(machine.is_this_machine());
  EXPECT_EQ(machine.allowed_cpus(), read_affinity(0));
  EXPECT_GE(machine.nodes().size(), 1u);
}

TEST(MachineTest, TasksetNarrowsThisMachine) {
  std::vector<int> all = read_affinity(0);
  if (all.size() < 2) GTEST_SKIP() << "SKIPPED: needs two CPUs";
  // In a child, so that the tests after this one keep their CPUs.
  pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    cpu_set_t mask;
    CPU_ZERO(&mask);
    CPU_SET(static_cast<size_t>(all[1]), &mask);
    if (sched_setaffinity(0, sizeof(mask), &mask) != 0) _exit(2);
    Machine machine = Machine::this_machine();
    bool good = machine.allowed_cpus() == std::vector<int>{all[1]} &&
                machine.excluded_by(all[0]) == "the affinity mask (taskset)" && machine.cpus().size() >= 2;
    _exit(good ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace annulus
