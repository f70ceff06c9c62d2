#include "collectives/tcp_transport.h"

#include <poll.h>

#include <algorithm>

#include "collectives/wait.h"
#include "kernels/reduce.h"
#include "telemetry/check.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

constexpr uint64_t kMostUnsent = 64;  // frames for one peer that the kernel has not taken

}  // namespace

TcpTransport::TcpTransport(int rank, Streams streams, DataType wire, Notes notes, int64_t deadline_ns)
    : Transport(rank, static_cast<int>(streams.size())),
      wire_(wire),
      notes_(std::move(notes)),
      deadline_ns_(deadline_ns) {
  for (auto& stream : streams) peers_.emplace_back().stream = std::move(stream);
}

bool TcpTransport::can_post(int index) {
  FrameStream& stream = *peers_[index].stream;
  if (stream.unsent() >= kMostUnsent) stream.pump();
  return stream.unsent() < kMostUnsent;
}

void TcpTransport::post(int index, const Descriptor& descriptor, const std::byte* payload) {
  Peer& peer = peers_[index];
  std::span<const std::byte> bytes(payload, payload == nullptr ? 0 : descriptor.length);
  while (!peer.narrowed.empty() && peer.stream->sent(peer.narrowed.front().number)) {
    peer.narrowed.pop_front();
  }
  if (is_narrow() && !bytes.empty()) {
    const int64_t elements = static_cast<int64_t>(descriptor.length / sizeof(float));
    peer.narrowed.push_back({peer.stream->queued() + 1, std::vector<std::byte>(elements * size_of(wire_))});
    std::vector<std::byte>& narrow_bytes = peer.narrowed.back().bytes;
    narrow(wire_, elements, reinterpret_cast<const float*>(payload), narrow_bytes.data());
    bytes = narrow_bytes;
  }
  peer.stream->send(FrameKind::kPayload, descriptor, bytes, notes_.write());
  peer.stream->pump_until_end();  // this may have been the last that the peer was there for
}

const Descriptor* TcpTransport::peek(int index) {
  Peer& peer = peers_[index];
  const FrameStream::Frame* frame = peer.stream->peek();
  if (frame == nullptr) {
    peer.stream->pump();
    frame = peer.stream->peek();
    if (frame == nullptr) return nullptr;
  }
  if (frame->header.kind != FrameKind::kPayload) {
    throw LinkError(peer.stream->name() + ": a frame that is no payload came between payloads");
  }
  peer.front = frame->header.descriptor;
  if (is_narrow()) peer.front.length *= sizeof(float) / size_of(wire_);
  return &peer.front;
}

void TcpTransport::accept(int index) {
  Peer& peer = peers_[index];
  const FrameStream::Frame& frame = *peer.stream->peek();
  notes_.read(frame.header.note);
  if (is_narrow()) {
    if (peer.spare.empty()) peer.spare.emplace_back();
    std::vector<float>& values = peer.widened.emplace_back(std::move(peer.spare.back()));
    peer.spare.pop_back();
    const int64_t elements = static_cast<int64_t>(frame.payload.size() / size_of(wire_));
    if (static_cast<int64_t>(values.size()) < elements) values.resize(elements);
    widen(wire_, elements, frame.payload.data(), values.data());
  }
  peer.stream->accept();
}

const std::byte* TcpTransport::arrived(int index, uint64_t place) const {
  const Peer& peer = peers_[index];
  for (std::size_t i = 0; i < peer.stream->accepted(); ++i) {
    const FrameStream::Frame& frame = peer.stream->accepted(i);
    if (frame.header.descriptor.place != place) continue;
    return is_narrow() ? reinterpret_cast<const std::byte*>(peer.widened[i].data()) : frame.payload.data();
  }
  CHECK(false, "nothing of rank {} has been accepted for place {}", index, place);
  return nullptr;
}

void TcpTransport::release(int index, bool) {
  Peer& peer = peers_[index];
  peer.stream->release();
  if (!is_narrow()) return;
  peer.spare.push_back(std::move(peer.widened.front()));
  peer.widened.pop_front();
}

uint64_t TcpTransport::posted(int index) const {
  return peers_[index].stream ? peers_[index].stream->queued() : 0;
}

bool TcpTransport::given_back(int index, uint64_t posted) const {
  return !peers_[index].stream || peers_[index].stream->sent(posted);
}

void TcpTransport::wait(const Waiting& what, const std::function<bool()>& ready) {
  int64_t quiet_ns = 0, before = now_ns();
  while (!ready()) {
    if (pump_until_ends()) {
      quiet_ns = 0;
      before = now_ns();
      continue;
    }
    sleep();
    const int64_t now = now_ns();
    quiet_ns += std::min(now - before, kSleepSliceNs);  // a stopped machine does not age
    before = now;
    if (deadline_ns_ == 0 || quiet_ns < deadline_ns_) continue;
    throw StepError(
        fmt::format("rank {} has waited for {} rank {} (part {}, call {}) while nothing came or went for "
                    "{:.1f} s; all ranks must make the same calls in the same order, and {} must be alive",
                    rank(), what.sends ? "room to send to" : "a message of", what.peer, what.bucket,
                    what.step, quiet_ns * 1e-9, peers_[what.peer].stream->name()));
  }
}

bool TcpTransport::pump_until_ends() {
  bool moved = false;
  for (Peer& peer : peers_) moved |= peer.stream && peer.stream->pump_until_end();
  return moved;
}

bool TcpTransport::pump() {
  bool moved = false;
  for (Peer& peer : peers_) moved |= peer.stream && peer.stream->pump();
  return moved;
}

bool TcpTransport::flushed() const {
  for (const Peer& peer : peers_) {
    if (peer.stream && !peer.stream->flushed()) return false;
  }
  return true;
}

void TcpTransport::sleep(int wake_fd) const {
  std::vector<pollfd> fds;
  for (const Peer& peer : peers_) {
    if (!peer.stream) continue;
    const int in = peer.stream->wants_to_read() ? POLLIN : 0;
    const int out = peer.stream->wants_to_write() ? POLLOUT : 0;
    // Of one that nothing is wanted of poll() would report its end, at once and for ever.
    fds.push_back({in | out ? peer.stream->fd() : -1, static_cast<short>(in | out), 0});
  }
  if (wake_fd >= 0) fds.push_back({wake_fd, POLLIN, 0});
  (void)::poll(fds.data(), fds.size(), static_cast<int>(kSleepSliceNs / 1'000'000));
}

uint64_t TcpTransport::bytes_sent() const {
  uint64_t sum = 0;
  for (const Peer& peer : peers_) sum += peer.stream ? peer.stream->bytes_sent() : 0;
  return sum;
}

int64_t TcpTransport::link_ns() {
  int64_t longest = 0;
  for (Peer& peer : peers_) longest = std::max(longest, peer.stream ? peer.stream->link_ns() : 0);
  return longest;
}

int64_t TcpTransport::unacknowledged_ns() const {
  int64_t longest = 0;
  for (const Peer& peer : peers_) {
    longest = std::max(longest, peer.stream ? peer.stream->unacknowledged_ns() : 0);
  }
  return longest;
}

}  // namespace annulus
