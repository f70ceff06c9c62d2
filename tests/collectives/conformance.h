// The conformance suite of Communicator: what to call, and what must come out.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "collectives/communicator.h"

namespace annulus::conformance {

enum class Over : uint8_t { kMemory, kTcp };

// One communicator; all collectives, counts and types are tried on it one after the other.
struct Group {
  Algorithm algorithm;
  int ranks;
  int domains;         // pretended
  bool brief = false;  // small counts only
  Over transport = Over::kMemory;
  std::string name() const;
};
std::vector<Group> groups(Over transport);

// Runs body(rank) for all ranks at once; body returns what went wrong, or nothing. Returns the first.
using Runner = std::function<std::string(int ranks, const std::function<std::string(int rank)>& body)>;
std::string run_as_threads(int ranks, const std::function<std::string(int)>& body);
std::string run_as_processes(int ranks, const std::function<std::string(int)>& body);

// Fails the running test where a result differs from the plain loop's.
void run_group(const Group& group, const Runner& run);

}  // namespace annulus::conformance
