// Reading back where a running job's processes and pages really are.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "launcher/supervisor.h"

namespace annulus {

// Asks the kernel which CPUs each worker may use and where the pages of its arena and of its part of the
// segment lie. Workers must have populated their arenas.
PlacementReport read_placement(const Job& job, const Segment& segment);

// One line per rank: "rank 3: CPU 3, NUMA node 1, 2048 pages, 0 remote".
std::string describe_ranks(const PlacementReport& report);
// One line over all: "all 2 workers on their own CPUs, 0 of 4,096 pages remote".
std::string describe_placement(const PlacementReport& report);

// Proportional set size of a process in bytes: private pages, and its share of shared ones. 0 if it cannot be
// read.
int64_t read_pss(pid_t process);

}  // namespace annulus
