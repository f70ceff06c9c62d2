// Where communication threads go: a pure function of the machine and the workers' places.
#pragma once

#include <string>
#include <vector>

#include "launcher/machine.h"
#include "launcher/placement.h"

namespace annulus {

// What --comm-thread may name, beside CPUs.
const std::vector<std::string>& comm_thread_kinds();

// The CPUs that --comm-thread lists, in its order; empty where it names a kind. Throws UserError.
std::vector<int> listed_comm_cpus(const std::string& comm_thread);

// Sets comm_cpu of every worker of `placement`, and says in it what threads that share a CPU cost:
//   auto, inline  none: exchanges run on the compute threads
//   sibling       another hardware thread of the core of the worker's first thread
//   LIST          worker i gets the i-th CPU; all share the only one
// Throws UserError with the reason and the remedy.
void place_comm_threads(const Machine& machine, const PlacementRequest& request, Placement& placement);

}  // namespace annulus
