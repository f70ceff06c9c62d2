#include "collectives/crc32c.h"

#include <array>
#include <bit>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
#endif

namespace annulus {
namespace {

// Bit i stands for x^(31 - i), in all that follows, since the checksum takes the lowest bit of a byte first.
constexpr uint32_t kPolynomial = 0x82f63b78;

constexpr uint32_t times_x(uint32_t a) { return (a >> 1) ^ (a & 1 ? kPolynomial : 0); }

constexpr std::array<uint32_t, 256> make_byte_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < table.size(); ++byte) {
    table[byte] = byte;
    for (int bit = 0; bit < 8; ++bit) table[byte] = times_x(table[byte]);
  }
  return table;
}
constexpr std::array<uint32_t, 256> kByteTable = make_byte_table();

// Both work on the register that a checksum is the complement of.
uint32_t add_by_table(uint32_t state, const std::byte* bytes, size_t size) {
  for (size_t i = 0; i < size; ++i) {
    state = kByteTable[(state ^ static_cast<uint32_t>(bytes[i])) & 0xff] ^ (state >> 8);
  }
  return state;
}

#if defined(__x86_64__) || defined(__ARM_FEATURE_CRC32)

#if defined(__x86_64__)
#define ANNULUS_CRC_TARGET __attribute__((target("sse4.2")))
bool has_instruction() { return __builtin_cpu_supports("sse4.2"); }
ANNULUS_CRC_TARGET inline uint64_t add_word(uint64_t state, uint64_t word) {
  return _mm_crc32_u64(state, word);
}
ANNULUS_CRC_TARGET inline uint32_t add_byte(uint32_t state, std::byte byte) {
  return _mm_crc32_u8(state, static_cast<uint8_t>(byte));
}
#else
#define ANNULUS_CRC_TARGET
bool has_instruction() { return true; }
inline uint64_t add_word(uint64_t state, uint64_t word) {
  return __crc32cd(static_cast<uint32_t>(state), word);
}
inline uint32_t add_byte(uint32_t state, std::byte byte) {
  return __crc32cb(state, static_cast<uint8_t>(byte));
}
#endif

static_assert(std::endian::native == std::endian::little, "words are taken lowest byte first");

// The instruction gives its result after three cycles and starts anew in each, so three parts of the bytes go
// through it side by side. Long parts take few joins; short ones leave little for the loop over single words.
// A page is three long ones and a rest.
constexpr size_t kLongPart = 1'344, kShortPart = 168;

// What a register becomes by `zeros` zero bytes, as one table for each of its bytes.
using ShiftTables = std::array<std::array<uint32_t, 256>, 4>;
constexpr ShiftTables make_shift_tables(size_t zeros) {
  std::array<uint32_t, 32> of_bit{};
  uint32_t power = uint32_t{1} << 31;  // of x: one
  for (size_t i = 0; i < 8 * zeros; ++i) power = times_x(power);
  for (int bit = 31; bit >= 0; --bit, power = times_x(power)) of_bit[bit] = power;
  ShiftTables tables{};
  for (int i = 0; i < 4; ++i) {
    for (uint32_t byte = 0; byte < 256; ++byte) {
      for (int bit = 0; bit < 8; ++bit) {
        if (byte >> bit & 1) tables[i][byte] ^= of_bit[8 * i + bit];
      }
    }
  }
  return tables;
}
constexpr ShiftTables kLongShift = make_shift_tables(kLongPart);
constexpr ShiftTables kShortShift = make_shift_tables(kShortPart);

inline uint64_t shifted(uint64_t state, const ShiftTables& tables) {
  return tables[0][state & 0xff] ^ tables[1][state >> 8 & 0xff] ^ tables[2][state >> 16 & 0xff] ^
         tables[3][state >> 24];
}

inline uint64_t load(const std::byte* from) {
  uint64_t word;
  std::memcpy(&word, from, sizeof word);
  return word;
}

template <size_t kPart>
ANNULUS_CRC_TARGET inline uint64_t add_three_parts(uint64_t state, const std::byte* bytes,
                                                   const ShiftTables& tables) {
  static_assert(kPart % sizeof(uint64_t) == 0);
  uint64_t second = 0, third = 0;
  for (size_t i = 0; i < kPart; i += sizeof(uint64_t)) {
    state = add_word(state, load(bytes + i));
    second = add_word(second, load(bytes + kPart + i));
    third = add_word(third, load(bytes + 2 * kPart + i));
  }
  return shifted(shifted(state, tables) ^ second, tables) ^ third;
}

ANNULUS_CRC_TARGET uint32_t add_by_instruction(uint32_t before, const std::byte* bytes, size_t size) {
  uint64_t state = before;
  for (; size >= 3 * kLongPart; bytes += 3 * kLongPart, size -= 3 * kLongPart) {
    state = add_three_parts<kLongPart>(state, bytes, kLongShift);
  }
  for (; size >= 3 * kShortPart; bytes += 3 * kShortPart, size -= 3 * kShortPart) {
    state = add_three_parts<kShortPart>(state, bytes, kShortShift);
  }
  for (; size >= sizeof(uint64_t); bytes += sizeof(uint64_t), size -= sizeof(uint64_t)) {
    state = add_word(state, load(bytes));
  }
  uint32_t rest = static_cast<uint32_t>(state);
  for (size_t i = 0; i < size; ++i) rest = add_byte(rest, bytes[i]);
  return rest;
}

#else

bool has_instruction() { return false; }
uint32_t add_by_instruction(uint32_t before, const std::byte* bytes, size_t size) {
  return add_by_table(before, bytes, size);
}

#endif

}  // namespace

uint32_t crc32c(std::span<const std::byte> bytes, uint32_t before) {
  const auto add = has_instruction() ? add_by_instruction : add_by_table;
  return ~add(~before, bytes.data(), bytes.size());
}

uint32_t crc32c_reference(std::span<const std::byte> bytes, uint32_t before) {
  return ~add_by_table(~before, bytes.data(), bytes.size());
}

}  // namespace annulus
