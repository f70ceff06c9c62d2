// Placement: which CPUs and which memory node each worker gets. A pure function of the machine and the
// request.
#pragma once

#include <string>
#include <vector>

#include "collectives/wait.h"
#include "launcher/machine.h"

namespace annulus {

inline constexpr int kMostWorkers = kMaxRanks;

// What --bind may name, beside a list of CPUs.
const std::vector<std::string>& bind_policies();
// Whether --bind's text is meant as a list of CPUs: digits, commas, dashes. It may still be malformed.
bool is_cpu_list_text(const std::string& bind);

struct PlacementRequest {
  int workers = 0;  // 0: auto, one per threads_per_worker usable cores, within quota and memory
  int threads_per_worker = 1;
  std::string bind = "core";  // core, l3, numa, socket, none, or a CPU list like "0-3,8"
  bool smt = false;           // true: every hardware thread counts as a core
  double cpu_quota = 0;       // CPUs' worth of time (limits.h); 0: none
  std::string cpu_quota_source = "the cgroup";
  int workers_in_memory = 0;           // auto takes no more workers than this; 0: unknown
  std::string comm_thread = "inline";  // auto, inline, sibling, or a CPU list (comm_threads.h)
};

// Where one worker goes. CPUs and nodes are OS indexes.
struct WorkerPlace {
  std::vector<int> cpus;         // all that it may run on, ascending
  std::vector<int> thread_cpus;  // thread i runs on thread_cpus[i]; empty: its threads share `cpus` freely
  int memory_node = -1;          // -1: its memory is not bound
  std::vector<int>
      local_nodes;     // allowed nodes next to its CPUs, ascending; several: a range may be interleaved
  std::string domain;  // what it was placed in, for people: "core 3", "cores 4-5", "L3 2", "machine"
  bool pinned = true;  // false with --bind none: leave its affinity alone
  int comm_cpu = -1;   // of its communication thread; -1: it has none
};

struct Placement {
  std::vector<WorkerPlace> workers;
  int threads_per_worker = 1;
  int usable_cores = 0;  // what the policy could deal out: cores, hardware threads with smt, or listed CPUs
  // True when no CPU has to be shared: there is a core for every thread, and the quota pays for all of them,
  // so that spinning pays. False: a spinning rank would take the time of the one that it waits for.
  bool exclusive = true;
  std::vector<std::string> notes;     // what was decided and by which limit
  std::vector<std::string> warnings;  // what will cost speed
};

// How ranks that are placed so wait for each other: they spin about four times as long as a wake-up takes,
// and not at all where they take turns on their CPUs.
inline WaitPolicy wait_policy(const Placement& placement, double deadline_s) {
  return {.spin_ns = placement.exclusive ? 100'000 : 0,
          .deadline_ns = static_cast<int64_t>(deadline_s * 1e9)};
}

// Plans. Policies:
//   core    each worker gets its own cores, consecutive in topology order, and no worker straddles an L3
//           (else a NUMA node, else a package) unless that is the only way to fit them all
//   l3, numa, socket
//           workers go to the domains in contiguous blocks, evenly by usable cores, and float in their domain
//   none    nothing is bound
//   LIST    worker i gets the next threads_per_worker CPUs of the list
// Without smt only the first allowed hardware thread of each core is used. With `core`, more threads than
// cores take turns on them, with a warning. CPUs that comm_thread lists are set aside where enough others are
// left. Throws UserError naming the flag, its value, the limit and the
// remedy.
Placement plan_placement(const Machine& machine, const PlacementRequest& request);

}  // namespace annulus
