// Frame: what travels over a connection between hosts: a header of 80 bytes, then the payload.
//
//   offset  0       4         6      8            12             16     20     24
//           +-------+---------+------+------------+--------------+------+------+---------------------+
//           | magic | version | kind | header CRC | payload CRC  | note | zero | descriptor (56)     |
//           +-------+---------+------+------------+--------------+------+------+---------------------+
//
// Little-endian. Both sums are CRC-32C (RFC 3720); the header's is over the header with 0 in its own place.
// The length of the payload is the descriptor's. A header is believed only as a whole: magic, version, sum
// and then every field, the length against the receiver's own limit before any memory is set aside.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "collectives/descriptor.h"

namespace annulus {

inline constexpr uint32_t kFrameMagic = 0x46'4e'4e'41;  // "ANNF" in memory order
inline constexpr uint16_t kFrameVersion = 1;

enum class FrameKind : uint16_t {
  kPayload = 1,  // of a collective
  kControl = 2,  // between launchers: a JSON text
  kBeat = 3,     // no payload: the sender lives
};

struct FrameHeader {
  uint32_t magic = kFrameMagic;
  uint16_t version = kFrameVersion;
  FrameKind kind = FrameKind::kPayload;
  uint32_t header_crc = 0;
  uint32_t payload_crc = 0;
  uint32_t note = 0;  // what else the sender has to say (Bridge: the run's last step, as far as it knows)
  uint32_t zero = 0;
  Descriptor descriptor;
};
static_assert(sizeof(FrameHeader) == 80 && std::is_trivially_copyable_v<FrameHeader>);

// The header of a frame with this payload, sums filled in.
FrameHeader make_frame_header(FrameKind kind, uint32_t note, const Descriptor& descriptor,
                              std::span<const std::byte> payload);

// The header that these bytes are. Throws LinkError, which says what is wrong, for all that make_frame_header
// cannot have made, and for a payload above `most_payload` bytes.
FrameHeader parse_frame_header(std::span<const std::byte, sizeof(FrameHeader)> bytes, uint64_t most_payload);

}  // namespace annulus
