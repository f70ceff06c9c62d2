#include "collectives/crc32c.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string_view>
#include <vector>

namespace annulus {
namespace {

using Bytes = std::vector<std::byte>;

Bytes random_bytes(size_t size) {
  std::mt19937_64 random(size + 1);
  Bytes bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

// For both ways, which must not be wrong in the same manner.
void expect_checksum(const Bytes& bytes, uint32_t checksum) {
  EXPECT_EQ(crc32c(bytes), checksum);
  EXPECT_EQ(crc32c_reference(bytes), checksum);
}

// In all ways that there are here.
void expect_equal(std::span<const std::byte> bytes, uint32_t before) {
  for (std::size_t way = 0; way < crc32c_ways().size(); ++way) {
    ASSERT_EQ(crc32c_ways()[way](bytes, before), crc32c_reference(bytes, before))
        << bytes.size() << " bytes, way " << way;
  }
}

TEST(Crc32c, of_the_examples_of_rfc_3720_is_as_given_there) {
  Bytes ascending(32), descending(32);
  for (int i = 0; i < 32; ++i) ascending[i] = descending[31 - i] = static_cast<std::byte>(i);
  expect_checksum(Bytes(32, std::byte{0}), 0x8a9136aa);
  expect_checksum(Bytes(32, std::byte{0xff}), 0x62a8ab43);
  expect_checksum(ascending, 0x46dd794e);
  expect_checksum(descending, 0x113fdb5c);

  Bytes read_command(48);
  const std::vector<std::pair<int, int>> set = {{0, 0x01},  {1, 0xc0},  {16, 0x14}, {22, 0x04},
                                                {27, 0x14}, {31, 0x18}, {32, 0x28}, {40, 0x02}};
  for (const auto& [at, value] : set) read_command[at] = static_cast<std::byte>(value);
  expect_checksum(read_command, 0xd9963a56);

  const std::string_view digits = "123456789";
  const auto of_digits = std::as_bytes(std::span(digits));
  expect_checksum(Bytes(of_digits.begin(), of_digits.end()), 0xe3069283);
  expect_checksum({}, 0);
}

TEST(Crc32c, equals_the_reference_for_every_short_length_and_alignment) {
  const Bytes bytes = random_bytes(620);
  for (size_t shift = 0; shift < 16; ++shift) {
    for (size_t size = 0; size <= 600; ++size) {
      expect_equal(std::span(bytes).subspan(shift, size), 0);
    }
  }
}

TEST(Crc32c, equals_the_reference_for_long_ones) {
  const Bytes bytes = random_bytes(70'000);
  for (const size_t shift : {0, 1, 5}) {
    for (size_t size = 300; size <= bytes.size() - shift; size += size < 9'000 ? 7 : 1'009) {
      expect_equal(std::span(bytes).subspan(shift, size), 0x9a7c5e31);
    }
  }
}

TEST(Crc32c, of_parts_chained_is_that_of_the_whole) {
  const Bytes bytes = random_bytes(9'000);
  for (size_t cut = 0; cut <= bytes.size(); cut += cut < 600 ? 1 : 37) {
    const auto first = std::span(bytes).first(cut), second = std::span(bytes).subspan(cut);
    ASSERT_EQ(crc32c(second, crc32c(first)), crc32c(bytes)) << cut;
    ASSERT_EQ(crc32c_reference(second, crc32c_reference(first)), crc32c(bytes)) << cut;
  }
}

TEST(Crc32c, changes_with_every_bit) {
  Bytes bytes = random_bytes(5'000);
  const uint32_t whole = crc32c(bytes);
  for (size_t bit = 0; bit < 8 * bytes.size(); bit += 13) {
    bytes[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    ASSERT_NE(crc32c(bytes), whole) << bit;
    bytes[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
  }
  EXPECT_EQ(crc32c(bytes), whole);
}

}  // namespace
}  // namespace annulus
