// HostPlan: the hosts of a run, as each of them sees it. Made by the launcher before it forks; workers
// inherit it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "collectives/handshake.h"
#include "collectives/summation_tree.h"
#include "collectives/tcp.h"

namespace annulus {

struct HostPlan {
  int count = 1;
  int node = 0;                    // this host
  std::vector<std::string> names;  // by node
  // By node and rank: where that rank listens for its peers. No name is looked up once the run has begun,
  // when a name service that fails would end it.
  std::vector<std::vector<SocketAddress>> addresses;
  std::vector<int> listeners;         // by own rank: its listening socket
  std::optional<Secret> secret = {};  // where there are several
  uint64_t job = 0;
  uint64_t config_hash = 0;

  bool several() const { return count > 1; }
  // The shards of the global batch that this host computes.
  ShardRange shards(int64_t all) const { return deal(node, count, all); }
};

}  // namespace annulus
