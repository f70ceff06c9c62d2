#include "collectives/frame_stream.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "collectives/crc32c.h"
#include "telemetry/check.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

constexpr int kMostVectors = 16;
// Checked as it comes, while it is in the cache, and so that one connection does not keep others waiting.
constexpr std::size_t kMostAtOnce = 256 << 10;

// Zeros where the kernel does not tell, or the socket is none of TCP.
tcp_info info_of(int fd) {
  tcp_info info{};
  socklen_t size = sizeof info;
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) info = {};
  return info;
}

}  // namespace

FrameStream::FrameStream(UniqueFd fd, std::string name, Limits limits)
    : fd_(std::move(fd)), name_(std::move(name)), limits_(limits) {}

void FrameStream::fail(const std::string& what) const { throw LinkError(name_ + ": " + what); }

uint64_t FrameStream::send(FrameKind kind, const Descriptor& descriptor, std::span<const std::byte> payload,
                           uint32_t note) {
  out_.push_back({make_frame_header(kind, note, descriptor, payload), payload, nullptr});
  return ++queued_;
}

uint64_t FrameStream::send_copy(FrameKind kind, const Descriptor& descriptor,
                                std::span<const std::byte> payload) {
  auto copy = std::make_unique<Buffer>(payload.begin(), payload.end());
  const std::span<const std::byte> bytes(*copy);
  out_.push_back({make_frame_header(kind, 0, descriptor, bytes), bytes, std::move(copy)});
  return ++queued_;
}

bool FrameStream::pump() {
  const bool moved = pump_until_end();
  // What came before the end is still good.
  if (ended()) fail("the other side has closed the connection");
  return moved;
}

bool FrameStream::pump_until_end() {
  bool out = false;
  if (send_failure_.empty()) {
    try {
      out = pump_out();
    } catch (const LinkError& error) {
      send_failure_ = error.what();
    }
  }
  const bool in = pump_in();
  if (!in && !send_failure_.empty()) throw LinkError(send_failure_);
  return in || out;
}

bool FrameStream::pump_out() {
  bool moved = false;
  while (!out_.empty()) {
    iovec vectors[kMostVectors];
    int count = 0;
    std::size_t skip = out_done_;
    const auto add = [&](const std::byte* from, std::size_t bytes) {
      const std::size_t skipped = std::min(skip, bytes);
      skip -= skipped;
      if (skipped == bytes) return;
      vectors[count++] = {const_cast<std::byte*>(from) + skipped, bytes - skipped};
    };
    for (const Outgoing& frame : out_) {
      if (count + 2 > kMostVectors) break;
      add(reinterpret_cast<const std::byte*>(&frame.header), sizeof frame.header);
      add(frame.payload.data(), frame.payload.size());
    }
    msghdr message{};
    message.msg_iov = vectors;
    message.msg_iovlen = count;
    const ssize_t done = sendmsg(fd_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (done < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) break;
      fail(fmt::format("sending failed: {}", std::strerror(errno)));
    }
    moved = true;
    bytes_sent_ += done;
    out_done_ += done;
    while (!out_.empty() && out_done_ >= sizeof(FrameHeader) + out_.front().payload.size()) {
      out_done_ -= sizeof(FrameHeader) + out_.front().payload.size();
      out_.pop_front();
      ++sent_;
    }
  }
  return moved;
}

// Bytes that were received; 0: there are none now, or never will be.
int64_t FrameStream::receive(std::byte* to, std::size_t bytes) {
  for (;;) {
    const ssize_t got = recv(fd_.get(), to, bytes, MSG_DONTWAIT);
    if (got > 0) {
      bytes_received_ += got;
      return got;
    }
    if (got == 0) {
      closed_ = true;
      return 0;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) return 0;
    if (errno != EINTR) fail(fmt::format("receiving failed: {}", std::strerror(errno)));
  }
}

bool FrameStream::pump_in() {
  bool moved = false;
  while (wants_to_read()) {
    if (header_done_ < sizeof header_) {
      const int64_t got = receive(header_ + header_done_, sizeof header_ - header_done_);
      if (got == 0) return moved;
      moved = true;
      header_done_ += got;
      if (header_done_ < sizeof header_) continue;
      try {
        incoming_.frame.header = parse_frame_header(header_, limits_.most_payload);
      } catch (const LinkError& error) {
        fail(error.what());
      }
      if (spare_.empty()) spare_.push_back(std::make_unique<Buffer>());
      incoming_.buffer = std::move(spare_.back());
      spare_.pop_back();
      const std::size_t bytes = incoming_.frame.header.descriptor.length;
      if (incoming_.buffer->size() < bytes) incoming_.buffer->resize(bytes);
      incoming_.frame.payload = std::span(incoming_.buffer->data(), bytes);
      payload_done_ = 0;
      payload_crc_ = 0;
    }
    const std::size_t left = incoming_.frame.payload.size() - payload_done_;
    if (left > 0) {
      std::byte* const to = incoming_.buffer->data() + payload_done_;
      const int64_t got = receive(to, std::min(left, kMostAtOnce));
      if (got == 0) return moved;
      moved = true;
      payload_crc_ = crc32c({to, static_cast<std::size_t>(got)}, payload_crc_);
      payload_done_ += got;
      if (payload_done_ < incoming_.frame.payload.size()) continue;
    }
    if (payload_crc_ != incoming_.frame.header.payload_crc) {
      fail(fmt::format("a frame is refused: its payload's CRC-32C is {:08x}, not {:08x}", payload_crc_,
                       incoming_.frame.header.payload_crc));
    }
    header_done_ = 0;
    held_.push_back(std::move(incoming_));
  }
  return moved;
}

int64_t FrameStream::unacknowledged_ns() const {
  const tcp_info info = info_of(fd_.get());
  return static_cast<int64_t>(info.tcpi_busy_time - info.tcpi_rwnd_limited) * 1000;
}

int64_t FrameStream::link_ns() {
  const tcp_info info = info_of(fd_.get());
  if (info.tcpi_delivery_rate == 0) return link_ns_;
  const double seconds =
      static_cast<double>(bytes_sent_ - timed_bytes_) / static_cast<double>(info.tcpi_delivery_rate);
  timed_bytes_ = bytes_sent_;
  return link_ns_ += static_cast<int64_t>(seconds * 1e9);
}

void FrameStream::accept() {
  CHECK(accepted_ < held_.size());
  ++accepted_;
}

void FrameStream::release() {
  CHECK(accepted_ > 0);
  spare_.push_back(std::move(held_.front().buffer));
  held_.pop_front();
  --accepted_;
}

}  // namespace annulus
