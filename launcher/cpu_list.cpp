#include "launcher/cpu_list.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <memory>
#include <stdexcept>
#include <system_error>

namespace annulus {

namespace {

int parse_cpu(std::string_view text, std::string_view item) {
  int cpu = -1;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), cpu);
  if (text.empty() || error != std::errc() || end != text.data() + text.size() || cpu < 0) {
    throw std::invalid_argument(fmt::format("'{}' is neither a CPU number nor a range like 0-3", item));
  }
  if (cpu > kLargestCpu) throw std::invalid_argument(fmt::format("'{}' is above {}", item, kLargestCpu));
  return cpu;
}

}  // namespace

std::vector<int> parse_cpu_list(std::string_view text) {
  std::vector<int> cpus;
  for (size_t begin = 0; begin <= text.size();) {
    size_t comma = std::min(text.find(',', begin), text.size());
    std::string_view item = text.substr(begin, comma - begin);
    begin = comma + 1;
    size_t dash = item.find('-');
    if (dash == std::string_view::npos) {
      cpus.push_back(parse_cpu(item, item));
      continue;
    }
    int first = parse_cpu(item.substr(0, dash), item);
    int last = parse_cpu(item.substr(dash + 1), item);
    if (last < first) throw std::invalid_argument(fmt::format("the range '{}' runs backwards", item));
    for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
  }
  return cpus;
}

std::string format_cpu_list(std::vector<int> cpus) {
  if (cpus.empty()) return "none";
  std::sort(cpus.begin(), cpus.end());
  std::string text;
  for (size_t i = 0; i < cpus.size();) {
    size_t j = i;
    while (j + 1 < cpus.size() && cpus[j + 1] <= cpus[j] + 1) ++j;
    if (!text.empty()) text += ',';
    text += cpus[i] == cpus[j] ? fmt::format("{}", cpus[i]) : fmt::format("{}-{}", cpus[i], cpus[j]);
    i = j + 1;
  }
  return text;
}

std::vector<int> read_affinity(pid_t pid) {
  // The kernel refuses masks shorter than its own, whose length only it knows: grow until it fits.
  for (int capacity = 1024;; capacity *= 2) {
    std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> mask(CPU_ALLOC(capacity),
                                                          [](cpu_set_t* m) { CPU_FREE(m); });
    size_t bytes = CPU_ALLOC_SIZE(capacity);
    CPU_ZERO_S(bytes, mask.get());
    if (sched_getaffinity(pid, bytes, mask.get()) != 0) {
      if (errno == EINVAL && capacity <= kLargestCpu) continue;
      throw std::system_error(errno, std::generic_category(), fmt::format("sched_getaffinity({})", pid));
    }
    std::vector<int> cpus;
    for (int cpu = 0; cpu < capacity; ++cpu) {
      if (CPU_ISSET_S(cpu, bytes, mask.get())) cpus.push_back(cpu);
    }
    return cpus;
  }
}

}  // namespace annulus
