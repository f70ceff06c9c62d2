// run_ranks: forked, pinned processes that run one function each, for commands that measure or check a part
// of the program without a whole run (supervisor.h does those).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "collectives/communicator.h"
#include "launcher/machine.h"
#include "launcher/placement.h"

namespace annulus {

struct RankGroup {
  // What rank `rank` does, in its own process, bound to its place; what it returns comes back. What it throws
  // ends the group.
  std::function<std::string(int rank)> body;
  // Called in this process once a rank has failed: makes the others give up what they wait for. Who has not
  // left 400 ms later is killed.
  std::function<void()> abort = [] {};
  // Takes note that the kernel would not bind the ranks.
  std::function<void(const std::string&)> warning = [](const std::string&) {};
  int64_t limit_ns = 0;  // fail when not all ranks have ended after so long; 0: wait
};

// Where ranks go: as workers of a run with these options, within the CPU quota. Throws UserError.
Placement place_ranks(const Machine& machine, int workers, const std::string& bind = "core",
                      bool smt = false);

// What binds the memory of each rank in a CommunicatorSegment to its worker's node.
CommunicatorSegment::Bind on_nodes_of(const Machine& machine, const Placement& placement);

// Runs one process per worker of the placement, named annulus:0, annulus:1, ..., and returns what they
// return, in order. When one fails the others are ended, all are collected, and the first failure is thrown:
// UserError if that is what the rank threw, else std::runtime_error, which names the rank. No process is left
// either way, and none outlives this one. This process must have no threads.
std::vector<std::string> run_ranks(const Machine& machine, const Placement& placement,
                                   const RankGroup& group);

}  // namespace annulus
