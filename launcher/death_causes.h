// DeathCauses: what ended a process, in words.
#pragma once

#include <string>
#include <vector>

#include "launcher/child_process.h"
#include "launcher/limits.h"

namespace annulus {

class DeathCauses {
 public:
  // Of a process that a signal has ended: the signal. Of SIGKILL also whether it was the out-of-memory
  // killer's: the file in which that has counted one more since the construction, or the last such call.
  std::string describe(const ChildEnd& end);

 private:
  std::vector<OomKills> oom_kills_ = read_oom_kills();
};

}  // namespace annulus
