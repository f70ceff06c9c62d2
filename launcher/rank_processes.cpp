#include "launcher/rank_processes.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "kernels/parallel_for.h"
#include "launcher/death_watch.h"
#include "launcher/residency.h"
#include "runtime/worker.h"

namespace annulus {
namespace {

// Gives each thread of this worker's pool a CPU of its own. The pool's threads are made here, after the
// process was bound, so that they inherit its memory policy.
void bind_threads(const std::vector<int>& cpus) {
  if (cpus.size() < 2) return;
  const int threads = static_cast<int>(cpus.size());
  set_threads(threads);
  parallel_for(threads, threads, [&](int64_t begin, int64_t) {
    (void)bind_thread(cpus[begin]);  // refused where the process's binding was, which has been reported
  });
}

}  // namespace

RankProcesses::RankProcesses(const Job& job, const Machine& machine, const Segment& segment, int changed)
    : job_(job),
      machine_(machine),
      segment_(segment),
      changed_(changed),
      ranks_(segment.ranks()),
      dead_(segment.ranks(), true),
      hung_(segment.ranks()) {}

RankProcesses::~RankProcesses() {
  tell_all(SIGKILL);
  for (int rank = 0; rank < segment_.ranks(); ++rank) {
    if (!dead_[rank]) finish(ranks_[rank]);
  }
}

void RankProcesses::start(int rank, uint32_t left) {
  segment_.rank(rank).life.store(0, std::memory_order_relaxed);
  ranks_[rank] = spawn("annulus:" + std::to_string(rank),
                       [this, rank, left](int output) { return live(rank, left, output); });
  dead_[rank] = false;
  hung_[rank].clear();
}

// In the rank's own process.
int RankProcesses::live(int rank, uint32_t left, int output) const {
  tie_life(segment_.rank(rank).life);
  const WorkerPlace& place = job_.placement.workers[rank];
  const KernelAnswer bound = bind_this_process(machine_, place);
  // One warning is enough for all ranks: containers refuse all of them or none.
  if (!bound.ok() && rank == 0) write_all(output, bound.refusal);
  bind_threads(place.thread_cpus);
  RankPart& part = segment_.rank(rank);
  part.pid.store(getpid(), std::memory_order_relaxed);
  const uint64_t one = 1;
  const auto notify = [&] { (void)!write(changed_, &one, sizeof one); };
  try {
    Worker(job_.run, segment_, rank, notify, left).run();
    return 0;
  } catch (const std::exception& error) {
    std::strncpy(part.failure, error.what(), sizeof part.failure - 1);
    part.state.store(RankState::kFailed, std::memory_order_release);
    return dynamic_cast<const UserError*>(&error) != nullptr ? 2 : 1;
  }
}

ChildEnd RankProcesses::ended(int rank, const std::function<ChildEnd(ChildProcess&)>& collect) {
  dead_[rank] = true;
  return collect(ranks_[rank]);
}

std::vector<bool> RankProcesses::leaving() const {
  std::vector<bool> left = dead_;
  for (int rank = 0; rank < segment_.ranks(); ++rank) {
    if (has_ended(segment_.rank(rank).life)) left[rank] = true;
  }
  return left;
}

bool RankProcesses::all_dead() const { return std::find(dead_.begin(), dead_.end(), false) == dead_.end(); }

void RankProcesses::tell_all(int signal) const {
  for (int rank = 0; rank < segment_.ranks(); ++rank) {
    if (!dead_[rank]) kill(ranks_[rank].pid, signal);
  }
}

void RankProcesses::kill_hung(int rank, const std::string& why) {
  if (!hung_[rank].empty()) return;
  hung_[rank] = why;
  kill(ranks_[rank].pid, SIGKILL);
}

}  // namespace annulus
