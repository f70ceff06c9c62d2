#include "collectives/frame.h"

#include <bit>
#include <cstring>

#include "collectives/crc32c.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

static_assert(std::endian::native == std::endian::little, "frames are little-endian");

uint32_t sum_of(FrameHeader header) {
  header.header_crc = 0;
  return crc32c(std::as_bytes(std::span(&header, 1)));
}

}  // namespace

FrameHeader make_frame_header(FrameKind kind, uint32_t note, const Descriptor& descriptor,
                              std::span<const std::byte> payload) {
  FrameHeader header{
      .kind = kind, .payload_crc = crc32c(payload), .note = note, .zero = 0, .descriptor = descriptor};
  header.descriptor.length = payload.size();
  header.header_crc = sum_of(header);
  return header;
}

FrameHeader parse_frame_header(std::span<const std::byte, sizeof(FrameHeader)> bytes, uint64_t most_payload) {
  FrameHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  const auto refuse = [](const std::string& what) { throw LinkError("a frame is refused: " + what); };
  if (header.magic != kFrameMagic) refuse(fmt::format("its magic is {:08x}", header.magic));
  if (header.version != kFrameVersion) {
    refuse(fmt::format("its version is {}, not {}", header.version, kFrameVersion));
  }
  if (const uint32_t sum = sum_of(header); sum != header.header_crc) {
    refuse(fmt::format("its header's CRC-32C is {:08x}, not {:08x}", sum, header.header_crc));
  }
  const Descriptor& descriptor = header.descriptor;
  const bool control = header.kind == FrameKind::kControl, beat = header.kind == FrameKind::kBeat;
  if (!control && !beat && header.kind != FrameKind::kPayload) {
    refuse(fmt::format("its kind is {}", static_cast<int>(header.kind)));
  }
  if (header.zero != 0) refuse(fmt::format("its reserved word is {}", header.zero));
  if (descriptor.length > (beat ? 0 : most_payload)) {
    refuse(fmt::format("its payload has {} bytes, and at most {} are taken", descriptor.length,
                       beat ? 0 : most_payload));
  }
  if (descriptor.phase != Phase::kStep && descriptor.phase != Phase::kMessage) {
    refuse(fmt::format("its phase is {}", static_cast<int>(descriptor.phase)));
  }
  if (descriptor.type < Payload::kInput || descriptor.type > Payload::kNothing) {
    refuse(fmt::format("its type is {}", static_cast<int>(descriptor.type)));
  }
  return header;
}

}  // namespace annulus
