// Where a thread that the runtime itself starts runs.
#pragma once

#include <sched.h>

namespace annulus {

// Keeps the calling thread on that CPU, where the kernel allows it: it refuses where it refused the worker's
// own binding, which has been reported.
inline void keep_thread_on(int cpu) {
  cpu_set_t* const set = CPU_ALLOC(cpu + 1);
  CPU_ZERO_S(CPU_ALLOC_SIZE(cpu + 1), set);
  CPU_SET_S(cpu, CPU_ALLOC_SIZE(cpu + 1), set);
  (void)sched_setaffinity(0, CPU_ALLOC_SIZE(cpu + 1), set);
  CPU_FREE(set);
}

}  // namespace annulus
