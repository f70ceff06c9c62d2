#include "launcher/death_causes.h"

#include <fmt/format.h>
#include <signal.h>

#include <cstring>
#include <utility>

namespace annulus {

std::string DeathCauses::describe(const ChildEnd& end) {
  std::string text = fmt::format("was killed by signal {} ({})", end.signal, strsignal(end.signal));
  if (end.signal != SIGKILL) return text;
  std::vector<OomKills> now = read_oom_kills();
  const std::string counted = oom_killed_since(oom_kills_, now);
  oom_kills_ = std::move(now);
  return text + (counted.empty() ? ", not by the out-of-memory killer"
                                 : fmt::format(" by the out-of-memory killer ({} counts it; use a smaller "
                                               "--batch-size or fewer --workers)",
                                               counted));
}

}  // namespace annulus
