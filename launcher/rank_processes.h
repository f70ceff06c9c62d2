// RankProcesses: the processes of a run's workers, by rank: which there are, which have ended or are about
// to.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "launcher/child_process.h"
#include "launcher/job.h"
#include "launcher/machine.h"
#include "runtime/segment.h"

namespace annulus {

class RankProcesses {
 public:
  // All outlive this. `changed`: an eventfd that workers write when their state has changed.
  RankProcesses(const Job& job, const Machine& machine, const Segment& segment, int changed);
  // Kills and collects who is left.
  ~RankProcesses();
  RankProcesses(const RankProcesses&) = delete;
  RankProcesses& operator=(const RankProcesses&) = delete;

  // Forks a worker for the rank; it begins parked, and joins the attempt after `left`. Throws UserError when
  // no process can be had.
  void start(int rank, uint32_t left);
  const ChildProcess& process(int rank) const { return ranks_[rank]; }
  // The rank's process has ended; `collect` reaps it.
  ChildEnd ended(int rank, const std::function<ChildEnd(ChildProcess&)>& collect);

  // By rank, whether it has no process.
  const std::vector<bool>& dead() const { return dead_; }
  // By rank, whether it has no process, or one that ends.
  std::vector<bool> leaving() const;
  bool all_dead() const;

  void tell_all(int signal) const;
  // Kills the rank's process because it hangs, for this reason, which is kept until it has a new one. Once.
  void kill_hung(int rank, const std::string& why);
  const std::string& hung(int rank) const { return hung_[rank]; }  // empty: it does not

 private:
  int live(int rank, uint32_t left, int output) const;

  const Job& job_;
  const Machine& machine_;
  const Segment& segment_;
  const int changed_;
  std::vector<ChildProcess> ranks_;
  std::vector<bool> dead_;
  std::vector<std::string> hung_;
};

}  // namespace annulus
