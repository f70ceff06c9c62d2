// The connections of a rank's bridge: one to the same rank of every other host, made anew in each attempt.
// Hosts with a lower number are connected to, those with a higher one connect.
#pragma once

#include <vector>

#include "collectives/bridge.h"
#include "collectives/handshake.h"
#include "collectives/tcp.h"

namespace annulus {

struct BridgePeers {
  Identity own;  // purpose kBridge, with node, rank and attempt
  Secret secret;
  std::vector<SocketAddress> addresses;            // by node: where that host's rank listens
  int listener = -1;                               // the own one; stays the caller's
  std::function<std::string(int node)> name = {};  // in messages; empty: by host, rank and address
  int64_t reach_ns = 0;                            // how long a listener is looked for; 0: for ever
};

// How a Bridge gets its streams. Connections of other attempts, ranks and jobs are refused, strangers
// dropped. Peers that are not there yet are waited for without a limit, because their launchers judge them.
// Their listeners are there before any rank is, so who cannot reach one within reach_ns never will: that is
// a StepError, which a further attempt does not mend.
BridgeConnect connect_bridge(BridgePeers peers);

}  // namespace annulus
