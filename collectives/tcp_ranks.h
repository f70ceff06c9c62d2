// TcpRanks: where the ranks of a Communicator over TCP find each other: an address and a listener for each,
// and the secret that they share. Made before the ranks are forked or started as threads; on this machine.
#pragma once

#include <memory>
#include <vector>

#include "collectives/secret.h"
#include "collectives/tcp.h"
#include "collectives/tcp_transport.h"

namespace annulus {

class TcpRanks {
 public:
  // On loopback, on ports that the kernel chooses. Throws UserError where there are none.
  explicit TcpRanks(int ranks);

  int ranks() const { return static_cast<int>(listeners_.size()); }
  // Connects `rank` to all others, and returns when all have come. Each rank calls it once. `deadline_ns`:
  // for that, and then the transport's. Throws LinkError.
  std::unique_ptr<Transport> connect(int rank, int64_t deadline_ns) const;

 private:
  Secret secret_;
  std::vector<UniqueFd> listeners_;
  std::vector<SocketAddress> addresses_;
};

}  // namespace annulus
