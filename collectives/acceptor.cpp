#include "collectives/acceptor.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "collectives/wait.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

constexpr uint64_t kListener = EventPoll::kTimer + 1, kFirstConnection = kListener + 1;
constexpr int kMostAtOnce = 64;  // connections accepted in one poll(), which must come to an end

}  // namespace

Acceptor::Acceptor(UniqueFd listener, const Secret& secret, const Identity& own, Policy policy,
                   AcceptorLimits limits)
    : listener_(std::move(listener)),
      secret_(secret),
      own_(own),
      policy_(std::move(policy)),
      limits_(limits),
      next_number_(kFirstConnection) {
  events_.add(listener_.get(), kListener, EPOLLIN);
}

std::vector<Link> Acceptor::poll() {
  std::vector<Link> links;
  std::array<epoll_event, 128> buffer;
  bool is_wanted = false;
  for (const epoll_event& event : events_.poll(buffer)) {
    if (event.data.u64 == kListener) is_wanted = true;
    if (const auto at = pending_.find(event.data.u64); at != pending_.end()) go_on(at, links);
  }
  // Afterwards: those that have something to say are not to be crowded out before it was heard.
  if (is_wanted) accept_waiting(links);

  const int64_t now = now_ns();
  while (!pending_.empty() && pending_.begin()->second.deadline_ns <= now)
    drop(pending_.begin(), counts_.late);
  events_.set_timer(pending_.empty() ? 0 : pending_.begin()->second.deadline_ns);
  return links;
}

void Acceptor::accept_waiting(std::vector<Link>& links) {
  for (int i = 0; i < kMostAtOnce; ++i) {
    UniqueFd fd = accept_from(listener_.get());
    if (!fd) {
      if (errno == EAGAIN) return;
      if (errno == EMFILE || errno == ENFILE) {
        throw UserError::format("a connection cannot be accepted: {}. Remedy: raise `ulimit -n`",
                                std::strerror(errno));
      }
      continue;  // it broke while it waited
    }
    if (pending_.size() == limits_.pending) drop_one_of_too_many();
    events_.add(fd.get(), next_number_, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
    const int64_t deadline_ns = now_ns() + limits_.handshake_ns;
    go_on(pending_.try_emplace(next_number_++, std::move(fd), *this, deadline_ns).first, links);
  }
}

void Acceptor::go_on(Iterator at, std::vector<Link>& links) {
  Pending& pending = at->second;
  ServerHandshake& handshake = pending.handshake;
  if (advance(pending.fd.get(), handshake)) return drop(at, counts_.closed);
  if (handshake.state() == Handshake::State::kRunning || !handshake.output().empty()) return;
  if (handshake.state() == Handshake::State::kRefused) {
    return drop(at, handshake.refusal() == Refusal::kStranger ? counts_.strangers : counts_.refused);
  }
  events_.remove(pending.fd.get());
  links.push_back({std::move(pending.fd), handshake.peer()});
  pending_.erase(at);
}

void Acceptor::drop(Iterator at, int64_t& count) {
  ++count;
  const int fd = at->second.fd.get();
  // Closing is not enough where a forked process has the socket, too.
  events_.remove(fd);
  shutdown(fd, SHUT_RDWR);
  pending_.erase(at);
}

void Acceptor::drop_one_of_too_many() {
  const auto is_silent = [](const auto& entry) { return !entry.second.handshake.was_greeted(); };
  const auto silent = std::ranges::find_if(pending_, is_silent);
  drop(silent != pending_.end() ? silent : pending_.begin(), counts_.crowded_out);
}

}  // namespace annulus
