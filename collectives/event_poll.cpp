#include "collectives/event_poll.h"

#include <sys/timerfd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "telemetry/check.h"
#include "telemetry/error.h"

namespace annulus {

EventPoll::EventPoll()
    : epoll_(epoll_create1(EPOLL_CLOEXEC)),
      timer_(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)) {
  if (!epoll_ || !timer_) {
    throw UserError::format("epoll or timer: {}. Remedy: raise the limit of open files, `ulimit -n`",
                            std::strerror(errno));
  }
  add(timer_.get(), kTimer, EPOLLIN);
}

void EventPoll::add(int fd, uint64_t number, uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = number;
  CHECK(epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0, "{}", std::strerror(errno));
}

void EventPoll::remove(int fd) {
  CHECK(epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr) == 0, "{}", std::strerror(errno));
}

void EventPoll::set_timer(int64_t at_ns) {
  if (at_ns == timer_ns_) return;
  timer_ns_ = at_ns;
  itimerspec spec{};
  spec.it_value.tv_sec = at_ns / 1'000'000'000;
  spec.it_value.tv_nsec = at_ns % 1'000'000'000;
  CHECK(timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &spec, nullptr) == 0, "{}", std::strerror(errno));
}

std::span<epoll_event> EventPoll::poll(std::span<epoll_event> events) {
  const int count = epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), 0);
  if (count < 0) {
    CHECK(errno == EINTR, "{}", std::strerror(errno));
    return {};
  }
  const auto happened = events.first(static_cast<size_t>(count));
  if (std::ranges::any_of(happened, [](const epoll_event& event) { return event.data.u64 == kTimer; })) {
    set_timer(0);  // which also takes the event back
  }
  return happened;
}

}  // namespace annulus
