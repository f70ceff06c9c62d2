#include "launcher/thresholds.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <limits>

namespace annulus {
namespace {

class ThresholdsFile : public testing::Test {
 protected:
  ThresholdsFile() {
    char name[] = "/tmp/annulus-thresholds-XXXXXX";
    directory_ = mkdtemp(name);
    setenv("XDG_CACHE_HOME", directory_.c_str(), 1);
  }
  ~ThresholdsFile() override { std::filesystem::remove_all(directory_); }
  std::filesystem::path directory_;
};

TEST_F(ThresholdsFile, keeps_what_was_written_for_each_key) {
  const std::filesystem::path file = thresholds_file();
  EXPECT_EQ(file, directory_ / "annulus" / "thresholds.json");
  EXPECT_FALSE(read_thresholds(file, "a"));
  EXPECT_TRUE(write_thresholds(file, "a", {.hierarchical_bytes = 4096}));
  EXPECT_TRUE(write_thresholds(file, "b", {.hierarchical_bytes = std::numeric_limits<int64_t>::max()}));
  EXPECT_TRUE(write_thresholds(file, "a", {.hierarchical_bytes = 8192}));
  EXPECT_EQ(read_thresholds(file, "a")->hierarchical_bytes, 8192);
  EXPECT_EQ(read_thresholds(file, "b")->hierarchical_bytes, std::numeric_limits<int64_t>::max());
  EXPECT_FALSE(read_thresholds(file, "c"));
}

TEST_F(ThresholdsFile, that_is_damaged_counts_as_empty_and_is_replaced) {
  const std::filesystem::path file = thresholds_file();
  for (const char* const text : {"", "no json", "[1]", "{\"a\": 3}", "{\"a\": {\"hierarchical_bytes\": -1}}",
                                 "{\"a\": {\"hierarchical_bytes\": \"x\"}}"}) {
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
    EXPECT_FALSE(read_thresholds(file, "a")) << text;
    EXPECT_TRUE(write_thresholds(file, "a", {.hierarchical_bytes = 1})) << text;
    EXPECT_EQ(read_thresholds(file, "a")->hierarchical_bytes, 1) << text;
  }
}

TEST_F(ThresholdsFile, that_cannot_be_written_is_no_error) {
  std::ofstream(directory_ / "annulus") << "a file where the directory should be";
  EXPECT_FALSE(write_thresholds(thresholds_file(), "a", {}));
}

TEST_F(ThresholdsFile, is_measured_at_first_use_and_read_at_the_next) {
  const Machine machine = Machine::this_machine();
  if (machine.allowed_cpus().size() < 2) GTEST_SKIP() << "SKIPPED: needs two CPUs";
  const Placement placement = plan_placement(machine, {.workers = 2});
  if (!placement.exclusive) GTEST_SKIP() << "SKIPPED: two ranks have to take turns here";
  const DomainPlan pretended{.domains = pretend_domains(2, 2), .level = "L3", .why_one = ""};
  EXPECT_FALSE(machine_thresholds(machine, placement, pretended, false));
  const auto measured = machine_thresholds(machine, placement, pretended, true);
  ASSERT_TRUE(measured);
  EXPECT_GT(measured->hierarchical_bytes, 0);
  EXPECT_EQ(machine_thresholds(machine, placement, pretended, false)->hierarchical_bytes,
            measured->hierarchical_bytes);
}

TEST_F(ThresholdsFile, is_not_asked_where_there_is_nothing_to_choose) {
  const Machine machine = Machine::this_machine();
  const Placement placement = plan_placement(machine, {.workers = 1});
  EXPECT_FALSE(
      machine_thresholds(machine, placement, {.domains = {{0, 1}}, .level = "", .why_one = "one"}, true));
  EXPECT_FALSE(std::filesystem::exists(thresholds_file()));
}

TEST(Thresholds, have_keys_that_differ_by_machine_ranks_and_domains) {
  const Machine one = Machine::synthetic("numa:2 core:4 pu:1"),
                other = Machine::synthetic("numa:4 core:2 pu:1");
  const DomainPlan two{.domains = pretend_domains(8, 2), .level = "NUMA node", .why_one = ""};
  const DomainPlan four{.domains = pretend_domains(8, 4), .level = "NUMA node", .why_one = ""};
  EXPECT_NE(thresholds_key(one, two, 8), thresholds_key(other, two, 8));
  EXPECT_NE(thresholds_key(one, two, 8), thresholds_key(one, four, 8));
  EXPECT_NE(thresholds_key(one, two, 8), thresholds_key(one, two, 6));
}

}  // namespace
}  // namespace annulus
