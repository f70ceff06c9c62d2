#include "launcher/host_control.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <stdexcept>

#include "collectives/connector.h"
#include "collectives/wait.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

// Numbers of events; connections have kPeers + their node.
constexpr uint64_t kAcceptor = EventPoll::kTimer + 1, kRemotes = kAcceptor + 1, kPeers = kRemotes + 1;
constexpr int64_t kSliceNs = 100'000'000;
// What others have to come in, once it is known that the run will not start.
constexpr int64_t kFurtherNs = 5'000'000'000;
constexpr int64_t kLeaveNs = 5'000'000'000;

std::vector<std::string> names_of(const HostList& list) {
  std::vector<std::string> names;
  for (const Host& host : list.hosts) names.push_back(host.name);
  return names;
}

// Whether the first host, which has started this one, is gone.
bool stdin_has_ended() {
  pollfd wait{STDIN_FILENO, POLLIN, 0};
  if (poll(&wait, 1, 0) <= 0) return false;
  char byte;
  return read(STDIN_FILENO, &byte, 1) == 0;
}

}  // namespace

HostControl::HostControl(const RunHosts& hosts, Say say)
    : hosts_(hosts),
      say_(std::move(say)),
      peers_(hosts.list.hosts.size()),
      member_(hosts.node, [this](const HostMessage& message) {
        if (first()) {
          follow(coordinator_->receive(0, message));
        } else {
          send(0, message);
        }
      }) {
  if (!first()) return;
  acceptor_ = std::make_unique<Acceptor>(listen_for_others(hosts_, hosts_.port), *hosts_.secret, identity(),
                                         [this](const Identity& peer) { return judge(peer); });
  preflight_.emplace(names_of(hosts_.list));
  events_.add(acceptor_->fd(), kAcceptor, EPOLLIN);
}

HostControl::~HostControl() {
  if (remote_) {
    leave();
    remote_->close_inputs();
    // Other hosts end by themselves now, and may have something to say.
    for (const int64_t begin = now_ns(); remote_->any_left() && now_ns() - begin < kLeaveNs;) {
      pollfd wait{remote_->fd(), POLLIN, 0};
      (void)poll(&wait, 1, 100);
      collect_remotes();
    }
  }
}

void HostControl::started_by(std::unique_ptr<RemoteStart> remote) {
  remote_ = std::move(remote);
  events_.add(remote_->fd(), kRemotes, EPOLLIN);
}

Identity HostControl::identity() const {
  return {.purpose = Purpose::kControl,
          .node = static_cast<uint32_t>(hosts_.node),
          .world = static_cast<uint32_t>(hosts_.list.count())};
}

// Versions and configurations are compared later, with names.
Refusal HostControl::judge(const Identity& peer) {
  const Refusal refusal = compare(identity(), peer);
  const bool known = peer.node > 0 && peer.node < peers_.size();
  if (refusal != Refusal::kNone) {
    if (known && phase_ == Phase::kPreflight) {
      preflight_->failed(static_cast<int>(peer.node), describe(refusal, identity(), peer));
    }
    return refusal;
  }
  if (!known) return Refusal::kUnknownRank;
  const bool came_before = peers_[peer.node].stream || preflight_->has_joined(static_cast<int>(peer.node));
  return came_before || phase_ != Phase::kPreflight ? Refusal::kDuplicate : Refusal::kNone;
}

void HostControl::add(int node, UniqueFd fd) {
  events_.add(fd.get(), kPeers + node, EPOLLIN | EPOLLRDHUP);
  FrameStream::Limits limits;
  limits.most_payload = kMostMessageBytes;
  peers_[node] = {std::make_unique<FrameStream>(std::move(fd), "its launcher's connection", limits), 0};
}

void HostControl::send(int node, const HostMessage& message) {
  FrameStream* const stream = peers_[node].stream.get();
  if (stream == nullptr) return;
  const std::string text = to_json(message);
  stream->send_copy(FrameKind::kControl, {}, std::as_bytes(std::span(text)));
  try {
    stream->pump();
  } catch (const LinkError&) {  // what came before the end is read first, from serve()
  }
}

