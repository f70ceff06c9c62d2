// Limits read from systems laid out in a temporary directory.
#include "launcher/limits.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <string>

namespace annulus {
namespace {

namespace fs = std::filesystem;

constexpr const char* kV2Mount = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";

class LimitsTest : public ::testing::Test {
 protected:
  LimitsTest() {
    std::string pattern = (fs::temp_directory_path() / "limits-XXXXXX").string();
    root_ = mkdtemp(pattern.data());
  }
  ~LimitsTest() override { fs::remove_all(root_); }

  void write(const std::string& path, const std::string& text) {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }

  fs::path root_;
};

TEST_F(LimitsTest, EmptySystemHasNoLimits) {
  EXPECT_EQ(read_cpu_quota(root_).cpus, 0);
  EXPECT_EQ(available_memory(root_).bytes, std::numeric_limits<int64_t>::max());
}

TEST_F(LimitsTest, SmallestQuotaOfAllAncestorsBinds) {
  write("proc/self/mountinfo", kV2Mount);
  write("proc/self/cgroup", "0::/user/job/step\n");
  write("sys/fs/cgroup/user/cpu.max", "150000 100000\n");
  write("sys/fs/cgroup/user/job/cpu.max", "800000 200000\n");
  write("sys/fs/cgroup/user/job/step/cpu.max", "max 100000\n");
  CpuQuota quota = read_cpu_quota(root_);
  EXPECT_DOUBLE_EQ(quota.cpus, 1.5);
  EXPECT_EQ(quota.source, "/sys/fs/cgroup/user/cpu.max");
}

TEST_F(LimitsTest, OtherGroupsDoNotBind) {
  write("proc/self/mountinfo", kV2Mount);
  write("proc/self/cgroup", "0::/a/b\n");
  write("sys/fs/cgroup/a/c/cpu.max", "1000 100000\n");
  write("sys/fs/cgroup/a/b/d/cpu.max", "1000 100000\n");
  EXPECT_EQ(read_cpu_quota(root_).cpus, 0);
}

TEST_F(LimitsTest, VersionOneQuotaOverPeriod) {
  write("proc/self/mountinfo",
        "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
        "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n");
  write("proc/self/cgroup", "4:memory:/\n3:cpu,cpuacct:/job\n0::/\n");
  write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
  write("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "100000\n");
  write("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "50000\n");
  CpuQuota quota = read_cpu_quota(root_);
  EXPECT_DOUBLE_EQ(quota.cpus, 2);
  EXPECT_EQ(quota.source, "/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us");
}

TEST_F(LimitsTest, ContainerThatMountsItsOwnGroupAsTheRoot) {
  write("proc/self/mountinfo", "30 24 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n");
  write("proc/self/cgroup", "0::/docker/abc/inner\n");
  write("sys/fs/cgroup/cpu.max", "300000 100000\n");
  write("sys/fs/cgroup/inner/cpu.max", "400000 100000\n");
  EXPECT_DOUBLE_EQ(read_cpu_quota(root_).cpus, 3);
  write("proc/self/cgroup", "0::/../../elsewhere\n");
  EXPECT_DOUBLE_EQ(read_cpu_quota(root_).cpus, 3);
}

TEST_F(LimitsTest, MountPointWithASpace) {
  write("proc/self/mountinfo", "30 24 0:26 / /sys/my\\040cgroup rw - cgroup2 cgroup2 rw\n");
  write("proc/self/cgroup", "0::/\n");
  write("sys/my cgroup/cpu.max", "200000 100000\n");
  EXPECT_DOUBLE_EQ(read_cpu_quota(root_).cpus, 2);
}

TEST_F(LimitsTest, MemAvailableBindsWithoutCgroups) {
  write("proc/meminfo", "MemTotal:  8000 kB\nMemAvailable:   5000 kB\n");
  AvailableMemory memory = available_memory(root_);
  EXPECT_EQ(memory.bytes, 5000 * 1024);
  EXPECT_EQ(memory.source, "MemAvailable in /proc/meminfo");
}

TEST_F(LimitsTest, TightestAncestorBindsAfterItsUse) {
  write("proc/meminfo", "MemAvailable: 99999999 kB\n");
  write("proc/self/mountinfo", kV2Mount);
  write("proc/self/cgroup", "0::/a/b\n");
  write("sys/fs/cgroup/a/memory.max", "1000000\n");
  write("sys/fs/cgroup/a/memory.current", "900000\n");
  write("sys/fs/cgroup/a/b/memory.max", "500000\n");
  write("sys/fs/cgroup/a/b/memory.current", "100000\n");
  AvailableMemory memory = available_memory(root_);
  EXPECT_EQ(memory.bytes, 100000);
  EXPECT_EQ(memory.source, "/sys/fs/cgroup/a/memory.max");
}

TEST_F(LimitsTest, PageCacheCountsAsFree) {
  write("proc/self/mountinfo", kV2Mount);
  write("proc/self/cgroup", "0::/a\n");
  write("sys/fs/cgroup/a/memory.max", "1000000\n");
  write("sys/fs/cgroup/a/memory.current", "990000\n");
  write("sys/fs/cgroup/a/memory.stat", "anon 90000\nfile 900000\ninactive_file 600000\nactive_file 300000\n");
  EXPECT_EQ(available_memory(root_).bytes, 910000);
}

TEST_F(LimitsTest, UseAboveTheLimitLeavesNothing) {
  write("proc/self/mountinfo", kV2Mount);
  write("proc/self/cgroup", "0::/a\n");
  write("sys/fs/cgroup/a/memory.max", "1000\n");
  write("sys/fs/cgroup/a/memory.current", "5000\n");
  EXPECT_EQ(available_memory(root_).bytes, 0);
}

TEST_F(LimitsTest, MemoryHighBindsLikeAMaximum) {
  write("proc/self/mountinfo", kV2Mount);
  write("proc/self/cgroup", "0::/a\n");
  write("sys/fs/cgroup/a/memory.max", "max\n");
  write("sys/fs/cgroup/a/memory.high", "7000\n");
  EXPECT_EQ(available_memory(root_).source, "/sys/fs/cgroup/a/memory.high");
}

TEST_F(LimitsTest, VersionOneMemory) {
  write("proc/self/mountinfo", "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
  write("proc/self/cgroup", "4:memory:/x/y\n");
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  write("sys/fs/cgroup/memory/memory.usage_in_bytes", "123\n");
  write("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "4096000\n");
  write("sys/fs/cgroup/memory/x/memory.usage_in_bytes", "1096000\n");
  write("sys/fs/cgroup/memory/x/memory.stat", "inactive_file 5\ntotal_inactive_file 6000\n");
  AvailableMemory memory = available_memory(root_);
  EXPECT_EQ(memory.bytes, 3006000);
  EXPECT_EQ(memory.source, "/sys/fs/cgroup/memory/x/memory.limit_in_bytes");
}

TEST_F(LimitsTest, ThisSystemHasSomeMemory) { EXPECT_GT(available_memory().bytes, 0); }

TEST_F(LimitsTest, KillsOfTheOutOfMemoryKillerAreFoundInTheNearestGroupThatCountsThem) {
  write("proc/self/mountinfo", kV2Mount);
  write("proc/self/cgroup", "0::/job/step\n");
  write("sys/fs/cgroup/job/step/memory.events", "low 0\noom 1\noom_kill 0\n");
  write("sys/fs/cgroup/job/memory.events", "oom_kill 4\n");
  write("proc/vmstat", "oom_kill 7\n");
  const std::vector<OomKills> before = read_oom_kills(root_);
  EXPECT_EQ(oom_killed_since(before, read_oom_kills(root_)), "");
  write("proc/vmstat", "oom_kill 8\n");
  EXPECT_EQ(oom_killed_since(before, read_oom_kills(root_)), "/proc/vmstat");
  write("sys/fs/cgroup/job/memory.events", "oom_kill 5\n");
  EXPECT_EQ(oom_killed_since(before, read_oom_kills(root_)), "/sys/fs/cgroup/job/memory.events");
}

TEST_F(LimitsTest, KillsOfTheOutOfMemoryKillerAreCountedInOldGroups) {
  write("proc/self/mountinfo", "31 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
  write("proc/self/cgroup", "4:memory:/job\n");
  write("sys/fs/cgroup/memory/job/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n");
  const std::vector<OomKills> before = read_oom_kills(root_);
  write("sys/fs/cgroup/memory/job/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n");
  EXPECT_EQ(oom_killed_since(before, read_oom_kills(root_)), "/sys/fs/cgroup/memory/job/memory.oom_control");
}

}  // namespace
}  // namespace annulus
