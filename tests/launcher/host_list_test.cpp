#include "launcher/host_list.h"

#include <gtest/gtest.h>

#include <map>
#include <stdexcept>

#include "telemetry/error.h"

namespace annulus {
namespace {

using Names = std::vector<std::string>;

template <typename Action>
std::string refusal(const Action& action) {
  try {
    action();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "(accepted)";
}

std::string refused(const std::string& text) {
  return refusal([&] { parse_hosts(text, "h.txt"); });
}

TEST(HostList, ALineIsANameSlotsAndAnAddress) {
  const HostList list = parse_hosts(
      "# ours\n\n  big1 slots=16  # the first\r\nme@big2\taddr=10.0.0.2 slots=8\nfd00::1\nbig4 "
      "addr=fe80::1%eth0",
      "h.txt");
  ASSERT_EQ(list.count(), 4);
  EXPECT_EQ(list.source, "h.txt");
  EXPECT_EQ(list.hosts[0].name, "big1");
  EXPECT_EQ(list.hosts[0].address, "big1");
  EXPECT_EQ(list.hosts[0].slots, 16);
  EXPECT_EQ(list.hosts[1].name, "me@big2");
  EXPECT_EQ(list.hosts[1].address, "10.0.0.2");
  EXPECT_EQ(list.hosts[1].slots, 8);
  EXPECT_EQ(list.hosts[2].address, "fd00::1");
  EXPECT_EQ(list.hosts[2].slots, 0);
  EXPECT_EQ(list.hosts[3].address, "fe80::1%eth0");
  EXPECT_EQ(parse_hosts("me@big2\n", "h.txt").hosts[0].address, "big2");
}

TEST(HostList, MistakesAreRefusedByLineWithAValueAndARemedy) {
  EXPECT_EQ(refused("# nobody\n\n"), "h.txt: no host is in it; give one a line: NAME [slots=N] [addr=A]");
  EXPECT_EQ(refused("slots=4\n"), "h.txt:1: slots=4: a line begins with the host's name; give NAME slots=4");
  EXPECT_EQ(
      refused("a\n\na slots=2\n"),
      "h.txt:3: a: the same host as in line 1; a host has one line, and slots=N says how many workers it "
      "has");
  EXPECT_EQ(refused("a addr=10.0.0.1\nb addr=10.0.0.1\n"),
            "h.txt:2: b: its address 10.0.0.1 is that of a in line 1; give each its own addr=");
  EXPECT_EQ(
      refused("a slots=0\n"),
      "h.txt:1: slots=0: not a number of workers from 1 to 256; leave the line out if the host is not to "
      "be used");
  for (const char* const value : {"-1", "257", "two", "1.5", "99999999999999999999"}) {
    EXPECT_EQ(refused("a slots=" + std::string(value)),
              "h.txt:1: slots=" + std::string(value) + ": not a number of workers from 1 to 256; give one");
  }
  EXPECT_EQ(refused("a slots=\n"), "h.txt:1: slots=: no value; give slots=N");
  EXPECT_EQ(refused("a addr\n"), "h.txt:1: addr: no value; give addr=A");
  EXPECT_EQ(refused("a slots=1 slots=1\n"), "h.txt:1: slots=1: slots is given twice; leave one out");
  EXPECT_EQ(refused("a slot=1\n"), "h.txt:1: slot=1: there are slots=N and addr=A; did you mean slots=?");
  EXPECT_EQ(refused("a b\n"), "h.txt:1: b: there are slots=N and addr=A; a host has a line of its own");
}

TEST(HostList, NothingThatSshTakesForAFlagOrAShellForMoreIsAName) {
  for (const char* const name : {"-oProxyCommand=x", "-l", "a;b", "a$b", "`a`", "me@-x", "me@", "@a"}) {
    EXPECT_NE(refused(name), "(accepted)") << name;
  }
  for (const char* const address : {"-x", "a;b", "a@b"}) {
    EXPECT_NE(refused("a addr=" + std::string(address)), "(accepted)") << address;
  }
}

TEST(HostList, TooManyAreRefused) {
  std::string text;
  for (int i = 0; i < kMostHosts; ++i) text += "h" + std::to_string(i) + "\n";
  EXPECT_EQ(refused(text), "(accepted)");
  EXPECT_EQ(refused(text + "more\n"), "h.txt:65: more than 64 hosts; give fewer, with more slots each");
}

TEST(HostList, AFileThatCannotBeReadIsNamed) {
  EXPECT_EQ(refusal([] { read_hosts("/nowhere/h.txt"); }),
            "--hosts /nowhere/h.txt: it cannot be read: No such file or directory; give a file with a host a "
            "line");
  EXPECT_NE(refusal([] { read_hosts("/"); }), "(accepted)");
}

TEST(HostList, SlotsAreTheSameEverywhere) {
  const auto workers = [](const std::string& text, int given) {
    return workers_by_slots(parse_hosts(text, "h.txt"), given);
  };
  EXPECT_EQ(workers("a slots=4\nb slots=4\n", 0), 4);
  EXPECT_EQ(workers("a slots=4\nb slots=4\n", 4), 4);
  EXPECT_EQ(workers("a\nb\n", 3), 0);
  EXPECT_EQ(refusal([&] { workers("a slots=4\nb slots=4\n", 2); }),
            "--workers 2: h.txt says slots=4; leave one of them out");
  const std::string different = refusal([&] { workers("a slots=4\nb slots=8\n", 0); });
  EXPECT_NE(different.find("a has slots=4 and b has slots=8: all hosts have the same number of workers, "
                           "because what a worker owns of the weights it owns on every host"),
            different.npos)
      << different;
  EXPECT_NE(refusal([&] { workers("a slots=4\nb\n", 0); }).find("b has no slots"), std::string::npos);
}

TEST(NodeList, ExpandsNamesAndBrackets) {
  EXPECT_EQ(expand_node_list("b"), (Names{"b"}));
  EXPECT_EQ(expand_node_list("a[01-03,7],b"), (Names{"a01", "a02", "a03", "a7", "b"}));
  EXPECT_EQ(expand_node_list("a[9-11]"), (Names{"a9", "a10", "a11"}));
  EXPECT_EQ(expand_node_list("r[1-2]n[08-09].x,login"),
            (Names{"r1n08.x", "r1n09.x", "r2n08.x", "r2n09.x", "login"}));
}

TEST(NodeList, WhatIsNoNodeListIsRefused) {
  for (const char* const text :
       {"", "a,", ",a", "a[1-3", "a]", "a[1]]", "a[[1]]", "a[]", "a[x]", "a[3-1]", "a[1-2-3]", "a[-1]",
        "a[1,]", "a b", "a[0-999999999]", "-x", "a[0-99][0-99]", "a[9999999999]"}) {
    EXPECT_THROW(expand_node_list(text), std::invalid_argument) << text;
  }
  EXPECT_EQ(refusal([] { expand_node_list("a[3-1]"); }), "the range '3-1' runs backwards");
}

using Environment = std::map<std::string, std::string>;

std::optional<SlurmPlace> place(const Environment& environment) {
  return slurm_place([&](const std::string& name) -> std::optional<std::string> {
    const auto found = environment.find(name);
    return found == environment.end() ? std::nullopt : std::optional(found->second);
  });
}

const Environment kStep = {{"SLURM_NNODES", "3"},
                           {"SLURM_JOB_NODELIST", "a[1-2],b"},
                           {"SLURM_PROCID", "1"},
                           {"SLURM_NODEID", "1"},
                           {"SLURM_NTASKS", "3"}};

Environment changed(const Environment& changes) {
  Environment result = kStep;
  for (const auto& [name, value] : changes) result[name] = value;
  return result;
}

TEST(Slurm, ATaskOnEachNodeIsARunOnAllOfThem) {
  const std::optional<SlurmPlace> found = place(kStep);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->node, 1);
  EXPECT_EQ(found->list.source, "SLURM_JOB_NODELIST");
  ASSERT_EQ(found->list.count(), 3);
  EXPECT_EQ(found->list.hosts[2].name, "b");
  EXPECT_EQ(found->list.hosts[2].address, "b");
  EXPECT_TRUE(place(changed({{"SLURM_NTASKS_PER_NODE", "1"}})));
}

TEST(Slurm, AStepMayHaveFewerNodesThanItsJob) {
  const std::optional<SlurmPlace> found = place(changed({{"SLURM_NNODES", "9"},
                                                         {"SLURM_NTASKS", "9"},
                                                         {"SLURM_STEP_NODELIST", "c[4-5]"},
                                                         {"SLURM_STEP_NUM_NODES", "2"},
                                                         {"SLURM_STEP_NUM_TASKS", "2"}}));
  ASSERT_TRUE(found);
  EXPECT_EQ(found->list.count(), 2);
  EXPECT_EQ(found->list.hosts[1].name, "c5");
}

TEST(Slurm, OneNodeOrNoneIsARunOnThisBox) {
  EXPECT_FALSE(place({}));
  EXPECT_FALSE(place(changed({{"SLURM_NNODES", "1"}})));
  EXPECT_FALSE(place({{"SLURM_NNODES", "3"}}));  // salloc, without srun
}

TEST(Slurm, WhatDoesNotFitTogetherIsRefused) {
  const auto refused = [](const Environment& changes) { return refusal([&] { place(changed(changes)); }); };
  const std::string twice = refused({{"SLURM_NTASKS_PER_NODE", "2"}, {"SLURM_NTASKS", "6"}});
  EXPECT_EQ(twice,
            "Slurm starts 6 tasks on 3 nodes, and this is task 1 on node 1: annulus is started once on each, "
            "and starts its workers itself; give srun --ntasks-per-node=1");
  EXPECT_NE(refused({{"SLURM_NTASKS", "4"}}), "(accepted)");
  EXPECT_NE(refused({{"SLURM_NODEID", "0"}}), "(accepted)");
  EXPECT_NE(refused({{"SLURM_PROCID", "3"}, {"SLURM_NODEID", "3"}}), "(accepted)");
  EXPECT_EQ(refused({{"SLURM_NNODES", "2"}, {"SLURM_NTASKS", "2"}}),
            "SLURM_JOB_NODELIST=a[1-2],b has 3 hosts, and SLURM_NNODES=2; start annulus train with srun");
  EXPECT_EQ(refused({{"SLURM_JOB_NODELIST", "a[1-"}}),
            "SLURM_JOB_NODELIST=a[1-: a [ without its ]; give --hosts FILE and --node K instead");
  EXPECT_EQ(refused({{"SLURM_PROCID", "x"}}),
            "SLURM_PROCID=x: not a whole number from 0 to 100000000; start annulus train with srun");
  Environment without = kStep;
  without.erase("SLURM_JOB_NODELIST");
  EXPECT_EQ(refusal([&] { place(without); }),
            "SLURM_NNODES=3, but SLURM_JOB_NODELIST is not set; start annulus train with srun");
}

}  // namespace
}  // namespace annulus
