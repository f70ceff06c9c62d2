// What the box's administrator or container allows: CPU quota and memory.
//
// Both kinds of cgroups are read, for every ancestor of our own group up to the mount, because a limit
// anywhere on that path binds. `root` stands before every path that is read, so that tests can lay out a
// system in a directory. Files that are absent, unreadable or without a number set no limit.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace annulus {

struct CpuQuota {
  double cpus = 0;     // CPU time per time; 0: no quota
  std::string source;  // the file that sets it, without `root`
};

struct AvailableMemory {
  int64_t bytes = 0;  // never negative; INT64_MAX where nothing is known
  std::string
      source;  // the limit that binds: "MemAvailable in /proc/meminfo" or a cgroup's file, without `root`
};

// The smallest CPU quota on the path: cpu.max (v2), cpu.cfs_quota_us over cpu.cfs_period_us (v1).
CpuQuota read_cpu_quota(const std::filesystem::path& root = "/");

// How many bytes can be taken now without meeting a limit: the minimum of MemAvailable and, for every
// ancestor, memory.max and memory.high (v2) or memory.limit_in_bytes (v1) minus its use. Page cache of files
// counts as free: the kernel drops it before it refuses anything.
AvailableMemory available_memory(const std::filesystem::path& root = "/");

// How many processes the out-of-memory killer has ended: for every ancestor group the count of memory.events
// (v2) or memory.oom_control (v1), then the whole machine's in /proc/vmstat.
struct OomKills {
  std::string source;  // the file, without `root`
  int64_t count = 0;
};
std::vector<OomKills> read_oom_kills(const std::filesystem::path& root = "/");

// The first source whose count has risen since `before`; empty: none has.
std::string oom_killed_since(const std::vector<OomKills>& before, const std::vector<OomKills>& now);

}  // namespace annulus
