// DeathCauses: what ended a process, in words.
#pragma once

#include <string>
#include <vector>

#include "launcher/child_process.h"
#include "launcher/limits.h"

namespace annulus {

class DeathCauses {
 public:
  // Of a process that a signal has ended: the signal, and the file in which the out-of-memory killer has
  // counted one more since the construction, or since the last call.
  std::string describe(const ChildEnd& end);

 private:
  std::vector<OomKills> oom_kills_ = read_oom_kills();
};

}  // namespace annulus
