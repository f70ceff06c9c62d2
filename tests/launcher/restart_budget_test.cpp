#include "launcher/restart_budget.h"

#include <gtest/gtest.h>

namespace annulus {
namespace {

TEST(RestartBudget, of_zero_has_none) {
  RestartBudget budget(0);
  EXPECT_FALSE(budget.take(1));
  EXPECT_EQ(budget.used(), 0);
}

TEST(RestartBudget, gives_so_many_in_a_thousand_steps) {
  RestartBudget budget(2);
  EXPECT_TRUE(budget.take(10));
  EXPECT_TRUE(budget.take(500));
  EXPECT_FALSE(budget.take(1009));
  EXPECT_TRUE(budget.take(1010));  // the one of step 10 is a thousand steps ago
  EXPECT_FALSE(budget.take(1499));
  EXPECT_TRUE(budget.take(1500));
  EXPECT_EQ(budget.used(), 2);
}

TEST(RestartBudget, counts_deaths_in_one_step_one_by_one) {
  RestartBudget budget(3);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(budget.take(7));
  EXPECT_FALSE(budget.take(7));
}

}  // namespace
}  // namespace annulus
