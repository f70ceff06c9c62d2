// HostSession: this host's side of a run on several hosts, from the preflight to the end of the run: its
// listening sockets, the other hosts' processes, the connections between launchers.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "collectives/unique_fd.h"
#include "launcher/host_control.h"
#include "launcher/job.h"
#include "launcher/resume.h"
#include "launcher/run_hosts.h"

namespace annulus {

// What other hosts print, before there is a terminal and after it.
void say_on_stderr(const std::string& line);

// Whether what the first host has sent suits a host with so many workers, which has offered to go on from
// the checkpoints of these steps. Throws UserError.
void check_start(const HostStart& start, const HostList& list, int workers,
                 const std::vector<uint32_t>& offered);

class HostSession {
 public:
  // `config`: as it was given, for hosts that this one starts. `hosts` and `config` outlive this.
  HostSession(const RunHosts& hosts, const TrainConfig& config);

  // For plan_job.
  HostPlan hosts() const;
  // Looks up the other hosts' addresses, has them started, if that is this one's to do, waits for them, and
  // compares. Fills in job.run.hosts; job.run.resumed becomes the checkpoint that all go on from, one of
  // resume->offers. Throws UserError, on all hosts.
  void preflight(Job& job, const ResumePoint* resume);
  // Where this host's run files go. The first host's is `own`.
  std::string run_dir(const std::string& own) const;
  // Where this host's files are of a run whose first host has them in `run_dir`.
  std::string directory_below(const std::string& run_dir) const;
  // The first host's, once all may start.
  const std::string& first_run_dir() const { return start_.run_dir; }
  // All hosts may start; the first one's files are in `run_dir`. Throws UserError, there, if that cannot be
  // sent.
  void start(const std::string& run_dir);
  // This host cannot: tells the others.
  void give_up(const std::string& why);

  HostControl& control() { return control_; }

 private:
  const RunHosts& hosts_;
  const TrainConfig& config_;
  HostControl control_;
  std::vector<UniqueFd> listeners_;  // by own rank
  HostStart start_;
};

}  // namespace annulus
