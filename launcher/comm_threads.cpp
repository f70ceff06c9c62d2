#include "launcher/comm_threads.h"

#include <algorithm>
#include <set>
#include <stdexcept>

#include "launcher/cpu_list.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

bool holds(const std::vector<int>& cpus, int cpu) {
  return std::find(cpus.begin(), cpus.end(), cpu) != cpus.end();
}

const MachineCore* core_of(const Machine& machine, int cpu) {
  for (const MachineCore& core : machine.cores()) {
    if (holds(core.cpus, cpu)) return &core;
  }
  return nullptr;
}

// The ranks that compute on a CPU, or may.
std::vector<int> find_computing(const Placement& placement, int cpu) {
  std::vector<int> ranks;
  for (std::size_t rank = 0; rank < placement.workers.size(); ++rank) {
    if (holds(placement.workers[rank].cpus, cpu)) ranks.push_back(static_cast<int>(rank));
  }
  return ranks;
}

// `where` names the CPU for people.
void check_allowed(const Machine& machine, const std::string& flag, int cpu, const std::string& where) {
  if (holds(machine.allowed_cpus(), cpu)) return;
  throw UserError::format(
      "{}: {} may not be used by this process: {} leaves it CPUs {}; widen it, choose among those, or give "
      "--comm-thread inline",
      flag, where, machine.excluded_by(cpu), format_cpu_list(machine.allowed_cpus()));
}

int find_sibling(const Machine& machine, const Placement& placement, int rank) {
  constexpr const char* kFlag = "--comm-thread sibling";
  const int cpu = placement.workers[rank].thread_cpus.front();
  const MachineCore& core = *core_of(machine, cpu);
  if (core.cpus.size() < 2) {
    throw UserError::format(
        "{}: the core of CPU {} (rank {}) has no other hardware thread: the machine has no SMT, or it is "
        "switched off; give --comm-thread inline, or a CPU like --comm-thread 3",
        kFlag, cpu, rank);
  }
  int forbidden = -1, taken = -1;
  for (const int other : core.cpus) {
    if (other == cpu) continue;
    if (!holds(core.allowed, other)) {
      forbidden = other;
    } else if (!find_computing(placement, other).empty()) {
      taken = other;
    } else {
      return other;
    }
  }
  if (taken >= 0) {
    throw UserError::format(
        "{}: CPU {}, beside rank {}'s CPU {} on the same core, computes for rank {}; leave siblings out of "
        "--bind, or give --comm-thread inline",
        kFlag, taken, rank, cpu, find_computing(placement, taken).front());
  }
  check_allowed(machine, kFlag, forbidden,
                fmt::format("CPU {}, beside rank {}'s CPU {} on the same core,", forbidden, rank, cpu));
  return forbidden;
}

void place_siblings(const Machine& machine, const PlacementRequest& request, Placement& placement) {
  if (request.smt) {
    throw UserError(
        "--comm-thread sibling: --smt on counts siblings as cores that compute; leave --smt off, or give "
        "--comm-thread inline");
  }
  std::vector<WorkerPlace>& workers = placement.workers;
  for (std::size_t rank = 0; rank < workers.size(); ++rank) {
    if (workers[rank].thread_cpus.empty()) {
      throw UserError::format(
          "--comm-thread sibling: with --bind {} workers float and have no core whose sibling it could be; "
          "give --bind core or a list of CPUs, or --comm-thread inline",
          request.bind);
    }
    workers[rank].comm_cpu = find_sibling(machine, placement, static_cast<int>(rank));
    for (std::size_t other = 0; other < rank; ++other) {
      if (workers[other].comm_cpu != workers[rank].comm_cpu) continue;
      throw UserError::format(
          "--comm-thread sibling: ranks {} and {} take turns on one core, which has no sibling for each; "
          "give fewer --workers, or --comm-thread inline",
          other, rank);
    }
  }
}

void place_listed(const Machine& machine, const PlacementRequest& request, Placement& placement) {
  const std::vector<int> cpus = listed_comm_cpus(request.comm_thread);
  const std::string flag = "--comm-thread " + request.comm_thread;
  const std::size_t workers = placement.workers.size();
  for (const int cpu : cpus) {
    if (core_of(machine, cpu) == nullptr) {
      throw UserError::format(
          "{}: CPU {} does not exist; this machine has CPUs {}; choose among those, or give --comm-thread "
          "inline",
          flag, cpu, format_cpu_list(machine.cpus()));
    }
    check_allowed(machine, flag, cpu, fmt::format("CPU {}", cpu));
  }
  if (cpus.size() != 1 && cpus.size() != workers) {
    throw UserError::format(
        "{}: lists {} CPUs for {} worker{}; list one for each, or a single one that all share", flag,
        cpus.size(), workers, workers == 1 ? "" : "s");
  }
  for (std::size_t rank = 0; rank < workers; ++rank) {
    placement.workers[rank].comm_cpu = cpus[cpus.size() == 1 ? 0 : rank];
  }
}

// Who spins on a CPU that others need takes their time.
void report_sharing(const PlacementRequest& request, Placement& placement) {
  std::set<int> cpus;
  bool turns = false;
  for (const WorkerPlace& place : placement.workers) {
    cpus.insert(place.comm_cpu);
    turns = turns || !find_computing(placement, place.comm_cpu).empty();
  }
  const std::size_t count = placement.workers.size();
  if (turns) {
    placement.warnings.push_back(
        fmt::format("--comm-thread {}: communication threads take turns with compute threads; a CPU that no "
                    "worker computes on would be faster, and --comm-thread inline as well",
                    request.comm_thread));
  } else if (cpus.size() < count) {
    placement.warnings.push_back(fmt::format(
        "--comm-thread {}: {} communication threads share CPU{} {} and take turns", request.comm_thread,
        count, cpus.size() == 1 ? "" : "s", format_cpu_list({cpus.begin(), cpus.end()})));
  }
  const std::size_t wanted = count * placement.threads_per_worker + cpus.size();
  const bool unpaid = request.cpu_quota > 0 && request.cpu_quota < static_cast<double>(wanted);
  if (turns || cpus.size() < count || unpaid) placement.exclusive = false;
}

}  // namespace

const std::vector<std::string>& comm_thread_kinds() {
  static const std::vector<std::string> kinds = {"auto", "inline", "sibling"};
  return kinds;
}

std::vector<int> listed_comm_cpus(const std::string& comm_thread) {
  if (!is_cpu_list_text(comm_thread)) return {};
  try {
    return parse_cpu_list(comm_thread);
  } catch (const std::invalid_argument& error) {
    throw UserError::format("--comm-thread {}: {}; give CPUs like 3 or 2,3", comm_thread, error.what());
  }
}

void place_comm_threads(const Machine& machine, const PlacementRequest& request, Placement& placement) {
  if (request.comm_thread == "auto" || request.comm_thread == "inline") return;
  if (request.comm_thread == "sibling") {
    place_siblings(machine, request, placement);
  } else {
    place_listed(machine, request, placement);
  }
  report_sharing(request, placement);
}

}  // namespace annulus
