#include "collectives/bridge_links.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <optional>

#include "collectives/acceptor.h"
#include "collectives/connector.h"
#include "collectives/wait.h"
#include "telemetry/check.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

// A part of a chunk is the most that is sent at once.
constexpr FrameStream::Limits kLimits{.most_payload = kChunkElements * sizeof(float), .most_held = 64};

// The same rank, in the same attempt.
Refusal compare_ranks(const Identity& own, const Identity& peer) {
  if (peer.rank != own.rank || peer.node == own.node) return Refusal::kUnknownRank;
  return compare_attempts(own, peer);
}

TcpTransport::Streams connect_all(const BridgePeers& peers, const Bridge::Leave& leave) {
  const int hosts = static_cast<int>(peers.addresses.size()), node = static_cast<int>(peers.own.node);
  TcpTransport::Streams streams(hosts);
  const auto name = [&](int host) {
    if (peers.name) return peers.name(host);
    return fmt::format("host {}'s rank {} at {}", host, peers.own.rank, peers.addresses[host].text());
  };
  const auto take = [&](Link link) {
    const int host = static_cast<int>(link.peer.node);
    streams[host] = std::make_unique<FrameStream>(std::move(link.fd), name(host), kLimits);
  };

  const int listener = fcntl(peers.listener, F_DUPFD_CLOEXEC, 0);
  CHECK(listener >= 0, "{}", std::strerror(errno));
  Acceptor acceptor(UniqueFd(listener), peers.secret, peers.own, [&](const Identity& peer) {
    const Refusal refusal = compare_ranks(peers.own, peer);
    if (refusal != Refusal::kNone) return refusal;
    if (peer.node < peers.own.node) return Refusal::kUnknownRank;
    return streams[peer.node] ? Refusal::kDuplicate : Refusal::kNone;
  });
  std::vector<std::optional<Connector>> connectors(node);
  for (int host = 0; host < node; ++host) {
    connectors[host].emplace(
        peers.addresses[host], peers.secret, peers.own,
        [&peers, host](const Identity& peer) {
          const Refusal refusal = compare_ranks(peers.own, peer);
          if (refusal != Refusal::kNone) return refusal;
          return peer.node == static_cast<uint32_t>(host) ? Refusal::kNone : Refusal::kUnknownRank;
        },
        std::numeric_limits<int64_t>::max() / 2);
  }

  const auto missing = [&] {
    int count = -1;  // the own one
    for (const auto& stream : streams) count += stream ? 0 : 1;
    return count > 0;
  };
  int64_t waited_ns = 0, before = now_ns();
  while (missing() && !leave.asked()) {
    std::vector<pollfd> fds{{leave.fd, POLLIN, 0}, {acceptor.fd(), POLLIN, 0}};
    for (const auto& connector : connectors) {
      if (connector) fds.push_back({connector->fd(), POLLIN, 0});
    }
    (void)poll(fds.data(), fds.size(), static_cast<int>(kSleepSliceNs / 1'000'000));
    // It rings for buckets, too, which wait until all are connected; unread it would let nobody sleep.
    uint64_t rings;
    (void)!read(leave.fd, &rings, sizeof rings);
    for (Link& link : acceptor.poll()) take(std::move(link));
    for (auto& connector : connectors) {
      if (!connector) continue;
      if (std::optional<Link> link = connector->poll()) {
        take(std::move(*link));
        connector.reset();
      }
    }
    const int64_t now = now_ns();
    waited_ns += std::min(now - before, kSleepSliceNs);  // a stopped machine does not age
    before = now;
    if (peers.reach_ns == 0 || waited_ns < peers.reach_ns) continue;
    for (int host = 0; host < node; ++host) {
      if (!connectors[host] || connectors[host]->has_reached()) continue;
      throw StepError(
          fmt::format("host {} cannot reach {}: not within {:.1f} s, and the last try came to: {}; the "
                      "workers' ports must be open between hosts, not the launchers' alone "
                      "(docs/multi-node.md)",
                      node, name(host), waited_ns * 1e-9, connectors[host]->last_try()));
    }
  }
  return streams;
}

}  // namespace

BridgeConnect connect_bridge(BridgePeers peers) {
  return [peers = std::move(peers)](const Bridge::Leave& leave) { return connect_all(peers, leave); };
}

}  // namespace annulus
