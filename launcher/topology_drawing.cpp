#include "launcher/topology_drawing.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "launcher/cpu_list.h"

namespace annulus {

namespace {

std::string plural(size_t count, const char* noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

std::string range(const char* noun, const std::vector<int>& numbers) {
  return fmt::format("{}{} {}", noun, numbers.size() == 1 ? "" : "s", format_cpu_list(numbers));
}

// The ranks that may run on a core, ascending.
std::vector<int> find_owners(const MachineCore& core, const Placement& placement) {
  std::vector<int> owners;
  for (size_t rank = 0; rank < placement.workers.size(); ++rank) {
    const WorkerPlace& place = placement.workers[rank];
    bool mine = place.pinned && std::any_of(core.cpus.begin(), core.cpus.end(), [&](int cpu) {
                  return std::binary_search(place.cpus.begin(), place.cpus.end(), cpu);
                });
    if (mine) owners.push_back(static_cast<int>(rank));
  }
  return owners;
}

// Neighbouring cores under the same cache that look alike.
struct Run {
  std::vector<int> cores, cpus;
  std::vector<int> first_owners, last_owners;  // of the first and the last core
  bool allowed;
  bool one_each = false;  // every core has one owner, and the next core the next rank
};

bool joins(const Run& run, const std::vector<int>& owners, bool allowed) {
  if (allowed != run.allowed) return false;
  if (run.one_each) return owners.size() == 1 && owners[0] == run.last_owners[0] + 1;
  if (owners == run.last_owners) return true;
  return run.cores.size() == 1 && owners.size() == 1 && run.last_owners.size() == 1 &&
         owners[0] == run.last_owners[0] + 1;
}

std::string describe_owners(const Run& run) {
  if (!run.allowed) return "not allowed";
  if (run.first_owners.empty()) return "idle";
  if (!run.one_each) {
    return range("rank", run.first_owners) + (run.first_owners.size() > 1 ? ", shared" : "");
  }
  std::vector<int> ranks;
  for (int rank = run.first_owners[0]; rank <= run.last_owners[0]; ++rank) ranks.push_back(rank);
  return range("rank", ranks) + ", one each";
}

class Drawing {
 public:
  Drawing(const Machine& machine, const Placement& placement) : machine_(machine), placement_(placement) {}

  std::string draw() {
    size_t usable = std::count_if(machine_.cores().begin(), machine_.cores().end(),
                                  [](const MachineCore& core) { return !core.allowed.empty(); });
    text_ = "machine: ";
    if (machine_.packages() > 0) text_ += plural(machine_.packages(), "package") + ", ";
    text_ += plural(machine_.nodes().size(), "NUMA node") + ", ";
    if (machine_.l3_caches() > 0) text_ += plural(machine_.l3_caches(), "L3 cache") + ", ";
    text_ += fmt::format("{}, {}; {} may be used\n", plural(machine_.cores().size(), "core"),
                         plural(machine_.cpus().size(), "CPU"), plural(usable, "core"));
    const MachineCore* last = nullptr;
    for (size_t i = 0; i < machine_.cores().size(); ++i) {
      const MachineCore& core = machine_.cores()[i];
      open(core, last);
      add(static_cast<int>(i), core);
      last = &core;
    }
    flush();
    add_distant_memory();
    return text_;
  }

 private:
  // The headings that change between the last core and this one.
  void open(const MachineCore& core, const MachineCore* last) {
    bool package = !last || core.package != last->package;
    bool node = package || core.node != last->node;
    bool cache = node || core.l3 != last->l3;
    if (cache) flush();
    size_t depth = 0;
    auto heading = [&](bool changed, int number, auto&& words) {
      if (number < 0) return;
      if (changed) line(depth, words());
      ++depth;
    };
    heading(package, core.package, [&] { return fmt::format("package {}", core.package); });
    heading(node, core.node, [&] { return describe_node(machine_.nodes()[core.node]); });
    heading(cache, core.l3, [&] { return fmt::format("L3 {}", core.l3); });
    depth_ = depth;
  }

  static std::string describe_node(const MachineNode& node) {
    return fmt::format("NUMA node {}, {}{}", node.os_index, format_bytes(node.bytes),
                       node.allowed ? "" : ", memory not allowed");
  }

  void add(int index, const MachineCore& core) {
    std::vector<int> owners = find_owners(core, placement_);
    bool allowed = !core.allowed.empty();
    if (run_.cores.empty() || !joins(run_, owners, allowed)) {
      flush();
      run_ = {{}, {}, owners, owners, allowed};
    } else {
      run_.one_each = owners != run_.last_owners;
    }
    run_.cores.push_back(index);
    run_.cpus.insert(run_.cpus.end(), core.cpus.begin(), core.cpus.end());
    run_.last_owners = owners;
  }

  void flush() {
    if (run_.cores.empty()) return;
    line(depth_, fmt::format("{} ({}): {}", range("core", run_.cores), range("CPU", run_.cpus),
                             describe_owners(run_)));
    run_ = {};
  }

  // Memory that is next to no core, such as an expansion card's.
  void add_distant_memory() {
    for (size_t i = 0; i < machine_.nodes().size(); ++i) {
      bool near = std::any_of(machine_.cores().begin(), machine_.cores().end(),
                              [&](const MachineCore& core) { return core.node == static_cast<int>(i); });
      if (!near) line(0, describe_node(machine_.nodes()[i]) + ", no cores of its own");
    }
  }

  void line(size_t depth, const std::string& words) { text_ += std::string(2 * depth, ' ') + words + '\n'; }

  const Machine& machine_;
  const Placement& placement_;
  std::string text_;
  Run run_{};
  size_t depth_ = 0;
};

}  // namespace

std::string format_bytes(int64_t bytes) {
  constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1024 && unit + 1 < kUnits.size(); ++unit) value /= 1024;
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::string draw_machine(const Machine& machine, const Placement& placement) {
  return Drawing(machine, placement).draw();
}

std::string draw_workers(const Placement& placement, const std::vector<int64_t>& bytes) {
  size_t wide_cpus = 4, wide_domain = 5;
  for (const WorkerPlace& place : placement.workers) {
    wide_cpus = std::max(wide_cpus, format_cpu_list(place.cpus).size());
    wide_domain = std::max(wide_domain, place.domain.size());
  }
  const bool comm = std::any_of(placement.workers.begin(), placement.workers.end(),
                                [](const WorkerPlace& place) { return place.comm_cpu >= 0; });
  std::string text =
      fmt::format("{:>6}  {:<{}}  {:<{}}  {:<9}{}{}\n", "worker", "CPUs", wide_cpus, "where", wide_domain,
                  "NUMA node", comm ? "  communication" : "", bytes.empty() ? "" : "  memory");
  for (size_t rank = 0; rank < placement.workers.size(); ++rank) {
    const WorkerPlace& place = placement.workers[rank];
    std::string node = place.memory_node < 0 ? "not bound" : fmt::format("{}", place.memory_node);
    text += fmt::format("{:>6}  {:<{}}  {:<{}}  {:<9}{}{}\n", rank, format_cpu_list(place.cpus), wide_cpus,
                        place.domain, wide_domain, node,
                        comm ? fmt::format("  {:<13}", fmt::format("CPU {}", place.comm_cpu)) : "",
                        rank < bytes.size() ? "  " + format_bytes(bytes[rank]) : "");
  }
  for (const std::string& note : placement.notes) text += "note: " + note + '\n';
  for (const std::string& warning : placement.warnings) text += "warning: " + warning + '\n';
  return text;
}

}  // namespace annulus
