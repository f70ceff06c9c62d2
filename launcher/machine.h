// Machine: what hwloc says about the box, as plain lists, and which part of it this process may use.
//
// Placement and drawing work on the lists alone, so they run on synthetic machines as on real ones; only
// binding needs the hwloc topology behind them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

struct hwloc_topology;

namespace annulus {

// One physical core. `package`, `node` and `l3` number the machine's objects in topology order (`node` is an
// index into Machine::nodes()); -1 where there is none. A machine without core objects has one core per CPU.
struct MachineCore {
  int package = -1;
  int node = -1;
  int l3 = -1;
  std::vector<int> cpus;     // OS indexes of its hardware threads, in topology order
  std::vector<int> allowed;  // those of them that this process may use
};

struct MachineNode {
  int os_index = 0;
  int64_t bytes = 0;  // of memory, used or not
  bool allowed = true;
};

class Machine {
 public:
  // The machine under this process. Allowed: hwloc's allowed set (cgroup cpusets), cut by the affinity mask
  // (taskset) and by the memory nodes that the kernel would give. Throws UserError when hwloc cannot read it.
  static Machine this_machine();

  // A machine from an hwloc synthetic description such as "pack:2 numa:2 l3:4 core:8 pu:2", all of it
  // allowed. Throws UserError, naming --synthetic, when the description cannot be understood.
  static Machine synthetic(const std::string& description);

  // Cuts the allowed set further: to these CPUs, and to these memory nodes (OS indexes). For tests.
  void restrict_cpus(const std::vector<int>& cpus);
  void restrict_nodes(const std::vector<int>& os_indexes);

  const std::vector<MachineCore>& cores() const { return cores_; }  // topology order
  const std::vector<MachineNode>& nodes() const { return nodes_; }  // topology order; at least one
  int packages() const { return packages_; }                        // 0 when the machine names none
  int l3_caches() const { return l3_caches_; }

  std::vector<int> cpus() const;          // all, ascending OS indexes
  std::vector<int> allowed_cpus() const;  // ascending OS indexes
  // What keeps an existing, disallowed CPU from us: "the affinity mask (taskset)" or "the cgroup's cpuset".
  std::string excluded_by(int cpu) const;

  bool is_this_machine() const { return is_this_machine_; }  // false: nothing can be bound
  hwloc_topology* topology() const { return topology_.get(); }

 private:
  struct Destroy {
    void operator()(hwloc_topology* topology) const;
  };
  using Topology = std::unique_ptr<hwloc_topology, Destroy>;

  explicit Machine(Topology topology);
  void read_cores();
  void read_nodes();

  Topology topology_;
  std::vector<MachineCore> cores_;
  std::vector<MachineNode> nodes_;
  int packages_ = 0;
  int l3_caches_ = 0;
  bool is_this_machine_ = false;
  std::vector<int> cut_by_affinity_;  // CPUs that hwloc's allowed set has and the affinity mask has not
};

}  // namespace annulus
