// libFuzzer's entry to frames and streams of them. The first byte says how, the rest is what comes over the
// connection: bit 0 with checksums made right, so that what is behind them is reached; the higher bits: in
// pieces of how many 32 bytes, or all at once.
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "collectives/crc32c.h"
#include "collectives/frame.h"
#include "collectives/frame_stream.h"
#include "collectives/unique_fd.h"
#include "telemetry/check.h"
#include "telemetry/error.h"

using namespace annulus;

namespace {

using Bytes = std::vector<std::byte>;

constexpr uint64_t kMostPayload = 512;
constexpr size_t kHeader = sizeof(FrameHeader);

std::optional<FrameHeader> parsed(std::span<const std::byte, kHeader> bytes) {
  try {
    const FrameHeader header = parse_frame_header(bytes, kMostPayload);
    CHECK(std::memcmp(&header, bytes.data(), kHeader) == 0);
    CHECK(header.descriptor.length <= kMostPayload);
    return header;
  } catch (const LinkError&) {
    return std::nullopt;
  }
}

// Puts right sums into the frames that follow each other in `bytes`.
void repair(Bytes& bytes) {
  for (size_t at = 0; at + kHeader <= bytes.size();) {
    FrameHeader header;
    std::memcpy(&header, &bytes[at], kHeader);
    const size_t rest = bytes.size() - at - kHeader;
    const size_t length = std::min<uint64_t>(rest, header.descriptor.length);
    header.payload_crc = crc32c(std::span(bytes).subspan(at + kHeader, length));
    header.header_crc = 0;
    header.header_crc = crc32c(std::as_bytes(std::span(&header, 1)));
    std::memcpy(&bytes[at], &header, kHeader);
    at += kHeader + length;
  }
}

// A frame is one that a sound sender could have made of its own parts.
void check_frame(const FrameStream::Frame& frame) {
  const FrameHeader& header = frame.header;
  CHECK(frame.payload.size() == header.descriptor.length && frame.payload.size() <= kMostPayload);
  const FrameHeader made = make_frame_header(header.kind, header.note, header.descriptor, frame.payload);
  CHECK(std::memcmp(&made, &header, kHeader) == 0);
}

// Takes what is there; false once the stream is broken.
bool pump(FrameStream& stream, uint64_t& frames) {
  try {
    while (stream.pump()) {
      for (; stream.peek() != nullptr; ++frames) {
        check_frame(*stream.peek());
        stream.accept();
        stream.release();
      }
    }
  } catch (const LinkError&) {
    return false;
  }
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  const auto input = std::as_bytes(std::span(data, size)).subspan(1);
  Bytes bytes(input.begin(), input.end());
  if ((data[0] & 1) != 0) repair(bytes);
  const size_t piece = data[0] < 2 ? bytes.size() : 32 * (data[0] >> 1);

  bool first_is_good = false;
  if (bytes.size() >= kHeader) first_is_good = parsed(std::span(bytes).first<kHeader>()).has_value();

  int fds[2];
  CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
  UniqueFd peer(fds[1]);
  FrameStream stream(UniqueFd(fds[0]), "fuzz", {.most_payload = kMostPayload, .most_held = 4});
  uint64_t frames = 0;
  bool is_whole = true;
  for (size_t at = 0; is_whole && at < bytes.size(); at += piece) {
    const auto part = std::span(bytes).subspan(at, std::min(piece, bytes.size() - at));
    CHECK(send(peer.get(), part.data(), part.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(part.size()));
    is_whole = pump(stream, frames);
  }
  CHECK(frames == 0 || first_is_good);
  CHECK(frames <= bytes.size() / kHeader);
  peer.reset();
  CHECK(!is_whole || !pump(stream, frames));  // the end of a connection is seen
  return 0;
}
