#include "launcher/host_preflight.h"

#include <gtest/gtest.h>

namespace annulus {
namespace {

using Saved = HostReport::Saved;

HostReport report(const std::string& lr, const std::string& isa, uint16_t port,
                  std::vector<Saved> saved = {}) {
  return {.facts = {{"version", "0.1.0 (abc)"}, {"instruction set", isa}, {"lr", lr}},
          .ports = {port, static_cast<uint16_t>(port + 1)},
          .checkpoints = std::move(saved)};
}

TEST(HostPreflight, HostsThatFitStartWithThePortsOfAll) {
  HostPreflight preflight({"a", "b", "c"});
  preflight.joined(0, report("0.1", "avx512_core", 10));
  preflight.joined(2, report("0.1", "avx512_core", 30));
  EXPECT_FALSE(preflight.complete());
  EXPECT_TRUE(preflight.has_joined(2));
  EXPECT_FALSE(preflight.has_joined(1));
  preflight.joined(1, report("0.1", "avx512_core", 20));
  ASSERT_TRUE(preflight.complete());
  EXPECT_EQ(preflight.table(), "");
  const HostStart start = preflight.start();
  EXPECT_EQ(start.ports, (std::vector<std::vector<uint16_t>>{{10, 11}, {20, 21}, {30, 31}}));
  EXPECT_EQ(start.step, 0u);
}

TEST(HostPreflight, TheTableSaysWhatIsWrongWhere) {
  HostPreflight preflight({"big1", "b", "big3", "d"});
  preflight.joined(0, report("0.1", "avx512_core_amx", 10));
  preflight.joined(1, report("0.2", "avx2", 20));
  preflight.joined(3, report("0.1", "avx512_core_amx", 40));
  preflight.failed(2, "unreachable: it did not come within 60 s");
  preflight.failed(2, "another reason");
  ASSERT_TRUE(preflight.complete());
  EXPECT_EQ(preflight.table(),
            "  host | what            | on big1         | there\n"
            "  b    | instruction set | avx512_core_amx | avx2\n"
            "  b    | lr              | 0.1             | 0.2\n"
            "  big3 | unreachable: it did not come within 60 s");
}

TEST(HostPreflight, AHostThatHasLeftAgainIsInTheTable) {
  HostPreflight preflight({"a", "b"});
  preflight.joined(0, report("0.1", "avx2", 10));
  preflight.joined(1, report("0.1", "avx2", 20));
  preflight.failed(1, "it closed the connection");
  EXPECT_EQ(preflight.table(), "  b    | it closed the connection");
}

TEST(HostPreflight, FactsThatOneVersionAloneHasAreDifferences) {
  HostPreflight preflight({"a", "b"});
  HostReport old = report("0.1", "avx2", 10), young = report("0.1", "avx2", 20);
  old.facts.emplace_back("gone", "1");
  young.facts.emplace_back("new", "2");
  young.ports.pop_back();
  preflight.joined(0, old);
  preflight.joined(1, young);
  EXPECT_EQ(preflight.table(),
            "  host | what  | on a      | there\n"
            "  b    | gone  | 1         | not known\n"
            "  b    | new   | not known | 2\n"
            "  b    | ports | 2         | 1");
}

TEST(HostPreflight, AResumedRunGoesOnFromTheLatestStepThatAllHave) {
  HostPreflight preflight({"a", "b"});
  preflight.joined(0, report("0.1", "avx2", 10, {{30, "x"}, {20, "y"}, {10, "z"}}));
  preflight.joined(1, report("0.1", "avx2", 20, {{10, "z"}, {20, "y"}}));
  EXPECT_EQ(preflight.table(), "");
  EXPECT_EQ(preflight.start().step, 20u);
}

TEST(HostPreflight, CheckpointsMustBeOfTheSameStepAndWeights) {
  HostPreflight other({"a", "b", "c"});
  other.joined(0, report("0.1", "avx2", 10, {{30, "x"}, {20, "y"}}));
  other.joined(1, report("0.1", "avx2", 20, {{30, "x"}, {20, "y"}}));
  other.joined(2, report("0.1", "avx2", 30, {{30, "w"}, {20, "y"}}));
  EXPECT_EQ(other.table(),
            "  host | what                                 | on a | there\n"
            "  c    | weights of the checkpoint of step 30 | x    | w");
  HostPreflight none({"a", "b", "c"});
  none.joined(0, report("0.1", "avx2", 10, {{30, "x"}}));
  none.joined(1, report("0.1", "avx2", 20, {{29, "v"}, {28, "u"}}));
  none.joined(2, report("0.1", "avx2", 30));
  EXPECT_EQ(none.table(),
            "  host | what                               | on a    | there\n"
            "  b    | checkpoints (none is on all hosts) | step 30 | steps 29, 28\n"
            "  c    | checkpoints (none is on all hosts) | step 30 | no checkpoint");
}

}  // namespace
}  // namespace annulus
