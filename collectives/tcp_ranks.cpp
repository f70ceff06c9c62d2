#include "collectives/tcp_ranks.h"

#include <sys/eventfd.h>

#include <algorithm>

#include "collectives/bridge_links.h"
#include "collectives/communicator_segment.h"
#include "telemetry/error.h"

namespace annulus {

static_assert(kPartElements <= kChunkElements, "a part of a call travels in one frame");

TcpRanks::TcpRanks(int ranks) : secret_(new_secret()) {
  for (int rank = 0; rank < ranks; ++rank) {
    listeners_.push_back(listen_on(resolve("127.0.0.1", 0)));
    addresses_.push_back(local_address(listeners_.back().get()));
  }
}

std::unique_ptr<Transport> TcpRanks::connect(int rank, int64_t deadline_ns) const {
  const UniqueFd bell(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));  // nobody rings it
  const int64_t begin = now_ns();
  const BridgeConnect connect_all = connect_bridge(
      {.own = {.purpose = Purpose::kBridge,
               .node = static_cast<uint32_t>(rank),
               .world = static_cast<uint32_t>(ranks())},
       .secret = secret_,
       .addresses = addresses_,
       .listener = listeners_[rank].get(),
       .name = [this](int peer) { return fmt::format("rank {} at {}", peer, addresses_[peer].text()); }});
  TcpTransport::Streams streams = connect_all({[&] { return now_ns() - begin > deadline_ns; }, bell.get()});
  for (int peer = 0; peer < ranks(); ++peer) {
    if (peer == rank || streams[peer]) continue;
    throw LinkError(fmt::format("rank {} and rank {} at {} have not come together within {:.1f} s", rank,
                                peer, addresses_[peer].text(), deadline_ns * 1e-9));
  }
  return std::make_unique<TcpTransport>(rank, std::move(streams), DataType::kF32, TcpTransport::Notes{},
                                        deadline_ns);
}

}  // namespace annulus
