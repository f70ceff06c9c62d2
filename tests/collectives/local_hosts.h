// LocalHosts: the hosts of a job on this machine, each with one rank: where their bridges listen, over
// loopback, and how they find each other.
#pragma once

#include <chrono>
#include <thread>
#include <vector>

#include "collectives/bridge_links.h"
#include "collectives/secret.h"

namespace annulus {

class LocalHosts {
 public:
  explicit LocalHosts(int count) : secret_(new_secret()) {
    for (int node = 0; node < count; ++node) {
      listeners_.push_back(listen_on(resolve("127.0.0.1", 0)));
      addresses_.push_back(local_address(listeners_.back().get()));
    }
  }

  int count() const { return static_cast<int>(addresses_.size()); }
  const SocketAddress& address(int node) const { return addresses_[node]; }
  BridgePeers peers(int node, uint32_t attempt) const {
    return {.own = {.purpose = Purpose::kBridge,
                    .node = static_cast<uint32_t>(node),
                    .rank = 0,
                    .world = static_cast<uint32_t>(count()),
                    .attempt = attempt,
                    .job = 7,
                    .config_hash = 8,
                    .program_hash = 9},
            .secret = secret_,
            .addresses = addresses_,
            .listener = listeners_[node].get()};
  }

 private:
  const Secret secret_;
  std::vector<UniqueFd> listeners_;
  std::vector<SocketAddress> addresses_;
};

inline void wait_for(const Bridge& bridge, std::size_t buckets) {
  while (!bridge.reached(buckets)) std::this_thread::sleep_for(std::chrono::microseconds(100));
}

}  // namespace annulus
