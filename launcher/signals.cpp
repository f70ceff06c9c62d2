#include "launcher/signals.h"

#include <initializer_list>

namespace annulus {

sigset_t watched_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1, SIGHUP, SIGTSTP}) sigaddset(&set, signal);
  // Under nohup SIGHUP is ignored, and shall be: a blocked signal would reach the signalfd all the same.
  struct sigaction hangup {};
  sigaction(SIGHUP, nullptr, &hangup);
  if (hangup.sa_handler == SIG_IGN) sigdelset(&set, SIGHUP);
  return set;
}

SignalBlock::SignalBlock() {
  const sigset_t set = watched_signals();
  sigprocmask(SIG_BLOCK, &set, &before_);
}

SignalBlock::~SignalBlock() { sigprocmask(SIG_SETMASK, &before_, nullptr); }

}  // namespace annulus
