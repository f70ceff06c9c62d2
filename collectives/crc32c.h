// CRC-32C (Castagnoli's polynomial, as iSCSI uses it: RFC 3720), the checksum of what goes between hosts.
//
// TCP's own has 16 bits, and is made anew by every box on the way that changes a header. This one finds every
// burst of up to 32 bits, and processors have an instruction for it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace annulus {

// The checksum of `bytes`, or, with `before`, that of the bytes that `before` is the checksum of, followed by
// `bytes`. In the fastest of the ways below.
uint32_t crc32c(std::span<const std::byte> bytes, uint32_t before = 0);

// The same from a table, byte by byte.
uint32_t crc32c_reference(std::span<const std::byte> bytes, uint32_t before = 0);

// The ways that this processor has, fastest first: by carry-less products of vectors, by its instruction for
// this checksum, and crc32c_reference.
using Crc32cWay = uint32_t (*)(std::span<const std::byte> bytes, uint32_t before);
const std::vector<Crc32cWay>& crc32c_ways();

}  // namespace annulus
