// Binding, and reading back what became of it.
//
// Containers commonly refuse to bind memory or to look at another process, and a run must go on without. So
// nothing here throws: every call returns what the kernel answered, with a text for one warning.
//
// A memfd keeps a memory policy per range of the file: bind_range on any shared mapping of it, before its
// pages exist, decides where posix_fallocate or a first touch by any process puts them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <sys/types.h>

#include "launcher/machine.h"
#include "launcher/placement.h"

namespace annulus {

// What the kernel said. `refusal` names the call, the reason and the usual cause; empty: done.
struct [[nodiscard]] KernelAnswer {
  int error = 0;  // errno, 0: done
  std::string refusal;

  bool ok() const { return error == 0; }
};

// Binds the calling process, which must have one thread yet, to the worker's CPUs and its private memory to
// the worker's node (preferred: a full node spills over instead of killing). Nothing is bound for an unpinned
// place, and no memory on a machine with a single node. Both are tried; the first refusal is returned.
KernelAnswer bind_this_process(const Machine& machine, const WorkerPlace& place);

// Binds the calling thread to one CPU (OS index).
KernelAnswer bind_thread(int cpu);

// Pages of [address, address + bytes) that do not exist yet will be made on the node (OS index; preferred, as
// above). The address is aligned to pages. A no-op on a machine with a single node and for node -1.
KernelAnswer bind_range(const Machine& machine, void* address, size_t bytes, int node);

// The same, with pages dealt to the nodes in turn.
KernelAnswer interleave_range(const Machine& machine, void* address, size_t bytes,
                              const std::vector<int>& nodes);

// Puts a range of the segment on its rank's node or, without one (rank -1), on all workers' nodes in turn.
KernelAnswer bind_home(const Machine& machine, const Placement& placement, void* address, size_t bytes,
                       int rank);

// Where the pages of an address range of a process lie.
struct PageResidency {
  int64_t pages = 0;               // looked at
  std::map<int, int64_t> on_node;  // OS index -> pages
  int64_t not_present = 0;         // not in that process's page table: never touched or populated there
  KernelAnswer answer;             // not ok: the kernel stopped answering; the counts hold what it had told

  int64_t present() const { return pages - not_present; }
  // Present pages that are not on `node` (0 for node -1: nothing was promised).
  int64_t remote(int node) const;
  PageResidency& operator+=(const PageResidency& other);  // keeps the first refusal
};

// Asks move_pages(2), which moves nothing when given no nodes. `process` 0: the caller; `address` is in the
// address space of `process`. Only pages in that process's page table are seen: of a shared mapping, populate
// first.
PageResidency read_residency(pid_t process, const void* address, size_t bytes);

// The CPUs that a process may use, ascending.
struct AffinityReading {
  std::vector<int> cpus;
  KernelAnswer answer;
};
AffinityReading read_process_cpus(pid_t process);

}  // namespace annulus
