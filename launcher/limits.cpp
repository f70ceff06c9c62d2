#include "launcher/limits.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <vector>

namespace annulus {

namespace {

namespace fs = std::filesystem;

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

// One directory on the way from our cgroup to its mount point, without `root`.
struct Group {
  fs::path directory;
  bool v2;
};

struct Mount {
  fs::path group;  // the cgroup that is mounted
  fs::path point;
  bool v2;
  std::string options;  // v1: its controllers are among them
};

bool has_word(const std::string& list, const std::string& word) {
  return ("," + list + ",").find("," + word + ",") != std::string::npos;
}

// mountinfo writes a space as \040 and so on.
std::string unescape(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      out += static_cast<char>(std::stoi(text.substr(i + 1, 3), nullptr, 8));
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

std::vector<Mount> read_cgroup_mounts(const fs::path& root) {
  std::vector<Mount> mounts;
  std::ifstream file(root / "proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    // 35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
    size_t dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    std::istringstream front(line.substr(0, dash)), back(line.substr(dash + 3));
    std::string id, parent, device, group, point, type, source, options;
    front >> id >> parent >> device >> group >> point;
    back >> type >> source >> options;
    if (type != "cgroup" && type != "cgroup2") continue;
    mounts.push_back({unescape(group), unescape(point), type == "cgroup2", options});
  }
  return mounts;
}

// Every cgroup whose limits of `controller` bind this process, from our own upwards.
std::vector<Group> find_groups(const fs::path& root, const std::string& controller) {
  std::vector<Group> groups;
  std::vector<Mount> mounts = read_cgroup_mounts(root);
  std::ifstream file(root / "proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    // v2: "0::/user.slice/run"; v1: "4:memory:/run"
    size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    std::string controllers = line.substr(first + 1, second - first - 1);
    bool v2 = controllers.empty();
    if (!v2 && !has_word(controllers, controller)) continue;
    fs::path own = line.substr(second + 1);
    for (const Mount& mount : mounts) {
      if (mount.v2 != v2 || (!v2 && !has_word(mount.options, controller))) continue;
      // A container may mount a group below the real root, and a namespace may show us above it ("/../x").
      fs::path below = own.lexically_relative(mount.group);
      if (below.empty() || *below.begin() == "..") below = ".";
      fs::path directory = (mount.point / below).lexically_normal();
      if (!directory.has_filename()) directory = directory.parent_path();
      for (;; directory = directory.parent_path()) {
        groups.push_back({directory, v2});
        if (directory == mount.point || directory == directory.parent_path()) break;
      }
      break;  // a second mount of the same hierarchy shows the same groups
    }
  }
  return groups;
}

// The number at the beginning of a file; none when the file is absent or begins with something else ("max").
std::optional<int64_t> read_number(const fs::path& root, const fs::path& path) {
  std::ifstream file(root / path.relative_path());
  int64_t value = 0;
  if (file >> value) return value;
  return std::nullopt;
}

// The value of "key value" or "key: value kB" in a file; 0 when it is not there.
int64_t read_key(const fs::path& root, const fs::path& path, const std::string& key) {
  std::ifstream file(root / path.relative_path());
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name;
    int64_t value = 0;
    if (words >> name >> value && name == key) return value;
  }
  return 0;
}

// Bytes that a group uses and cannot give back.
int64_t read_use(const fs::path& root, const Group& group) {
  const char* current = group.v2 ? "memory.current" : "memory.usage_in_bytes";
  // v1 keeps the sums over the whole subtree, which its usage counts, under total_*.
  const char* inactive = group.v2 ? "inactive_file" : "total_inactive_file";
  const char* active = group.v2 ? "active_file" : "total_active_file";
  fs::path stat = group.directory / "memory.stat";
  int64_t cache = read_key(root, stat, inactive) + read_key(root, stat, active);
  return std::max<int64_t>(0, read_number(root, group.directory / current).value_or(0) - cache);
}

}  // namespace

CpuQuota read_cpu_quota(const fs::path& root) {
  CpuQuota quota;
  for (const Group& group : find_groups(root, "cpu")) {
    fs::path path = group.directory / (group.v2 ? "cpu.max" : "cpu.cfs_quota_us");
    std::ifstream file(root / path.relative_path());
    int64_t time = 0, period = 100000;  // v2: "max 100000" or "150000 100000"
    if (!(file >> time) || time <= 0) continue;
    if (group.v2) {
      if (!(file >> period)) period = 100000;
    } else {
      period = read_number(root, group.directory / "cpu.cfs_period_us").value_or(period);
    }
    if (period <= 0) continue;
    double cpus = static_cast<double>(time) / static_cast<double>(period);
    if (quota.cpus == 0 || cpus < quota.cpus) quota = {cpus, path.string()};
  }
  return quota;
}

AvailableMemory available_memory(const fs::path& root) {
  AvailableMemory least{kUnlimited, "no known limit"};
  if (int64_t kib = read_key(root, "proc/meminfo", "MemAvailable:"); kib > 0) {
    least = {kib * 1024, "MemAvailable in /proc/meminfo"};
  }
  for (const Group& group : find_groups(root, "memory")) {
    for (const char* name : {"memory.max", "memory.high", "memory.limit_in_bytes"}) {
      fs::path path = group.directory / name;
      std::optional<int64_t> limit = read_number(root, path);
      if (!limit || *limit < 0) continue;
      int64_t left = std::max<int64_t>(0, *limit - read_use(root, group));
      if (left < least.bytes) least = {left, path.string()};
    }
  }
  return least;
}

std::vector<OomKills> read_oom_kills(const fs::path& root) {
  std::vector<OomKills> all;
  for (const Group& group : find_groups(root, "memory")) {
    const fs::path path = group.directory / (group.v2 ? "memory.events" : "memory.oom_control");
    all.push_back({path.string(), read_key(root, path, "oom_kill")});
  }
  all.push_back({"/proc/vmstat", read_key(root, "proc/vmstat", "oom_kill")});
  return all;
}

std::string oom_killed_since(const std::vector<OomKills>& before, const std::vector<OomKills>& now) {
  for (std::size_t i = 0; i < std::min(before.size(), now.size()); ++i) {
    if (now[i].source == before[i].source && now[i].count > before[i].count) return now[i].source;
  }
  return "";
}

}  // namespace annulus
