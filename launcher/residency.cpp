#include "launcher/residency.h"

#include <fmt/format.h>
#include <hwloc.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <set>
#include <system_error>

#include "launcher/cpu_list.h"
#include "telemetry/check.h"

namespace annulus {

namespace {

class Bitmap {
 public:
  explicit Bitmap(const std::vector<int>& indexes) : bitmap_(hwloc_bitmap_alloc()) {
    CHECK(bitmap_ != nullptr, "out of memory");
    for (int index : indexes) hwloc_bitmap_set(bitmap_, static_cast<unsigned>(index));
  }
  ~Bitmap() { hwloc_bitmap_free(bitmap_); }
  Bitmap(const Bitmap&) = delete;
  Bitmap& operator=(const Bitmap&) = delete;

  hwloc_const_bitmap_t get() const { return bitmap_; }

 private:
  hwloc_bitmap_t bitmap_;
};

KernelAnswer refused(const std::string& what, int error) {
  const char* hint = "";
  if (error == EPERM || error == ENOSYS || error == EACCES) {
    hint = "; containers often forbid this (Docker allows it with --cap-add SYS_NICE)";
  } else if (error == EINVAL || error == EXDEV) {
    hint = "; the cgroup's cpuset may have changed";
  }
  return {error ? error : EIO, fmt::format("{}: {}{}", what, std::strerror(error), hint)};
}

bool can_choose_memory(const Machine& machine) {
  return machine.is_this_machine() && machine.nodes().size() > 1;
}

KernelAnswer set_area_policy(const Machine& machine, void* address, size_t bytes,
                             const std::vector<int>& nodes, hwloc_membind_policy_t policy) {
  if (!can_choose_memory(machine) || nodes.empty() || bytes == 0) return {};
  Bitmap set(nodes);
  if (hwloc_set_area_membind(machine.topology(), address, bytes, set.get(), policy,
                             HWLOC_MEMBIND_BYNODESET) == 0) {
    return {};
  }
  return refused(fmt::format("cannot bind memory to NUMA node {}", format_cpu_list(nodes)), errno);
}

}  // namespace

KernelAnswer bind_this_process(const Machine& machine, const WorkerPlace& place) {
  if (!place.pinned || !machine.is_this_machine()) return {};
  KernelAnswer answer;
  Bitmap cpus(place.cpus);
  if (hwloc_set_cpubind(machine.topology(), cpus.get(), HWLOC_CPUBIND_PROCESS) != 0) {
    answer = refused(fmt::format("cannot bind to CPUs {}", format_cpu_list(place.cpus)), errno);
  }
  if (place.memory_node < 0 || !can_choose_memory(machine)) return answer;
  Bitmap node({place.memory_node});
  // Linux keeps this policy per thread; threads that are made later inherit it.
  if (hwloc_set_membind(machine.topology(), node.get(), HWLOC_MEMBIND_BIND,
                        HWLOC_MEMBIND_THREAD | HWLOC_MEMBIND_BYNODESET) != 0 &&
      answer.ok()) {
    answer = refused(fmt::format("cannot bind memory to NUMA node {}", place.memory_node), errno);
  }
  return answer;
}

KernelAnswer bind_thread(int cpu) {
  CHECK(cpu >= 0 && cpu <= kLargestCpu, "CPU {}", cpu);
  std::array<unsigned long, (kLargestCpu + 1) / (8 * sizeof(unsigned long))> mask{};
  constexpr int kWordBits = 8 * sizeof(unsigned long);
  mask[cpu / kWordBits] |= 1UL << (cpu % kWordBits);
  if (syscall(SYS_sched_setaffinity, 0, sizeof(mask), mask.data()) == 0) return {};
  return refused(fmt::format("cannot bind a thread to CPU {}", cpu), errno);
}

KernelAnswer bind_range(const Machine& machine, void* address, size_t bytes, int node) {
  if (node < 0) return {};
  return set_area_policy(machine, address, bytes, {node}, HWLOC_MEMBIND_BIND);
}

KernelAnswer interleave_range(const Machine& machine, void* address, size_t bytes,
                              const std::vector<int>& nodes) {
  return set_area_policy(machine, address, bytes, nodes, HWLOC_MEMBIND_INTERLEAVE);
}

KernelAnswer bind_home(const Machine& machine, const Placement& placement, void* address, size_t bytes,
                       int rank) {
  if (rank >= 0) return bind_range(machine, address, bytes, placement.workers[rank].memory_node);
  std::set<int> nodes;
  for (const WorkerPlace& place : placement.workers) {
    if (place.memory_node >= 0) nodes.insert(place.memory_node);
  }
  if (nodes.size() < 2) return {};
  return interleave_range(machine, address, bytes, {nodes.begin(), nodes.end()});
}

int64_t PageResidency::remote(int node) const {
  if (node < 0) return 0;
  auto local = on_node.find(node);
  return present() - (local == on_node.end() ? 0 : local->second);
}

PageResidency& PageResidency::operator+=(const PageResidency& other) {
  pages += other.pages;
  not_present += other.not_present;
  for (auto [node, count] : other.on_node) on_node[node] += count;
  if (answer.ok()) answer = other.answer;
  return *this;
}

PageResidency read_residency(pid_t process, const void* address, size_t bytes) {
  constexpr size_t kChunk = 2048;  // pages a call: bounds the time that the kernel holds the process's map
  const auto page_bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  PageResidency residency;
  std::array<const void*, kChunk> pages;
  std::array<int, kChunk> status;
  const uintptr_t end = reinterpret_cast<uintptr_t>(address) + bytes;
  uintptr_t page = reinterpret_cast<uintptr_t>(address) / page_bytes * page_bytes;
  while (page < end) {
    size_t count = 0;
    for (; count < kChunk && page < end; page += page_bytes)
      pages[count++] = reinterpret_cast<const void*>(page);
    if (syscall(SYS_move_pages, process, count, pages.data(), nullptr, status.data(), 0) < 0) {
      residency.answer = refused(
          fmt::format("cannot read where the pages of process {} lie", process ? process : getpid()), errno);
      return residency;
    }
    residency.pages += static_cast<int64_t>(count);
    for (size_t i = 0; i < count; ++i) {
      if (status[i] >= 0) {
        ++residency.on_node[status[i]];
      } else {
        ++residency.not_present;  // ENOENT: no page; EFAULT: the shared page of zeros, or no mapping
      }
    }
  }
  return residency;
}

AffinityReading read_process_cpus(pid_t process) {
  try {
    return {read_affinity(process), {}};
  } catch (const std::system_error& error) {
    return {{}, refused(fmt::format("cannot read the CPUs of process {}", process), error.code().value())};
  }
}

}  // namespace annulus
