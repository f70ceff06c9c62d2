// The machine and the plan as plain text, for `annulus topo`.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "launcher/machine.h"
#include "launcher/placement.h"

namespace annulus {

// Packages, NUMA nodes with their memory, L3 caches and cores, with the ranks that own the cores:
// neighbouring cores in the same state share a line. Ends with a newline.
//
//   machine: 1 package, 2 NUMA nodes, 2 L3 caches, 8 cores, 16 CPUs; 7 cores may be used
//   package 0
//     NUMA node 0, 4.0 GiB
//       L3 0
//         cores 0-3 (CPUs 0-7): ranks 0-3, one each
//     ...
std::string draw_machine(const Machine& machine, const Placement& placement);

// One line per worker: CPUs, where they lie, NUMA node, its communication thread's CPU if it has one, and
// `bytes[rank]` of memory where given. Then notes and warnings. Ends with a newline.
std::string draw_workers(const Placement& placement, const std::vector<int64_t>& bytes = {});

// 1536 -> "1.5 KiB", 0 -> "0 B".
std::string format_bytes(int64_t bytes);

}  // namespace annulus
