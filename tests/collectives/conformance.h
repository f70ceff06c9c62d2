// The conformance suite of Communicator: what to call, and what must come out.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "collectives/communicator.h"

namespace annulus::conformance {

// One communicator; all collectives, counts and types are tried on it one after the other.
struct Group {
  Algorithm algorithm;
  int ranks;
  int domains;         // pretended
  bool brief = false;  // small counts only
  std::string name() const;
};
std::vector<Group> groups();

// Runs body(rank) for all ranks at once; body returns what went wrong, or nothing. Returns the first.
using Runner =
    std::function<std::string(const CommunicatorSegment&, const std::function<std::string(int rank)>&)>;
std::string run_as_threads(const CommunicatorSegment& segment, const std::function<std::string(int)>& body);
std::string run_as_processes(const CommunicatorSegment& segment, const std::function<std::string(int)>& body);

// Fails the running test where a result differs from the plain loop's.
void run_group(const Group& group, const Runner& run);

}  // namespace annulus::conformance
