// The signals that a run takes as requests.
#pragma once

#include <signal.h>

namespace annulus {

// SIGINT, SIGTERM, SIGUSR1 (which batch systems send before the time is over), SIGHUP (unless ignored, as
// nohup does) and SIGTSTP.
sigset_t watched_signals();

// Keeps them from ending or stopping the process while it lives: run_job takes them as requests, and
// afterwards they wait. May be nested.
class SignalBlock {
 public:
  SignalBlock();
  ~SignalBlock();
  SignalBlock(const SignalBlock&) = delete;
  SignalBlock& operator=(const SignalBlock&) = delete;

 private:
  sigset_t before_;
};

}  // namespace annulus