// Takes all that has come, the end of the connection last.
void HostControl::read(int node) {
  std::string lost;
  while (FrameStream* const stream = peers_[node].stream.get()) {
    bool moved = false;
    try {
      moved = lost.empty() && stream->pump();
    } catch (const LinkError& error) {
      lost = error.what();
    }
    const FrameStream::Frame* const frame = stream->peek();
    if (frame == nullptr) {
      if (!lost.empty()) drop(node, lost);
      if (!moved) return;
      continue;
    }
    peers_[node].silent_ns = 0;
    const bool beats = frame->header.kind == FrameKind::kBeat;
    const std::string text(reinterpret_cast<const char*>(frame->payload.data()), frame->payload.size());
    stream->accept();
    stream->release();
    if (beats) continue;
    try {
      take(node, host_message(text));
    } catch (const std::invalid_argument& error) {
      drop(node, fmt::format("it has sent {}", error.what()));
    }
  }
}

void HostControl::take(int node, const HostMessage& message) {
  using Kind = HostMessage::Kind;
  if (!first()) {
    if (phase_ == Phase::kRunning) {
      member_.receive(message);
    } else {
      // What comes behind the start is already the run's.
      if (message.kind == Kind::kStart) phase_ = Phase::kRunning;
      answer_ = message;
    }
  } else if (phase_ == Phase::kRunning) {
    follow(coordinator_->receive(node, message));
  } else if (message.kind == Kind::kJoin) {
    preflight_->joined(node, message.report);
  } else if (message.kind == Kind::kFailed) {
    preflight_->failed(node, message.text);
  } else {
    drop(node, fmt::format("it has sent a message '{}' before the start", name_of(message.kind)));
  }
}

// The connection is over.
void HostControl::drop(int node, const std::string& why) {
  if (!peers_[node].stream) return;
  close(node);
  if (!first()) {
    if (phase_ == Phase::kRunning) {
      member_.coordinator_lost(why);
    } else if (!answer_) {
      answer_ = HostMessage{.kind = HostMessage::Kind::kRefuse, .text = "it has gone: " + why};
    }
  } else if (phase_ == Phase::kRunning) {
    follow(coordinator_->lost(node, why));
  } else {
    preflight_->failed(node, "it has left again: " + why);
  }
}

void HostControl::follow(const HostCoordinator::Orders& orders) {
  for (const auto& [node, order] : orders) {
    if (node == 0) {
      member_.receive(order);
    } else {
      send(node, order);
    }
  }
}

void HostControl::serve() {
  std::array<epoll_event, 32> buffer;
  for (const epoll_event& event : events_.poll(buffer)) {
    const uint64_t number = event.data.u64;
    if (number == kAcceptor) {
      for (Link& link : acceptor_->poll()) {
        const int node = static_cast<int>(link.peer.node);
        if (!peers_[node].stream) add(node, std::move(link.fd));
      }
    } else if (number == kRemotes) {
      collect_remotes();
    } else if (number >= kPeers) {
      read(static_cast<int>(number - kPeers));
    }
  }
}

void HostControl::collect_remotes() {
  for (const RemoteStart::Event& event : remote_->poll()) {
    // Of a refusal the others only repeat what this one says.
    if (!event.line.empty() && !refused_) say_(fmt::format("[{}] {}", name(event.node), event.line));
    if (event.ended && phase_ == Phase::kPreflight) preflight_->failed(event.node, event.why);
  }
}

void HostControl::tick(int64_t elapsed_ns) {
  since_beat_ns_ += elapsed_ns;
  const bool beats = since_beat_ns_ >= kHostBeatNs;
  if (beats) since_beat_ns_ = 0;
  for (int node = 0; node < static_cast<int>(peers_.size()); ++node) {
    Peer& peer = peers_[node];
    if (!peer.stream) continue;
    if (beats && peer.stream->flushed()) peer.stream->send(FrameKind::kBeat, {}, {});
    peer.silent_ns += elapsed_ns;
    read(node);  // sends also what the kernel had no room for
    if (peer.stream && peer.silent_ns > kHostSilenceNs) {
      drop(node, fmt::format("no sign of life of its launcher for {:.1f} s", peer.silent_ns * 1e-9));
    }
  }
}

bool HostControl::alone() const {
  return std::none_of(peers_.begin(), peers_.end(), [](const Peer& peer) { return peer.stream != nullptr; });
}

void HostControl::leave() {
  for (int node = 0; node < static_cast<int>(peers_.size()); ++node) {
    if (peers_[node].stream) close(node);
  }
}

