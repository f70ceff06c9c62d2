// Transport: the one seam under the collectives. What carries descriptors, and the payloads that they
// describe, from one rank to its peers.
//
//   MemoryTransport  rings in shared memory; payloads are read where they were written (memory_transport.h)
//   TcpTransport     a connection to each peer; payloads travel with their descriptors (tcp_transport.h)
//
// Who writes: one rank posts and takes, on one thread. Nothing blocks but wait(). Descriptors arrive in the
// order in which their peer posted them.
#pragma once

#include <cstdint>
#include <functional>

#include "collectives/descriptor.h"

namespace annulus {

class Transport {
 public:
  Transport(int rank, int ranks) : rank_(rank), ranks_(ranks) {}
  virtual ~Transport() = default;
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;

  int rank() const { return rank_; }
  int ranks() const { return ranks_; }

  // Whether payloads are read where they were written, in memory that all ranks share. If not, arrived()
  // tells where they are, and no rank can write what is another's.
  virtual bool in_place() const = 0;

  virtual bool can_post(int peer) = 0;
  // Only where can_post(). `payload`: descriptor.length bytes, where the rank has them; they may not change
  // before given_back(). Memory ordering: whoever takes the descriptor sees all that this thread wrote
  // before, non-temporal stores included.
  virtual void post(int peer, const Descriptor& descriptor, const std::byte* payload) = 0;

  // The oldest descriptor from `peer` that has not been accepted; null: none has come. Valid until its
  // release.
  virtual const Descriptor* peek(int peer) = 0;
  // Moves on to the next one.
  virtual void accept(int peer) = 0;
  // The payload of a descriptor that was accepted and not yet released, by its place; only where not
  // in_place().
  virtual const std::byte* arrived(int peer, uint64_t place) const = 0;
  // Gives the oldest descriptor that was accepted back, with its payload. `wakes`: its sender may wait for
  // that.
  virtual void release(int peer, bool wakes) = 0;

  // How many descriptors have been posted to a peer, and whether the payloads of the first `posted` of them
  // may be written again.
  virtual uint64_t posted(int peer) const = 0;
  virtual bool given_back(int peer, uint64_t posted) const = 0;

  // Keeps a rank going that does not wait: whoever only asks whether it can go on calls this now and then.
  // Throws as wait().
  virtual void poll() = 0;
  // Shows that this rank is alive, in the midst of long work.
  virtual void beat() = 0;
  // Returns once ready() is true. `what` says who waits: for room to send to `peer`, or for a descriptor from
  // it. Throws what the transport's peers or the launcher make of the wait. Give `ready` by std::ref: that
  // allocates nothing.
  struct Waiting {
    bool sends = false;
    int peer = 0;
    uint32_t bucket = 0, step = 0;
  };
  virtual void wait(const Waiting& what, const std::function<bool()>& ready) = 0;

 private:
  const int rank_, ranks_;
};

}  // namespace annulus
