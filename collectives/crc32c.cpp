#include "collectives/crc32c.h"

#include <array>
#include <bit>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
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

#if defined(__x86_64__)

// Folding (Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel,
// 2009): 16 bytes followed by D bits are congruent to 12 bytes at the place of their end, the sum of two
// carry-less products: of their first 8 bytes with x^(D + 31), and of the others with x^(D - 33). (A product
// of two such registers is one bit short of where it belongs, so x^32 is 31.) Four at a time in a vector, and
// four vectors side by side, since a product takes several cycles.

#define ANNULUS_FOLD_TARGET __attribute__((target("sse4.2,pclmul,avx512f,vpclmulqdq")))

bool can_fold() {
  return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul") &&
         __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("vpclmulqdq");
}

constexpr uint32_t power_of_x(size_t n) {
  uint32_t power = uint32_t{1} << 31;
  while (n-- > 0) power = times_x(power);
  return power;
}

// `later`, and `earlier`, after whose end `later` ends by kBits.
template <size_t kBits>
ANNULUS_FOLD_TARGET inline __m512i fold(__m512i earlier, __m512i later) {
  constexpr uint32_t kFirst = power_of_x(kBits + 31), kSecond = power_of_x(kBits - 33);
  const __m512i factors =
      _mm512_set_epi64(kSecond, kFirst, kSecond, kFirst, kSecond, kFirst, kSecond, kFirst);
  constexpr int kXorOfThree = 0x96;
  return _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(earlier, factors, 0x00),
                                   _mm512_clmulepi64_epi128(earlier, factors, 0x11), later, kXorOfThree);
}
ANNULUS_FOLD_TARGET inline __m128i fold(__m128i earlier, __m128i later) {
  constexpr uint32_t kFirst = power_of_x(128 + 31), kSecond = power_of_x(128 - 33);
  const __m128i factors = _mm_set_epi64x(kSecond, kFirst);
  return _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(earlier, factors, 0x00),
                                     _mm_clmulepi64_si128(earlier, factors, 0x11)),
                       later);
}

constexpr size_t kVector = 64, kFoldAtOnce = 4 * kVector;

ANNULUS_FOLD_TARGET uint32_t add_by_folding(uint32_t before, const std::byte* bytes, size_t size) {
  if (size < kFoldAtOnce) return add_by_instruction(before, bytes, size);
  const __m512i state = _mm512_zextsi128_si512(_mm_cvtsi32_si128(static_cast<int>(before)));
  __m512i a = _mm512_xor_si512(_mm512_loadu_si512(bytes), state);
  __m512i b = _mm512_loadu_si512(bytes + kVector), c = _mm512_loadu_si512(bytes + 2 * kVector),
          d = _mm512_loadu_si512(bytes + 3 * kVector);
  for (bytes += kFoldAtOnce, size -= kFoldAtOnce; size >= kFoldAtOnce;
       bytes += kFoldAtOnce, size -= kFoldAtOnce) {
    a = fold<8 * kFoldAtOnce>(a, _mm512_loadu_si512(bytes));
    b = fold<8 * kFoldAtOnce>(b, _mm512_loadu_si512(bytes + kVector));
    c = fold<8 * kFoldAtOnce>(c, _mm512_loadu_si512(bytes + 2 * kVector));
    d = fold<8 * kFoldAtOnce>(d, _mm512_loadu_si512(bytes + 3 * kVector));
  }
  d = fold<8 * kVector>(fold<8 * kVector>(fold<8 * kVector>(a, b), c), d);
  for (; size >= kVector; bytes += kVector, size -= kVector)
    d = fold<8 * kVector>(d, _mm512_loadu_si512(bytes));
  alignas(kVector) __m128i lanes[4];
  _mm512_store_si512(lanes, d);
  const __m128i folded = fold(fold(fold(lanes[0], lanes[1]), lanes[2]), lanes[3]);
  const uint64_t after = add_word(add_word(0, static_cast<uint64_t>(_mm_cvtsi128_si64(folded))),
                                  static_cast<uint64_t>(_mm_extract_epi64(folded, 1)));
  return add_by_instruction(static_cast<uint32_t>(after), bytes, size);
}

#endif

#else

bool has_instruction() { return false; }
uint32_t add_by_instruction(uint32_t before, const std::byte* bytes, size_t size) {
  return add_by_table(before, bytes, size);
}

#endif

using Add = uint32_t (*)(uint32_t, const std::byte*, size_t);
template <Add add>
uint32_t complemented(std::span<const std::byte> bytes, uint32_t before) {
  return ~add(~before, bytes.data(), bytes.size());
}

std::vector<Crc32cWay> find_ways() {
  std::vector<Crc32cWay> ways;
#if defined(__x86_64__)
  if (can_fold()) ways.push_back(complemented<add_by_folding>);
#endif
  if (has_instruction()) ways.push_back(complemented<add_by_instruction>);
  ways.push_back(crc32c_reference);
  return ways;
}

}  // namespace

const std::vector<Crc32cWay>& crc32c_ways() {
  static const std::vector<Crc32cWay> ways = find_ways();
  return ways;
}

uint32_t crc32c(std::span<const std::byte> bytes, uint32_t before) {
  return crc32c_ways().front()(bytes, before);
}

uint32_t crc32c_reference(std::span<const std::byte> bytes, uint32_t before) {
  return complemented<add_by_table>(bytes, before);
}

}  // namespace annulus
