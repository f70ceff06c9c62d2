// What Acceptor and Connector share: an epoll with a timer in it, so that their users wait for one
// descriptor.
#pragma once

#include <sys/epoll.h>

#include <cstdint>
#include <span>

#include "collectives/unique_fd.h"

namespace annulus {

class EventPoll {
 public:
  // Events of the timer carry this number.
  static constexpr uint64_t kTimer = 0;

  // Throws UserError where the process has no descriptor left.
  EventPoll();

  int fd() const { return epoll_.get(); }

  // Has `fd` watched until it is closed. EPOLLIN alone: events come as long as there is something to read.
  // With EPOLLET: once for each change.
  void add(int fd, uint64_t number, uint32_t events);
  void remove(int fd);

  // The timer goes off at `at_ns` of now_ns(); 0: never.
  void set_timer(int64_t at_ns);

  // What has happened, without waiting for it. The timer, if it went off, is set to never.
  std::span<epoll_event> poll(std::span<epoll_event> events);

 private:
  UniqueFd epoll_, timer_;
  int64_t timer_ns_ = 0;
};

}  // namespace annulus
