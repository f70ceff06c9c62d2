#include "collectives/connector.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "collectives/wait.h"

namespace annulus {
namespace {

constexpr uint64_t kConnection = EventPoll::kTimer + 1;
constexpr int64_t kRestNs = 50'000'000;

}  // namespace

Connector::Connector(const SocketAddress& to, const Secret& secret, const Identity& own, Policy policy,
                     int64_t limit_ns)
    : to_(to),
      secret_(secret),
      own_(own),
      policy_(std::move(policy)),
      begin_ns_(now_ns()),
      limit_ns_(limit_ns) {
  begin();
  events_.set_timer(std::min(begin_ns_ + limit_ns_, fd_ ? INT64_MAX : next_try_ns_));
}

std::optional<Link> Connector::poll() {
  std::array<epoll_event, 2> buffer;
  const auto events = events_.poll(buffer);
  const bool is_due =
      std::ranges::any_of(events, [](const epoll_event& event) { return event.data.u64 == kConnection; });
  if (!fd_ && now_ns() >= next_try_ns_) begin();

  if (fd_ && is_due && !handshake_) {
    const int error = connect_error(fd_.get());
    if (error != 0) {
      rest(std::strerror(error));
    } else if (local_address(fd_.get()) == peer_address(fd_.get())) {
      // Where nobody listens at a local port, the kernel may choose that very port for this end, and the
      // socket meets itself.
      rest(std::strerror(ECONNREFUSED));
    } else {
      last_ = "connected, but the peer says nothing";
      has_reached_ = true;
      handshake_.emplace(secret_, own_, policy_);
    }
  }
  if (handshake_) {
    if (const auto why = advance(fd_.get(), *handshake_)) {
      rest("connected, then " + *why);
    } else if (handshake_->state() == Handshake::State::kDone) {
      events_.remove(fd_.get());
      return Link{std::move(fd_), handshake_->peer()};
    } else if (handshake_->state() == Handshake::State::kRefused) {
      const Refusal refusal = handshake_->refusal();
      const Identity peer = refusal == Refusal::kStranger ? Identity{} : handshake_->peer();
      const std::string what = describe(refusal, own_, peer);
      if (refusal != Refusal::kAttemptEarly) throw HandshakeRefused(refusal, after() + what);
      rest(what);
    }
  }

  const int64_t deadline_ns = begin_ns_ + limit_ns_;
  if (now_ns() >= deadline_ns) throw LinkError(after() + "no connection; the last try: " + last_);
  events_.set_timer(fd_ ? deadline_ns : std::min(deadline_ns, next_try_ns_));
  return std::nullopt;
}

void Connector::begin() {
  fd_ = start_connect(to_);
  if (!fd_) return rest(std::strerror(errno));
  events_.add(fd_.get(), kConnection, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
}

void Connector::rest(const std::string& why) {
  last_ = why;
  if (fd_) {
    // Closing is not enough where a forked process has the socket, too.
    events_.remove(fd_.get());
    shutdown(fd_.get(), SHUT_RDWR);
  }
  handshake_.reset();
  fd_.reset();
  next_try_ns_ = now_ns() + kRestNs;
}

std::string Connector::after() const {
  return fmt::format("{}: after {:.1f} s: ", to_.text(), static_cast<double>(now_ns() - begin_ns_) * 1e-9);
}

}  // namespace annulus
