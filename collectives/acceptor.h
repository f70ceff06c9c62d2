// Acceptor: a listening socket that hands out only those connections whose other end knows the job's secret
// and suits the policy.
//
// Strangers disturb nobody. A connection has 3 s in all to prove itself, however many bytes it sends. No more
// than 64 are waited for; for one more the oldest is dropped, of those that have not even greeted if there
// are any. All are dropped without an answer, and counted.
//
// Nothing here blocks. One thread uses an acceptor, when its one descriptor is readable.
#pragma once

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "collectives/event_poll.h"
#include "collectives/handshake.h"
#include "collectives/link.h"
#include "collectives/tcp.h"

namespace annulus {

struct AcceptorLimits {
  int64_t handshake_ns = 3'000'000'000;
  size_t pending = 64;
};

// Of connections that came to nothing.
struct AcceptorCounts {
  int64_t refused = 0;    // proven, but not to the policy's liking
  int64_t strangers = 0;  // with a wrong proof or garbage
  int64_t closed = 0;     // by the other side
  int64_t late = 0;
  int64_t crowded_out = 0;
};

class Acceptor {
 public:
  // `listener` is one of listen_on(). `policy` is called from poll().
  Acceptor(UniqueFd listener, const Secret& secret, const Identity& own, Policy policy,
           AcceptorLimits limits = {});

  // Readable when poll() has something to do.
  int fd() const { return events_.fd(); }
  SocketAddress address() const { return local_address(listener_.get()); }

  // What the server is, from the next connection on: its attempt changes.
  void set_identity(const Identity& own) { own_ = own; }

  // Does what can be done now, and returns the connections that became good. Throws UserError where the
  // process has no descriptor left, and what the policy throws.
  std::vector<Link> poll();

  const AcceptorCounts& counts() const { return counts_; }
  size_t pending() const { return pending_.size(); }

 private:
  struct Pending {
    Pending(UniqueFd fd, const Acceptor& acceptor, int64_t deadline_ns)
        : fd(std::move(fd)),
          handshake(acceptor.secret_, acceptor.own_, acceptor.policy_),
          deadline_ns(deadline_ns) {}

    UniqueFd fd;
    ServerHandshake handshake;
    int64_t deadline_ns;
  };
  using Iterator = std::map<uint64_t, Pending>::iterator;

  void accept_waiting(std::vector<Link>& links);
  // Talks to one; hands it out or drops it where the talk is over.
  void go_on(Iterator at, std::vector<Link>& links);
  void drop(Iterator at, int64_t& count);
  void drop_one_of_too_many();

  UniqueFd listener_;
  EventPoll events_;
  const Secret secret_;
  Identity own_;
  const Policy policy_;
  const AcceptorLimits limits_;
  std::map<uint64_t, Pending> pending_;  // by number, and so by age
  uint64_t next_number_;
  AcceptorCounts counts_;
};

}  // namespace annulus
