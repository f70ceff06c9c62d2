// The kinds of failure that are not bugs: what a user can mend before the run (UserError), what a peer, a
// deadline or an abort does to a step (StepError and its kin), and what a network does (LinkError).
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace annulus {

// Something the user gave or the machine lacks: a flag, a file, a limit. The text names it, its value and the
// remedy. The program ends with exit code 2 before anything was started.
class UserError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;

  template <typename... Args>
  static UserError format(fmt::format_string<Args...> text, Args&&... args) {
    return UserError(fmt::format(text, std::forward<Args>(args)...));
  }
};

// A step that cannot be finished on this rank, though the program is sound: a descriptor that does not fit, a
// deadline that passed. The text names this rank, the peer, the bucket and the step, and ends with a remedy.
class StepError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The launcher asked all ranks to give up the step under way. Unwinds a worker to the step's boundary.
class StepAborted : public std::runtime_error {
 public:
  StepAborted() : std::runtime_error("step aborted by the launcher") {}
};

// A connection to another host that is of no more use: closed, reset, timed out, or with bytes on it that its
// peer cannot have sent. The text names both ends and what was seen. The step can be repeated over a new one.
class LinkError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace annulus
