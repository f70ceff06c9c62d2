// Connector: gets one connection to a peer that may not be there yet.
//
// It tries again, every 50 ms, while nobody listens at the address, while connections end before the
// handshake does, and while the peer has yet to begin the attempt. It gives up when the peer refuses for
// another reason, or does not know the secret, or time is up.
//
// Nothing here blocks. One thread uses a connector, when its one descriptor is readable.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "collectives/event_poll.h"
#include "collectives/handshake.h"
#include "collectives/link.h"
#include "collectives/tcp.h"
#include "telemetry/error.h"

namespace annulus {

// A peer that will have no connection with this process, or the other way round.
class HandshakeRefused : public LinkError {
 public:
  HandshakeRefused(Refusal refusal, const std::string& what) : LinkError(what), refusal_(refusal) {}

  Refusal refusal() const { return refusal_; }

 private:
  Refusal refusal_;
};

class Connector {
 public:
  // Begins at once. `policy` judges the server, from poll(); `limit_ns` is for all tries together.
  Connector(const SocketAddress& to, const Secret& secret, const Identity& own, Policy policy,
            int64_t limit_ns);

  // Readable when poll() has something to do.
  int fd() const { return events_.fd(); }

  // Does what can be done now. Returns the connection once it is there; afterwards poll() must not be called.
  // Throws LinkError where time is up, HandshakeRefused where the peer or the policy refuses for good, both
  // with the address, how long it took and why, and what the policy throws.
  std::optional<Link> poll();

  // Whether any try has come as far as the peer's listener, which then may be busy with something else.
  bool has_reached() const { return has_reached_; }
  const std::string& last_try() const { return last_; }  // what became of it

 private:
  void begin();
  // The try has failed; there will be another one.
  void rest(const std::string& why);
  std::string after() const;  // "10.0.0.2:4711: after 1.5 s: "

  const SocketAddress to_;
  const Secret secret_;
  const Identity own_;
  const Policy policy_;
  const int64_t begin_ns_, limit_ns_;
  EventPoll events_;
  int64_t next_try_ns_ = 0;
  bool has_reached_ = false;
  std::string last_ = "no answer";  // what became of the last try, as far as is known
  // Of this try; no descriptor between tries, no handshake before it is connected.
  UniqueFd fd_;
  std::optional<ClientHandshake> handshake_;
};

}  // namespace annulus
