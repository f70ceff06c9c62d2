// A sparse vector as bytes: what a host sends of a gradient when it sends only the largest elements.
//
// Little-endian, without padding; offsets in bytes, k = count:
//
//        0          4      8           12
//   both | format   | n    | count k   | ...
//
//   kCompact  12            12 + k
//   kTiny     | k leads, u8 | trails, 0 to 4 bytes for each lead | k values fp16 (kTiny: E3M4) |
//
//   kExact    12                         12 + 4b         12 + 4b + 4k
//             | entries of each of the   | k values fp32 | k indices modulo 65,536, u16
//             | b = ceil(n / 65,536)     |               |
//             | blocks of indices, u32   |               |
//
// kCompact and kTiny code the gaps between indices: gap = index - (the index before, or -1) - 1. A gap's lead
// is all of it if it is small; else the lead says how many trailing bytes there are and holds the gap's
// highest bits:
//
//   lead      trailing bytes   gap
//     0..239        0          lead
//   240..251        1          240 + ((lead - 240) << 8) + trail       up to 3,311
//   252..254        2          3,312 + ((lead - 252) << 16) + trail    up to 199,919
//        255        4          199,920 + trail
//
// Leads and trails lie apart so that the place of a lead never depends on the lead before it, and neither
// side branches on a gap's length. Values come last so that four bytes can be read at any trail. Every vector
// has one encoding, in each format; what decode() takes is what encode() wrote, or could have written.
//
// E3M4 is a byte: sign, 3 bits e of exponent, 4 bits m of mantissa, for (16 + m) / 16 * 2^(e - 1), or m / 16
// where e = 0; so 124 is the largest number, and there is neither infinity nor NaN.
//
// Plain functions without state; any thread may call them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <vector>

namespace annulus {

enum class SparseFormat : uint32_t {
  kCompact = 1,  // fp16 values, gaps of 1 to 5 bytes
  kExact = 2,    // fp32 values, 2 bytes an index
  kTiny = 3,     // E3M4 values, gaps as kCompact
};

// Of a vector, absent ones included: an index has 32 bits.
inline constexpr int64_t kMostSparseElements = (int64_t{1} << 32) - 1;

// What is wrong with a message.
enum class SparseFault {
  kTruncated,  // shorter than its counts say
  kTooLong,    // longer than that
  kFormat,     // of no known format
  kElements,   // of a vector with another n
  kCount,      // more entries than elements, or blocks whose counts do not add up to the message's
  kOrder,      // indices that do not ascend
  kRange,      // an index of n or above
};

// A message that decode() refuses. The text says what was found and what was due; it knows neither peer nor
// step, which the caller adds.
class SparseCodecError : public std::runtime_error {
 public:
  SparseCodecError(SparseFault fault, const std::string& what) : std::runtime_error(what), fault_(fault) {}

  SparseFault fault() const { return fault_; }

 private:
  SparseFault fault_;
};

// Bytes that encode() may write for any `count` entries of `n` elements; 0 <= count <= n <=
// kMostSparseElements, or the program stops. Exact for kExact; for kCompact few gaps can be long, as together
// they make up no more than n.
int64_t encoded_bound(int64_t n, int64_t count, SparseFormat format);

// Writes values[i] at index indices[i] of a vector of `n` elements to `out`, which has room for
// encoded_bound() bytes, all of which may be written to. Returns the bytes of the message. Indices must
// ascend without repetition below n, and there must be as many values: else the program stops. Values are
// rounded as round_values() says.
int64_t encode(int64_t n, std::span<const uint32_t> indices, std::span<const float> values,
               SparseFormat format, std::span<std::byte> out);

// Makes of each value what decode() gives of it after encode() in this format. kCompact rounds as narrow() of
// kernels/reduce.h does: to nearest even, beyond 65,504 to infinity; NaN stays NaN. kTiny: to nearest even,
// what is larger than 124, or NaN, to 124 with its sign. kExact leaves values alone.
void round_values(SparseFormat format, std::span<float> values);

// Takes a message about a vector of `n` elements apart, whatever its bytes and alignment: afterwards
// `indices` ascend without repetition below n, and `values` are as many. Throws SparseCodecError for all
// else, and leaves both vectors in an unspecified state. The vectors grow to at most n entries, and no
// further than the message has bytes for; those that are kept from call to call are not allocated again.
void decode(std::span<const std::byte> message, int64_t n, std::vector<uint32_t>& indices,
            std::vector<float>& values);

}  // namespace annulus
