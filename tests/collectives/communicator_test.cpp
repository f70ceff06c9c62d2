// One conformance suite: every collective over every transport with every algorithm, number of ranks, count
// and type against a plain loop, bit by bit. Ranks are threads here, so that ThreadSanitizer sees every
// access; communicator_process_test.cpp runs them as processes.
#include "collectives/communicator.h"

#include <gtest/gtest.h>

#include "tests/collectives/conformance.h"

namespace annulus {
namespace {

class Conformance : public testing::TestWithParam<conformance::Group> {};

TEST_P(Conformance, every_collective_gives_the_bits_of_the_plain_loop) {
  conformance::run_group(GetParam(), conformance::run_as_threads);
}

INSTANTIATE_TEST_SUITE_P(Threads, Conformance,
                         testing::ValuesIn(conformance::groups(conformance::Over::kMemory)),
                         [](const auto& info) { return info.param.name(); });
INSTANTIATE_TEST_SUITE_P(ThreadsOverTcp, Conformance,
                         testing::ValuesIn(conformance::groups(conformance::Over::kTcp)),
                         [](const auto& info) { return info.param.name(); });

}  // namespace
}  // namespace annulus
