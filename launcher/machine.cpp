#include "launcher/machine.h"

#include <hwloc.h>
#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "launcher/cpu_list.h"
#include "telemetry/check.h"
#include "telemetry/error.h"

namespace annulus {

namespace {

constexpr const char* kSyntheticExample = "\"pack:2 numa:2 l3:4 core:8 pu:2\"";
constexpr int64_t kMostSyntheticCpus = 4096;

bool contains(const std::vector<int>& list, int value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

// The product of all counts of a synthetic description, attributes in parentheses left out. hwloc itself
// would build a machine of a billion CPUs until memory runs out.
int64_t count_synthetic_cpus(const std::string& description) {
  int64_t product = 1;
  int depth = 0;
  for (size_t i = 0; i < description.size(); ++i) {
    char c = description[i];
    if (c == '(') ++depth;
    if (c == ')') --depth;
    if (c != ':' || depth != 0) continue;
    int64_t count = std::strtoll(description.c_str() + i + 1, nullptr, 10);
    if (count > kMostSyntheticCpus) return count;
    product *= std::max<int64_t>(count, 1);
    if (product > kMostSyntheticCpus) return product;
  }
  return product;
}

// The nodes that the kernel would give this process memory from; empty where it does not tell.
std::vector<int> read_allowed_nodes() {
  constexpr int kBits = 4096, kWordBits = 8 * sizeof(unsigned long);
  unsigned long mask[kBits / kWordBits] = {};
  std::vector<int> nodes;
  if (syscall(SYS_get_mempolicy, nullptr, mask, kBits, nullptr, MPOL_F_MEMS_ALLOWED) != 0) return nodes;
  for (int node = 0; node < kBits; ++node) {
    if (mask[node / kWordBits] >> (node % kWordBits) & 1) nodes.push_back(node);
  }
  return nodes;
}

int logical_index_of_ancestor(hwloc_topology_t topology, hwloc_obj_type_t type, hwloc_obj_t object) {
  hwloc_obj_t ancestor = hwloc_get_ancestor_obj_by_type(topology, type, object);
  return ancestor ? static_cast<int>(ancestor->logical_index) : -1;
}

// The memory that is nearest to a CPU: of the nodes that serve it, the one that serves the fewest CPUs; among
// equals one that may be used, then the first, which is ordinary memory where a package has HBM as well.
int find_local_node(hwloc_topology_t topology, int cpu, const std::vector<MachineNode>& nodes) {
  int best = -1, best_weight = std::numeric_limits<int>::max();
  for (size_t i = 0; i < nodes.size(); ++i) {
    hwloc_obj_t object = hwloc_get_obj_by_type(topology, HWLOC_OBJ_NUMANODE, static_cast<unsigned>(i));
    if (!hwloc_bitmap_isset(object->cpuset, static_cast<unsigned>(cpu))) continue;
    int weight = hwloc_bitmap_weight(object->cpuset);
    bool better_equal = weight == best_weight && nodes[i].allowed && !nodes[best].allowed;
    if (weight < best_weight || better_equal) best = static_cast<int>(i), best_weight = weight;
  }
  return best;
}

}  // namespace

void Machine::Destroy::operator()(hwloc_topology* topology) const { hwloc_topology_destroy(topology); }

Machine::Machine(Topology topology) : topology_(std::move(topology)) {
  is_this_machine_ = hwloc_topology_is_thissystem(topology_.get()) != 0;
  packages_ = std::max(0, hwloc_get_nbobjs_by_type(topology_.get(), HWLOC_OBJ_PACKAGE));
  l3_caches_ = std::max(0, hwloc_get_nbobjs_by_type(topology_.get(), HWLOC_OBJ_L3CACHE));
  read_nodes();
  read_cores();
}

void Machine::read_nodes() {
  int count = hwloc_get_nbobjs_by_type(topology_.get(), HWLOC_OBJ_NUMANODE);
  hwloc_const_nodeset_t allowed = hwloc_topology_get_allowed_nodeset(topology_.get());
  for (int i = 0; i < count; ++i) {
    hwloc_obj_t object = hwloc_get_obj_by_type(topology_.get(), HWLOC_OBJ_NUMANODE, static_cast<unsigned>(i));
    nodes_.push_back({static_cast<int>(object->os_index),
                      static_cast<int64_t>(object->attr->numanode.local_memory),
                      hwloc_bitmap_isset(allowed, object->os_index) != 0});
  }
}

void Machine::read_cores() {
  hwloc_const_cpuset_t allowed = hwloc_topology_get_allowed_cpuset(topology_.get());
  hwloc_obj_t last_core = nullptr;
  for (hwloc_obj_t pu = nullptr; (pu = hwloc_get_next_obj_by_type(topology_.get(), HWLOC_OBJ_PU, pu));) {
    hwloc_obj_t core = hwloc_get_ancestor_obj_by_type(topology_.get(), HWLOC_OBJ_CORE, pu);
    if (!core) core = pu;
    if (core != last_core) {
      cores_.push_back({logical_index_of_ancestor(topology_.get(), HWLOC_OBJ_PACKAGE, pu),
                        find_local_node(topology_.get(), static_cast<int>(pu->os_index), nodes_),
                        logical_index_of_ancestor(topology_.get(), HWLOC_OBJ_L3CACHE, pu),
                        {},
                        {}});
      last_core = core;
    }
    int cpu = static_cast<int>(pu->os_index);
    cores_.back().cpus.push_back(cpu);
    if (hwloc_bitmap_isset(allowed, pu->os_index)) cores_.back().allowed.push_back(cpu);
  }
}

Machine Machine::this_machine() {
  hwloc_topology_t raw = nullptr;
  CHECK(hwloc_topology_init(&raw) == 0, "hwloc_topology_init: {}", std::strerror(errno));
  Topology topology(raw);
  // With the disallowed part, so that a message can tell a CPU that does not exist from one that is
  // forbidden.
  if (hwloc_topology_set_flags(raw, HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED) != 0 ||
      hwloc_topology_load(raw) != 0) {
    throw UserError::format(
        "hwloc cannot read this machine: {}; check that /sys and /proc are mounted (lstopo "
        "reads the same files)",
        std::strerror(errno));
  }
  Machine machine{std::move(topology)};
  if (!machine.is_this_machine_) return machine;  // HWLOC_SYNTHETIC or HWLOC_XMLFILE: our masks do not apply
  std::vector<int> affinity = read_affinity(0);
  for (int cpu : machine.allowed_cpus()) {
    if (!contains(affinity, cpu)) machine.cut_by_affinity_.push_back(cpu);
  }
  machine.restrict_cpus(affinity);
  if (std::vector<int> nodes = read_allowed_nodes(); !nodes.empty()) machine.restrict_nodes(nodes);
  return machine;
}

Machine Machine::synthetic(const std::string& description) {
  auto refuse = [&](const std::string& why) {
    return UserError::format(
        "--synthetic \"{}\": {}; give levels from the largest to pu, each with its count, for "
        "example {}",
        description, why, kSyntheticExample);
  };
  // hwloc takes an empty description for "no description" and would read the real machine.
  if (description.find_first_not_of(" \t") == std::string::npos) throw refuse("the description is empty");
  if (count_synthetic_cpus(description) > kMostSyntheticCpus) {
    throw refuse(fmt::format("more than {} CPUs", kMostSyntheticCpus));
  }
  hwloc_topology_t raw = nullptr;
  CHECK(hwloc_topology_init(&raw) == 0, "hwloc_topology_init: {}", std::strerror(errno));
  Topology topology(raw);
  if (hwloc_topology_set_synthetic(raw, description.c_str()) != 0 || hwloc_topology_load(raw) != 0) {
    throw refuse("hwloc does not understand it");
  }
  return Machine(std::move(topology));
}

void Machine::restrict_cpus(const std::vector<int>& cpus) {
  for (MachineCore& core : cores_) {
    std::erase_if(core.allowed, [&](int cpu) { return !contains(cpus, cpu); });
  }
}

void Machine::restrict_nodes(const std::vector<int>& os_indexes) {
  for (MachineNode& node : nodes_) node.allowed = node.allowed && contains(os_indexes, node.os_index);
}

std::vector<int> Machine::cpus() const {
  std::vector<int> all;
  for (const MachineCore& core : cores_) all.insert(all.end(), core.cpus.begin(), core.cpus.end());
  std::sort(all.begin(), all.end());
  return all;
}

std::vector<int> Machine::allowed_cpus() const {
  std::vector<int> all;
  for (const MachineCore& core : cores_) all.insert(all.end(), core.allowed.begin(), core.allowed.end());
  std::sort(all.begin(), all.end());
  return all;
}

std::string Machine::excluded_by(int cpu) const {
  return contains(cut_by_affinity_, cpu) ? "the affinity mask (taskset)" : "the cgroup's cpuset";
}

}  // namespace annulus