// Processes that were forked meanwhile hold the socket as well.
void HostControl::close(int node) {
  FrameStream& stream = *peers_[node].stream;
  events_.remove(stream.fd());
  (void)shutdown(stream.fd(), SHUT_RDWR);
  peers_[node].stream.reset();
}

void HostControl::wait_a_moment() {
  if (last_wait_ns_ == 0) last_wait_ns_ = now_ns();
  pollfd wait{events_.fd(), POLLIN, 0};
  (void)poll(&wait, 1, static_cast<int>(kSliceNs / 1'000'000));
  serve();
  const int64_t now = now_ns();
  tick(std::min(now - last_wait_ns_, kSliceNs));
  last_wait_ns_ = now;
}

HostStart HostControl::preflight(const HostReport& own, double deadline_s) {
  return first() ? gather(own, deadline_s) : await_start(own, deadline_s);
}

HostStart HostControl::gather(const HostReport& own, double deadline_s) {
  preflight_->joined(0, own);
  const int64_t begin = now_ns();
  int64_t deadline = begin + static_cast<int64_t>(deadline_s * 1e9);
  while (!preflight_->complete() && now_ns() < deadline) {
    wait_a_moment();
    if (preflight_->any_failed()) deadline = std::min(deadline, now_ns() + kFurtherNs);
  }
  for (int node = 1; node < hosts_.list.count(); ++node) {
    if (preflight_->has_joined(node)) continue;
    preflight_->failed(node, fmt::format("unreachable: it did not come to {} within {:.0f} s",
                                         acceptor_->address().text(), (now_ns() - begin) * 1e-9));
  }
  const std::string table = preflight_->table();
  if (!table.empty()) {
    const std::string text =
        fmt::format("the hosts of {} do not make a run; mend this, and give the command again\n{}",
                    hosts_.list.source, table);
    refuse(text);
    throw UserError(text);
  }
  return preflight_->start();
}

void HostControl::start(const HostStart& start) {
  phase_ = Phase::kRunning;
  if (!first()) return;
  coordinator_.emplace(names_of(hosts_.list));
  for (int node = 1; node < hosts_.list.count(); ++node) {
    send(node, {.kind = HostMessage::Kind::kStart, .start = start});
    // It may have left since it was counted.
    if (!peers_[node].stream) follow(coordinator_->lost(node, "it left before the start"));
  }
}

void HostControl::refuse(const std::string& why) {
  if (phase_ != Phase::kPreflight || !first()) return;
  refused_ = true;
  for (int node = 1; node < hosts_.list.count(); ++node) {
    send(node, {.kind = HostMessage::Kind::kRefuse, .text = why});
  }
}

void HostControl::connect(double deadline_s) {
  const Host& to = hosts_.list.hosts[0];
  const auto refuse = [&](const std::string& why) {
    throw UserError::format("--node {}: cannot come to {}, the first host: {}", hosts_.node, to.name, why);
  };
  try {
    Connector connector(
        resolve(to.address, hosts_.port), *hosts_.secret, identity(),
        [this](const Identity& peer) { return compare(identity(), peer); },
        static_cast<int64_t>(deadline_s * 1e9));
    for (;;) {
      if (std::optional<Link> link = connector.poll()) {
        add(0, std::move(link->fd));
        return;
      }
      pollfd wait{connector.fd(), POLLIN, 0};
      (void)poll(&wait, 1, 100);
      if (hosts_.order && stdin_has_ended()) refuse("it has gone");
    }
  } catch (const LinkError& error) {
    refuse(error.what());
  }
}

HostStart HostControl::await_start(const HostReport& own, double deadline_s) {
  connect(deadline_s);
  send(0, {.kind = HostMessage::Kind::kJoin, .report = own});
  while (!answer_) wait_a_moment();
  if (answer_->kind == HostMessage::Kind::kStart) return answer_->start;
  if (answer_->kind != HostMessage::Kind::kRefuse) {
    throw UserError::format("{}, the first host, has sent a message '{}'; is it of the same version?",
                            name(0), name_of(answer_->kind));
  }
  throw UserError::format("{}, the first host, refuses: {}", name(0), answer_->text);
}

void HostControl::give_up(const std::string& why) {
  if (peers_[0].stream || answer_) return;  // it has refused, and knows
  constexpr double kSoonS = 3;
  try {
    connect(kSoonS);
    send(0, {.kind = HostMessage::Kind::kFailed, .code = 2, .text = why});
  } catch (const UserError&) {  // it finds out by itself
  }
}

}  // namespace annulus
