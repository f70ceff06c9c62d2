#include "telemetry/check.h"

#include <gtest/gtest.h>

namespace annulus {
namespace {

TEST(CheckDeathTest, stops_with_file_line_condition_and_values) {
  const int answer = 41;
  EXPECT_DEATH(CHECK(answer == 42, "rank {} of {}", 3, 4),
               "check_test.cpp:[0-9]+: broken invariant: answer == 42: rank 3 of 4");
}

TEST(CheckDeathTest, needs_no_message) { EXPECT_DEATH(CHECK(1 > 2), "broken invariant: 1 > 2\n"); }

TEST(Check, evaluates_its_condition_once_and_goes_on) {
  int calls = 0;
  CHECK(++calls == 1, "{}", calls);
  EXPECT_EQ(calls, 1);
}

TEST(Check, is_one_statement) {
  const bool never = false;
  if (never)
    CHECK(false);
  else
    SUCCEED();
}

}  // namespace
}  // namespace annulus
