// What a host takes of what the first one has sent.
#include "launcher/host_session.h"

#include <gtest/gtest.h>

#include "telemetry/error.h"

namespace annulus {
namespace {

const HostList kList = [] {
  HostList list;
  list.source = "hosts";
  list.hosts = {{"a", "10.0.0.1", 2}, {"b", "10.0.0.2", 2}};
  return list;
}();

HostStart start(std::vector<std::vector<uint16_t>> ports, uint32_t step) {
  return {.job = 1, .ports = std::move(ports), .step = step, .run_dir = "run"};
}

std::string refusal(const HostStart& start, const std::vector<uint32_t>& offered) {
  try {
    check_start(start, kList, 2, offered);
  } catch (const UserError& error) {
    return error.what();
  }
  return "(accepted)";
}

TEST(HostSession, TakesAStartThatFits) {
  EXPECT_EQ(refusal(start({{1, 2}, {3, 4}}, 0), {}), "(accepted)");
  EXPECT_EQ(refusal(start({{1, 2}, {3, 4}}, 7), {9, 7}), "(accepted)");
}

TEST(HostSession, RefusesPortsOfOtherWorkersOrHosts) {
  for (const auto& [ports, what] : std::vector<std::pair<std::vector<std::vector<uint16_t>>, std::string>>{
           {{{1, 2}}, "counts other hosts"},
           {{{1, 2}, {3}}, "has sent 1 ports of b, which has 2 workers"},
           {{{}, {3, 4}}, "has sent 0 ports of a, which has 2 workers"},
           {{{1, 2}, {3, 4, 5}}, "has sent 3 ports of b, which has 2 workers"}}) {
    EXPECT_EQ(refusal(start(ports, 0), {}), "a, the first host, " + what + "; is it of the same version?");
  }
}

TEST(HostSession, RefusesAStepThatItHasNotOffered) {
  for (const std::vector<uint32_t>& offered : {std::vector<uint32_t>{9, 7}, std::vector<uint32_t>{}}) {
    EXPECT_EQ(refusal(start({{1, 2}, {3, 4}}, 8), offered),
              "a, the first host, goes on from step 8, of which this one has offered no checkpoint; is it of "
              "the same version?");
  }
}

}  // namespace
}  // namespace annulus
