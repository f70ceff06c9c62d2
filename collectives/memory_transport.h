// MemoryTransport: rings of descriptors in shared memory (spsc_ring.h); the payloads lie there too and are
// read in place.
#pragma once

#include <optional>
#include <vector>

#include "collectives/publish.h"
#include "collectives/spsc_ring.h"
#include "collectives/transport.h"
#include "collectives/wait.h"

namespace annulus {

class MemoryTransport final : public Transport {
 public:
  // Claims the waiter's rank's ends. `ring(from, to)`: the ring between two ranks; asked only for pairs of
  // which `uses(from, to)`.
  MemoryTransport(int ranks, Waiter& waiter, const std::function<bool(int from, int to)>& uses,
                  const std::function<SpscRing(int from, int to)>& ring)
      : Transport(waiter.rank(), ranks), waiter_(waiter), peers_(ranks) {
    for (int peer = 0; peer < ranks; ++peer) {
      if (peer == rank()) continue;
      if (uses(rank(), peer)) peers_[peer].sender = ring(rank(), peer).sender();
      if (uses(peer, rank())) peers_[peer].receiver = ring(peer, rank()).receiver();
    }
  }

  bool in_place() const override { return true; }
  bool can_post(int peer) override { return peers_[peer].sender->can_send(); }
  void post(int peer, const Descriptor& descriptor, const std::byte*) override {
    CHECK(publish(*peers_[peer].sender, descriptor));
    waiter_.wake(peer);
  }
  const Descriptor* peek(int peer) override { return peers_[peer].receiver->peek(); }
  void accept(int peer) override { peers_[peer].receiver->accept(); }
  const std::byte* arrived(int, uint64_t) const override { return nullptr; }
  void release(int peer, bool wakes) override {
    peers_[peer].receiver->release();
    if (wakes) waiter_.wake(peer);
  }
  uint64_t posted(int peer) const override { return peers_[peer].sender ? peers_[peer].sender->sent() : 0; }
  bool given_back(int peer, uint64_t posted) const override {
    return !peers_[peer].sender || peers_[peer].sender->given_back(posted);
  }
  void poll() override {  // who polls must see what who waits sees, and be seen
    waiter_.check_abort();
    waiter_.beat();
  }
  void beat() override { waiter_.beat(); }
  void wait(const Waiting& what, const std::function<bool()>& ready) override {
    waiter_.wait({what.sends ? Await::kRingLine : Await::kMessage, static_cast<uint32_t>(what.peer),
                  what.bucket, what.step},
                 ready);
  }

 private:
  struct Peer {
    std::optional<SpscRing::Sender> sender;
    std::optional<SpscRing::Receiver> receiver;
  };
  Waiter& waiter_;
  std::vector<Peer> peers_;
};

}  // namespace annulus
