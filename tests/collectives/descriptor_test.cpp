#include "collectives/descriptor.h"

#include <gtest/gtest.h>

#include <functional>

#include "telemetry/error.h"

namespace annulus {
namespace {

const Descriptor kExpected{.step = 17,
                           .attempt = 2,
                           .phase = Phase::kStep,
                           .type = Payload::kRunningSum,
                           .round = 3,
                           .source = 5,
                           .bucket = 1,
                           .chunk = 4,
                           .slice = 6,
                           .place = 4096,
                           .length = 512};

std::string error_of(const Descriptor& got) {
  try {
    validate(got, kExpected, 9);
  } catch (const StepError& error) {
    return error.what();
  }
  return "";
}

TEST(Descriptor, that_fits_passes) { EXPECT_EQ(error_of(kExpected), ""); }

TEST(Descriptor, that_differs_in_any_field_is_refused_with_field_values_and_both_ranks) {
  const std::vector<std::pair<std::string, std::function<void(Descriptor&)>>> faults = {
      {"step is 16, where 17 was due", [](Descriptor& d) { --d.step; }},
      {"attempt is 3, where 2 was due", [](Descriptor& d) { ++d.attempt; }},
      {"phase is 0, where 1 was due", [](Descriptor& d) { d.phase = Phase{0}; }},
      {"type is 1, where 2 was due", [](Descriptor& d) { d.type = Payload::kInput; }},
      {"round is 4, where 3 was due", [](Descriptor& d) { ++d.round; }},
      {"source is 4, where 5 was due", [](Descriptor& d) { --d.source; }},
      {"bucket is 2, where 1 was due", [](Descriptor& d) { ++d.bucket; }},
      {"chunk is 5, where 4 was due", [](Descriptor& d) { ++d.chunk; }},
      {"slice is 7, where 6 was due", [](Descriptor& d) { ++d.slice; }},
      {"place is 4160, where 4096 was due", [](Descriptor& d) { d.place += 64; }},
      {"length is 513, where 512 was due", [](Descriptor& d) { ++d.length; }},
      {"call (operation, type, algorithm, buffers) is 1, where 0 was due",
       [](Descriptor& d) { d.call = 1; }}};
  for (const auto& [text, fault] : faults) {
    Descriptor got = kExpected;
    fault(got);
    const std::string error = error_of(got);
    EXPECT_NE(error.find(text), std::string::npos) << error;
    EXPECT_NE(error.find("rank 9 took from rank 5"), std::string::npos) << error;
  }
}

}  // namespace
}  // namespace annulus
