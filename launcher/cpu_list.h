// CPU lists as Linux writes them: "0-3,8".
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

namespace annulus {

// "0-3,8" -> {0, 1, 2, 3, 8}, in the order given, duplicates included. Throws std::invalid_argument whose
// text says what is wrong and where; callers add the flag that the text came from. No index may exceed
// kLargestCpu.
std::vector<int> parse_cpu_list(std::string_view text);
constexpr int kLargestCpu = 65535;

// {3, 1, 2, 8} -> "1-3,8": sorted, runs of two or more as a range. "none" for an empty list.
std::string format_cpu_list(std::vector<int> cpus);

// The CPUs that a process (0: the caller) may run on, ascending: what sched_getaffinity says. Throws
// std::system_error when the process is gone or may not be asked.
std::vector<int> read_affinity(pid_t pid);

}  // namespace annulus
