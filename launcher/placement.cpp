#include "launcher/placement.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <set>
#include <stdexcept>
#include <string_view>

#include "launcher/comm_threads.h"
#include "launcher/cpu_list.h"
#include "telemetry/check.h"
#include "telemetry/error.h"
#include "telemetry/nearest_name.h"

namespace annulus {

namespace {

// What is dealt out: one hardware thread, standing for its core unless smt.
struct Unit {
  int cpu;
  int core;  // index into Machine::cores()
};

using Units = std::vector<Unit>;

// A level of the machine that workers can be kept within.
struct Level {
  const char* policy;        // value of --bind; nullptr: not a policy
  const char* name;          // for one domain: "L3 2"
  int MachineCore::*domain;  // which domain a core is in
};

constexpr std::array<Level, 3> kLevels = {{
    {"l3", "L3", &MachineCore::l3},
    {"numa", "NUMA node", &MachineCore::node},
    {"socket", "package", &MachineCore::package},
}};

std::string plural(int count, const char* noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

class Planner {
 public:
  Planner(const Machine& machine, const PlacementRequest& request) : machine_(machine), request_(request) {}

  Placement plan() {
    check_request();
    plan_.threads_per_worker = threads();
    bool list = is_cpu_list_text(request_.bind);
    units_ = list ? listed_units() : usable_units();
    if (!list) set_comm_cpus_aside();
    plan_.usable_cores = static_cast<int>(units_.size());
    if (threads() > plan_.usable_cores) throw too_many_threads(plan_.usable_cores, "this process may use");
    workers_ = request_.workers > 0 ? request_.workers : choose_workers();
    if (list) {
      place_listed();
    } else if (request_.bind == "core") {
      place_on_cores();
    } else if (request_.bind == "none") {
      place_unbound();
    } else {
      place_in_domains(level_of_policy());
    }
    for (WorkerPlace& place : plan_.workers) {
      if (place.pinned) choose_memory(place);
    }
    report_memory();
    report_sharing();
    place_comm_threads(machine_, request_, plan_);
    return std::move(plan_);
  }

 private:
  int threads() const { return request_.threads_per_worker; }

  const MachineCore& core_of(const Unit& unit) const { return machine_.cores()[unit.core]; }

  std::string unit_noun() const { return request_.smt ? "hardware thread" : "core"; }

  void check_request() const {
    if (request_.workers < 0 || request_.workers > kMostWorkers) {
      throw UserError::format("--workers {}: must be auto or 1 to {}", request_.workers, kMostWorkers);
    }
    if (threads() < 1) {
      throw UserError::format("--threads-per-worker {}: must be at least 1", threads());
    }
    const std::string& bind = request_.bind;
    if (!is_cpu_list_text(bind) &&
        std::find(bind_policies().begin(), bind_policies().end(), bind) == bind_policies().end()) {
      const std::string near = nearest_name(bind, bind_policies());
      throw UserError::format("--bind {}: unknown policy{}; it takes {} or a CPU list like 0-3,8", bind,
                              near.empty() ? "" : ", did you mean '" + near + "'?",
                              fmt::join(bind_policies(), ", "));
    }
  }

  UserError too_many_threads(int most, const std::string& which) const {
    return UserError::format("--threads-per-worker {}: more than the {} that {}; give at most {}{}",
                             threads(), plural(most, unit_noun().c_str()), which, most,
                             request_.smt ? "" : ", or --smt on to count hardware threads as cores");
  }

  Units usable_units() const {
    Units units;
    for (size_t i = 0; i < machine_.cores().size(); ++i) {
      for (int cpu : machine_.cores()[i].allowed) {
        units.push_back({cpu, static_cast<int>(i)});
        if (!request_.smt) break;
      }
    }
    if (units.empty()) {
      throw UserError(
          "this process may use no CPU of the machine; widen its affinity (taskset) or cgroup cpuset");
    }
    return units;
  }

  void set_comm_cpus_aside() {
    const std::vector<int> aside = listed_comm_cpus(request_.comm_thread);
    Units rest;
    for (const Unit& unit : units_) {
      if (std::find(aside.begin(), aside.end(), unit.cpu) == aside.end()) rest.push_back(unit);
    }
    const int needed = std::max(request_.workers, 1) * threads();
    if (rest.size() == units_.size() || static_cast<int>(rest.size()) < needed) return;
    units_ = std::move(rest);
    plan_.notes.push_back(
        fmt::format("--comm-thread {}: set aside, no worker computes there", request_.comm_thread));
  }

  Units listed_units() const {
    std::vector<int> cpus;
    try {
      cpus = parse_cpu_list(request_.bind);
    } catch (const std::invalid_argument& error) {
      throw UserError::format("--bind {}: {}; give CPUs like 0-3,8", request_.bind, error.what());
    }
    Units units;
    std::set<int> seen;
    for (int cpu : cpus) {
      if (!seen.insert(cpu).second) {
        throw UserError::format("--bind {}: CPU {} is listed twice; give every CPU once", request_.bind, cpu);
      }
      units.push_back({cpu, find_listed(cpu)});
    }
    if (threads() > static_cast<int>(units.size())) {
      throw UserError::format(
          "--threads-per-worker {}: more than the {} in --bind {}; list more or give at most {}", threads(),
          plural(static_cast<int>(units.size()), "CPU"), request_.bind, units.size());
    }
    return units;
  }

  // The core of a CPU of the list.
  int find_listed(int cpu) const {
    for (size_t i = 0; i < machine_.cores().size(); ++i) {
      const MachineCore& core = machine_.cores()[i];
      if (std::find(core.cpus.begin(), core.cpus.end(), cpu) == core.cpus.end()) continue;
      if (std::find(core.allowed.begin(), core.allowed.end(), cpu) == core.allowed.end()) {
        throw UserError::format(
            "--bind {}: CPU {} may not be used by this process: {} leaves it CPUs {}; choose "
            "among those, or widen it",
            request_.bind, cpu, machine_.excluded_by(cpu), format_cpu_list(machine_.allowed_cpus()));
      }
      return static_cast<int>(i);
    }
    throw UserError::format("--bind {}: CPU {} does not exist; this machine has CPUs {}", request_.bind, cpu,
                            format_cpu_list(machine_.cpus()));
  }

  int choose_workers() {
    int workers = plan_.usable_cores / threads();
    std::string limit = is_cpu_list_text(request_.bind)
                            ? plural(plan_.usable_cores, "listed CPU")
                            : plural(plan_.usable_cores, ("usable " + unit_noun()).c_str());
    std::vector<int> all = machine_.cpus(), allowed = machine_.allowed_cpus();
    if (allowed.size() < all.size() && !is_cpu_list_text(request_.bind)) {
      limit += fmt::format(" (taskset or a cgroup cpuset leaves CPUs {} of {})", format_cpu_list(allowed),
                           format_cpu_list(all));
    }
    if (workers > kMostWorkers) {
      workers = kMostWorkers;
      limit = fmt::format("the most that are supported, {}", kMostWorkers);
    }
    if (request_.cpu_quota > 0 && request_.cpu_quota / threads() < workers) {
      workers = std::max(1, static_cast<int>(std::floor(request_.cpu_quota / threads())));
      limit = fmt::format("a CPU quota of {:.3g} ({})", request_.cpu_quota, request_.cpu_quota_source);
    }
    const int listed = static_cast<int>(listed_comm_cpus(request_.comm_thread).size());
    if (listed > 1 && listed < workers) {  // a single CPU is shared by all
      workers = listed;
      limit = fmt::format("the {} CPUs of --comm-thread", listed);
    }
    if (request_.workers_in_memory > 0 && request_.workers_in_memory < workers) {
      workers = request_.workers_in_memory;
      limit = "memory";
    }
    plan_.notes.push_back(fmt::format("--workers auto: {} of {}, limited by {}", plural(workers, "worker"),
                                      plural(threads(), "thread"), limit));
    return workers;
  }

  // A worker with one thread on each unit. The CPUs of LIST keep their order for the threads.
  WorkerPlace place_threads(const Units& units) const {
    WorkerPlace place;
    std::vector<int> cores;
    for (const Unit& unit : units) {
      place.thread_cpus.push_back(unit.cpu);
      cores.push_back(unit.core);
    }
    place.cpus = place.thread_cpus;
    std::sort(place.cpus.begin(), place.cpus.end());
    std::sort(cores.begin(), cores.end());
    cores.erase(std::unique(cores.begin(), cores.end()), cores.end());
    place.domain = fmt::format("core{} {}", cores.size() == 1 ? "" : "s", format_cpu_list(cores));
    return place;
  }

  WorkerPlace place_floating(const Units& units, std::string domain) const {
    WorkerPlace place;
    for (const Unit& unit : units) place.cpus.push_back(unit.cpu);
    std::sort(place.cpus.begin(), place.cpus.end());
    place.domain = std::move(domain);
    return place;
  }

  // The units of each domain of a level, domains in topology order; cores outside any are left out.
  std::vector<Units> split(const Level& level) const {
    std::vector<Units> domains;
    int last = -1;
    for (const Unit& unit : units_) {
      int domain = core_of(unit).*level.domain;
      if (domain < 0) continue;
      if (domains.empty() || domain != last) domains.emplace_back();
      domains.back().push_back(unit);
      last = domain;
    }
    return domains;
  }

  void place_listed() {
    if (workers_ * threads() > plan_.usable_cores) {
      throw UserError::format(
          "--bind {}: lists {}, but --workers {} with --threads-per-worker {} needs {}; list "
          "more or give --workers {}",
          request_.bind, plural(plan_.usable_cores, "CPU"), workers_, threads(), workers_ * threads(),
          plan_.usable_cores / threads());
    }
    place_consecutively(units_);
    if (int left = plan_.usable_cores - workers_ * threads(); left > 0) {
      plan_.notes.push_back(fmt::format("--bind {}: the last {} listed not used", request_.bind,
                                        left == 1 ? "CPU" : fmt::format("{} CPUs", left)));
    }
  }

  // Deals units to the workers still to be placed, until either runs out.
  void place_consecutively(const Units& units) {
    size_t next = 0;
    while (static_cast<int>(plan_.workers.size()) < workers_ && next + threads() <= units.size()) {
      plan_.workers.push_back(place_threads(Units(units.begin() + next, units.begin() + next + threads())));
      next += threads();
    }
  }

  void place_on_cores() {
    if (workers_ * threads() > plan_.usable_cores) {
      place_by_turns();
      return;
    }
    for (const Level& level : kLevels) {
      std::vector<Units> domains = split(level);
      int fit = 0;
      for (const Units& domain : domains) fit += static_cast<int>(domain.size()) / threads();
      if (fit < workers_) continue;
      for (const Units& domain : domains) place_consecutively(domain);
      return;
    }
    place_consecutively(units_);
  }

  // More threads than cores: thread after thread, round and round.
  void place_by_turns() {
    size_t next = 0;
    for (int worker = 0; worker < workers_; ++worker) {
      Units mine;
      for (int thread = 0; thread < threads(); ++thread) mine.push_back(units_[next++ % units_.size()]);
      plan_.workers.push_back(place_threads(mine));
    }
    share(fmt::format("--workers {}: {} share {}", workers_, plural(workers_ * threads(), "thread"),
                      plural(plan_.usable_cores, ("usable " + unit_noun()).c_str())),
          plan_.usable_cores / threads());
  }

  void place_unbound() {
    for (int worker = 0; worker < workers_; ++worker) {
      plan_.workers.push_back(place_floating(all_allowed(), "machine"));
      plan_.workers.back().pinned = false;
    }
    if (workers_ * threads() > plan_.usable_cores) {
      share(fmt::format("--workers {}: {} share {}", workers_, plural(workers_ * threads(), "thread"),
                        plural(plan_.usable_cores, ("usable " + unit_noun()).c_str())),
            plan_.usable_cores / threads());
    }
  }

  Units all_allowed() const {
    Units units;
    for (size_t i = 0; i < machine_.cores().size(); ++i) {
      for (int cpu : machine_.cores()[i].allowed) units.push_back({cpu, static_cast<int>(i)});
    }
    return units;
  }

  const Level& level_of_policy() const {
    for (const Level& level : kLevels) {
      if (request_.bind == level.policy) return level;
    }
    CHECK(false, "no level for --bind {}", request_.bind);
    std::abort();
  }

  void place_in_domains(const Level& level) {
    std::vector<Units> domains = split(level);
    if (domains.empty()) {
      throw UserError::format(
          "--bind {}: this machine shows no {} (lstopo draws what it shows); give --bind core "
          "or --bind numa",
          request_.bind, level.name);
    }
    size_t largest = 0, placed = 0;
    int fit = 0;
    for (const Units& domain : domains) {
      fit += static_cast<int>(domain.size()) / threads();
      largest = std::max(largest, domain.size());
      placed += domain.size();
    }
    if (threads() > static_cast<int>(largest)) {
      throw too_many_threads(static_cast<int>(largest), fmt::format("the largest {} offers", level.name));
    }
    if (placed < units_.size()) {
      plan_.notes.push_back(fmt::format("--bind {}: {} outside any {} not used", request_.bind,
                                        plural(static_cast<int>(units_.size() - placed), unit_noun().c_str()),
                                        level.name));
    }
    std::vector<int> counts = deal(domains);
    bool shared = false;
    for (size_t i = 0; i < domains.size(); ++i) {
      int number = core_of(domains[i].front()).*level.domain;
      // NUMA nodes go by the number that the system uses, which numactl and /sys show too.
      if (level.domain == &MachineCore::node) number = machine_.nodes()[number].os_index;
      for (int k = 0; k < counts[i]; ++k) {
        plan_.workers.push_back(place_floating(domains[i], fmt::format("{} {}", level.name, number)));
      }
      shared = shared || counts[i] * threads() > static_cast<int>(domains[i].size());
    }
    if (shared) {
      share(fmt::format("--workers {}: some {} has more threads than usable {}s", workers_, level.name,
                        unit_noun()),
            fit);
    }
  }

  // How many workers go to each domain: one after the other to where the load per core stays lowest, so that
  // domains that lost cores to a cpuset get fewer.
  std::vector<int> deal(const std::vector<Units>& domains) const {
    std::vector<int> counts(domains.size(), 0);
    for (int worker = 0; worker < workers_; ++worker) {
      size_t best = 0;
      double best_load = std::numeric_limits<double>::max();
      for (size_t i = 0; i < domains.size(); ++i) {
        double load =
            static_cast<double>((counts[i] + 1) * threads()) / static_cast<double>(domains[i].size());
        if (load < best_load) best = i, best_load = load;
      }
      ++counts[best];
    }
    return counts;
  }

  // `most`: workers that would not have to share.
  void share(const std::string& what, int most) {
    plan_.exclusive = false;
    plan_.warnings.push_back(
        fmt::format("{} and will take turns; {} is the most that own theirs", what, plural(most, "worker")));
  }

  void choose_memory(WorkerPlace& place) {
    std::set<int> nodes;
    for (const MachineCore& core : machine_.cores()) {
      bool mine = std::any_of(core.cpus.begin(), core.cpus.end(), [&](int cpu) {
        return std::binary_search(place.cpus.begin(), place.cpus.end(), cpu);
      });
      if (mine) nodes.insert(core.node);
    }
    for (int node : nodes) {
      if (node < 0) continue;
      const MachineNode& memory = machine_.nodes()[node];
      if (memory.allowed) {
        place.local_nodes.push_back(memory.os_index);
      } else {
        forbidden_nodes_.insert(memory.os_index);
      }
    }
    std::sort(place.local_nodes.begin(), place.local_nodes.end());
    if (nodes.size() == 1 && place.local_nodes.size() == 1) place.memory_node = place.local_nodes.front();
    if (nodes.size() > 1) ++straddling_;
    if (nodes.contains(-1)) ++without_node_;
  }

  void report_memory() {
    if (!forbidden_nodes_.empty()) {
      std::vector<int> nodes(forbidden_nodes_.begin(), forbidden_nodes_.end());
      plan_.warnings.push_back(
          fmt::format("memory of NUMA node {} may not be used (the cgroup's cpuset.mems): workers next to it "
                      "run with their "
                      "memory elsewhere, unbound; widen cpuset.mems or choose other cores with --bind LIST",
                      format_cpu_list(nodes)));
    }
    if (without_node_ > 0) {
      plan_.warnings.push_back(fmt::format("{} on CPUs without memory of their own: memory not bound",
                                           plural(without_node_, "worker")));
    }
    if (straddling_ > 0) {
      plan_.notes.push_back(
          fmt::format("{} over several NUMA nodes: memory not bound to one", plural(straddling_, "worker")));
    }
  }

  void report_sharing() {
    int wanted = workers_ * threads();
    if (request_.cpu_quota > 0 && request_.cpu_quota < wanted) {
      plan_.exclusive = false;
      plan_.warnings.push_back(
          fmt::format("a CPU quota of {:.3g} ({}) is less than the {} of {}: they will be throttled; raise "
                      "the quota or give "
                      "fewer workers",
                      request_.cpu_quota, request_.cpu_quota_source, plural(wanted, "thread"),
                      plural(workers_, "worker")));
    }
  }

  const Machine& machine_;
  const PlacementRequest& request_;
  Placement plan_;
  Units units_;
  int workers_ = 0;
  std::set<int> forbidden_nodes_;  // next to some worker, OS indexes
  int straddling_ = 0;             // workers next to more than one node
  int without_node_ = 0;           // workers with a CPU that no node serves
};

}  // namespace

const std::vector<std::string>& bind_policies() {
  static const std::vector<std::string> policies = {"core", "l3", "numa", "socket", "none"};
  return policies;
}

bool is_cpu_list_text(const std::string& bind) {
  return bind.find_first_of("0123456789") != std::string::npos &&
         bind.find_first_not_of("0123456789,- ") == std::string::npos;
}

Placement plan_placement(const Machine& machine, const PlacementRequest& request) {
  return Planner(machine, request).plan();
}

}  // namespace annulus
