// Lets ranks die at the points of the protocol (collectives/protocol_point.h), in their own processes.
#pragma once

#include <vector>

#include "collectives/protocol_point.h"

namespace annulus {

// SIGKILL for a rank's process when it comes by a point for the `visit`-th time (from 1) in its life. A rank
// that has been replaced counts from 1 again; each death happens once.
struct Death {
  int rank = 0;
  ProtocolPoint point{};
  int visit = 1;
  // Not SIGKILL: the thread that comes by ends, and another one keeps the process from ending with it.
  bool lingers = false;
};

// What processes forked from now on shall die of; replaces earlier ones.
void plan_deaths(const std::vector<Death>& deaths);

// How many of them have happened.
int deaths_so_far();

}  // namespace annulus
