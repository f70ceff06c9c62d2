#include "collectives/sparse_codec.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <optional>
#include <random>
#include <string>

#include "kernels/reduce.h"

namespace annulus {
namespace {

constexpr SparseFormat kFormats[] = {SparseFormat::kCompact, SparseFormat::kExact, SparseFormat::kTiny};
constexpr int64_t kResNet50 = 25'557'032;  // parameters

struct Sparse {
  int64_t n;
  std::vector<uint32_t> indices;
  std::vector<float> values;
};

using Message = std::vector<std::byte>;
using Random = std::mt19937_64;

// Values of a gradient's size, which fp16 must round.
Sparse with_values(int64_t n, std::vector<uint32_t> indices, Random& random) {
  std::normal_distribution<float> normal(0, 1e-2f);
  Sparse sparse{n, std::move(indices), {}};
  for (size_t i = 0; i < sparse.indices.size(); ++i) sparse.values.push_back(normal(random));
  return sparse;
}

// Every index with probability `ratio`.
Sparse scattered(int64_t n, double ratio, Random& random) {
  std::geometric_distribution<int64_t> gap(ratio);
  std::vector<uint32_t> indices;
  for (int64_t i = gap(random); i < n; i += 1 + gap(random)) indices.push_back(static_cast<uint32_t>(i));
  return with_values(n, std::move(indices), random);
}

// Runs of neighbours, as rows of a weight matrix make them, `ratio` of all elements.
Sparse clustered(int64_t n, double ratio, Random& random) {
  constexpr int64_t kRun = 64;
  std::vector<uint32_t> indices;
  std::geometric_distribution<int64_t> gap(ratio / kRun);
  for (int64_t i = gap(random); i < n; i += kRun + gap(random)) {
    for (int64_t j = i; j < std::min(n, i + kRun); ++j) indices.push_back(static_cast<uint32_t>(j));
  }
  return with_values(n, std::move(indices), random);
}

Message encoded(const Sparse& sparse, SparseFormat format) {
  Message message(encoded_bound(sparse.n, sparse.indices.size(), format));
  const int64_t bytes = encode(sparse.n, sparse.indices, sparse.values, format, message);
  EXPECT_LE(bytes, static_cast<int64_t>(message.size()));
  // A copy that ends with the message, so that AddressSanitizer sees what is read behind it.
  return Message(message.begin(), message.begin() + bytes);
}

Sparse decoded(std::span<const std::byte> message, int64_t n) {
  Sparse sparse{n, {}, {}};
  decode(message, n, sparse.indices, sparse.values);
  return sparse;
}

std::optional<SparseFault> fault_of(std::span<const std::byte> message, int64_t n) {
  try {
    decoded(message, n);
  } catch (const SparseCodecError& error) {
    return error.fault();
  }
  return std::nullopt;
}

std::vector<uint32_t> bits_of(const std::vector<float>& values) {
  std::vector<uint32_t> bits;
  for (const float value : values) bits.push_back(std::bit_cast<uint32_t>(value));
  return bits;
}

std::vector<float> through_fp16(const std::vector<float>& values) {
  std::vector<uint16_t> half(values.size());
  std::vector<float> back(values.size());
  narrow_reference(DataType::kF16, values.size(), values.data(), half.data());
  widen_reference(DataType::kF16, values.size(), half.data(), back.data());
  return back;
}

// All numbers of E3M4 that are not negative, ascending.
std::vector<float> tiny_numbers() {
  std::vector<float> numbers;
  for (int sixteenths = 0; sixteenths < 16; ++sixteenths) numbers.push_back(sixteenths / 16.0f);
  for (float power = 1; power <= 64; power *= 2) {
    for (int m = 0; m < 16; ++m) numbers.push_back(power * (1 + m / 16.0f));
  }
  return numbers;
}

// The nearest of them, by looking at all; of two the one of even place.
std::vector<float> through_tiny(std::vector<float> values) {
  static const std::vector<float> numbers = tiny_numbers();
  for (float& value : values) {
    const double magnitude = std::isnan(value) ? 1e300 : std::fabs(static_cast<double>(value));
    std::size_t best = 0;
    for (std::size_t i = 1; i < numbers.size(); ++i) {
      const double distance = std::fabs(numbers[i] - magnitude), least = std::fabs(numbers[best] - magnitude);
      if (distance < least || (distance == least && i % 2 == 0)) best = i;
    }
    value = std::copysign(magnitude >= 124 ? 124.0f : numbers[best], value);
  }
  return values;
}

std::vector<float> through(SparseFormat format, const std::vector<float>& values) {
  return format == SparseFormat::kExact  ? values
         : format == SparseFormat::kTiny ? through_tiny(values)
                                         : through_fp16(values);
}

void expect_round_trip(const Sparse& sparse) {
  for (const SparseFormat format : kFormats) {
    const Sparse back = decoded(encoded(sparse, format), sparse.n);
    EXPECT_TRUE(back.indices == sparse.indices) << "n " << sparse.n << ", " << sparse.indices.size();
    std::vector<float> rounded = sparse.values;
    round_values(format, rounded);
    EXPECT_TRUE(bits_of(back.values) == bits_of(rounded));
    if (sparse.values.size() < 100'000) {
      EXPECT_TRUE(bits_of(rounded) == bits_of(through(format, sparse.values)));
    }
  }
}

// What decode() promises of any message that it takes.
void expect_valid(const Sparse& sparse) {
  ASSERT_EQ(sparse.indices.size(), sparse.values.size());
  ASSERT_TRUE(std::adjacent_find(sparse.indices.begin(), sparse.indices.end(), std::greater_equal<>()) ==
              sparse.indices.end());
  ASSERT_TRUE(sparse.indices.empty() || sparse.indices.back() < sparse.n);
}

TEST(SparseCodec, what_was_encoded_comes_back) {
  Random random(1);
  for (const int64_t n : {1, 2, 255, 65'535, 65'536, 65'537, 300'000}) {
    for (const double ratio : {0.001, 0.01, 0.1, 0.7}) {
      expect_round_trip(scattered(n, ratio, random));
      expect_round_trip(clustered(n, ratio, random));
    }
  }
}

TEST(SparseCodec, empty_full_and_single_vectors_come_back) {
  Random random(2);
  for (const int64_t n : {int64_t{0}, int64_t{1}, int64_t{65'536}, kMostSparseElements}) {
    expect_round_trip({n, {}, {}});
    if (n == 0) continue;
    expect_round_trip(with_values(n, {0}, random));
    expect_round_trip(with_values(n, {static_cast<uint32_t>(n - 1)}, random));
    if (n > 1) expect_round_trip(with_values(n, {0, static_cast<uint32_t>(n - 1)}, random));
  }
  std::vector<uint32_t> all(70'000);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint32_t>(i);
  expect_round_trip(with_values(70'000, all, random));
}

TEST(SparseCodec, gaps_of_every_length_come_back_in_as_many_bytes_as_they_should) {
  Random random(3);
  // Gaps on both sides of each step of a lead and of each class, and how many bytes they take.
  const std::map<uint32_t, int64_t> bytes_of_gap = {
      {0, 1},       {1, 1},       {239, 1},     {240, 2},     {241, 2},     {495, 2},
      {496, 2},     {3'311, 2},   {3'312, 3},   {68'847, 3},  {68'848, 3},  {199'919, 3},
      {199'920, 5}, {262'144, 5}, {1 << 24, 5}, {1 << 30, 5}, {3u << 30, 5}};
  for (const auto& [gap, bytes] : bytes_of_gap) {
    const Sparse one = with_values(kMostSparseElements, {gap}, random);
    expect_round_trip(one);
    EXPECT_EQ(encoded(one, SparseFormat::kCompact).size(), 12 + 2 + bytes) << gap;
    expect_round_trip(with_values(gap + 1ll, {gap}, random));  // the last index
    const Sparse two = with_values(kMostSparseElements, {7, 8 + gap}, random);
    expect_round_trip(two);
    EXPECT_EQ(encoded(two, SparseFormat::kCompact).size(), 12 + 4 + 1 + bytes) << gap;
  }
  // All of them mixed, in messages of every length up to some hundreds.
  std::vector<uint32_t> some;
  for (const auto& [gap, bytes] : bytes_of_gap) {
    if (gap < 1 << 20) some.push_back(gap);
  }
  for (int entries = 0; entries < 300; ++entries) {
    std::vector<uint32_t> indices;
    uint32_t next = 0;
    for (int i = 0; i < entries; ++i, ++next) indices.push_back(next += some[random() % some.size()]);
    expect_round_trip(with_values(next + 5ll, indices, random));
  }
}

TEST(SparseCodec, values_of_every_kind_come_back) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> values = {0.0f,     -0.0f,  1e-8f,    -6e-8f,   65'504.0f, 65'519.9f,
                                     65'520.f, -1e30f, 1e-40f,   inf,      -inf,      nan,
                                     -nan,     1.0f,   1.00049f, 0x1p-25f, 0x3p-25f};
  Sparse sparse{1'000, {}, values};
  for (size_t i = 0; i < values.size(); ++i) sparse.indices.push_back(static_cast<uint32_t>(50 * i));
  expect_round_trip(sparse);
}

TEST(SparseCodec, tiny_values_are_rounded_to_the_nearest_of_even_ones) {
  const std::vector<float> numbers = tiny_numbers();
  ASSERT_EQ(numbers.size(), 128u);
  std::vector<float> values;
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const float next = i + 1 < numbers.size() ? numbers[i + 1] : 128, middle = (numbers[i] + next) / 2;
    for (const float value : {numbers[i], std::nextafter(numbers[i], 1e9f), std::nextafter(middle, 0.0f),
                              middle, std::nextafter(middle, 1e9f)}) {
      values.insert(values.end(), {value, -value});
    }
  }
  std::vector<float> rounded = values;
  round_values(SparseFormat::kTiny, rounded);
  EXPECT_TRUE(bits_of(rounded) == bits_of(through_tiny(values)));
}

TEST(SparseCodec, a_gradient_of_resnet50_is_small) {
  Random random(4);
  const std::map<double, int64_t> most_compact = {{0.1, 7'700'000}, {0.01, 800'000}, {0.001, 100'000}};
  const std::map<double, int64_t> most_exact = {{0.1, 15'500'000}, {0.01, 1'600'000}, {0.001, 160'000}};
  for (const auto& [ratio, most] : most_compact) {
    for (const Sparse& sparse : {scattered(kResNet50, ratio, random), clustered(kResNet50, ratio, random)}) {
      const int64_t compact = encoded(sparse, SparseFormat::kCompact).size();
      const int64_t exact = encoded(sparse, SparseFormat::kExact).size();
      EXPECT_EQ(encoded(sparse, SparseFormat::kTiny).size() + sparse.indices.size(), compact);
      EXPECT_LT(compact, most) << ratio;
      EXPECT_LT(exact, most_exact.at(ratio)) << ratio;
      EXPECT_EQ(exact, encoded_bound(kResNet50, sparse.indices.size(), SparseFormat::kExact));
      expect_round_trip(sparse);
    }
  }
  // Whatever the indices.
  EXPECT_LT(encoded_bound(kResNet50, kResNet50 / 100, SparseFormat::kCompact), 900'000);
}

TEST(SparseCodec, the_bound_is_reached_where_gaps_are_as_bad_as_they_can_be) {
  Random random(5);
  for (const int64_t gap : {240, 3'312, 199'920}) {
    for (const int64_t count : {1, 2, 3, 10}) {
      std::vector<uint32_t> indices;
      for (int64_t i = 0; i < count; ++i) indices.push_back(static_cast<uint32_t>(i * (gap + 1) + gap));
      const Sparse sparse = with_values(count * (gap + 1), indices, random);
      for (const SparseFormat format : {SparseFormat::kCompact, SparseFormat::kTiny}) {
        EXPECT_EQ(encoded(sparse, format).size(), encoded_bound(sparse.n, count, format));
      }
    }
  }
}

TEST(SparseCodec, messages_may_lie_at_any_address) {
  Random random(6);
  const Sparse sparse = scattered(100'000, 0.02, random);
  for (const SparseFormat format : kFormats) {
    const Message message = encoded(sparse, format);
    for (size_t shift = 1; shift < 8; ++shift) {
      Message room(shift + encoded_bound(sparse.n, sparse.indices.size(), format));
      const std::span<std::byte> out = std::span(room).subspan(shift);
      const int64_t bytes = encode(sparse.n, sparse.indices, sparse.values, format, out);
      EXPECT_TRUE(std::ranges::equal(out.first(bytes), message));
      EXPECT_EQ(decoded(out.first(bytes), sparse.n).indices, sparse.indices);
    }
  }
}

TEST(SparseCodec, every_truncation_and_every_extension_is_refused) {
  Random random(7);
  for (const SparseFormat format : kFormats) {
    for (const Sparse& sparse : {scattered(20'000, 0.02, random), scattered(3'000'000, 1e-4, random),
                                 clustered(100'000, 0.01, random), with_values(9, {8}, random),
                                 with_values(4'000'000, {1'000'000, 2'000'000, 3'000'000}, random)}) {
      const Message message = encoded(sparse, format);
      for (size_t bytes = 0; bytes < message.size(); ++bytes) {
        const Message cut(message.begin(), message.begin() + bytes);
        ASSERT_EQ(fault_of(cut, sparse.n), SparseFault::kTruncated) << bytes << " of " << message.size();
      }
      for (const size_t more : {1, 2, 4, 1000}) {
        Message longer = message;
        longer.insert(longer.end(), more, std::byte{0});
        ASSERT_EQ(fault_of(longer, sparse.n), SparseFault::kTooLong) << more;
      }
    }
  }
}

// Overwrites the four bytes at `at`.
Message patched(Message message, size_t at, uint32_t value) {
  std::memcpy(message.data() + at, &value, sizeof value);
  return message;
}

TEST(SparseCodec, each_fault_is_named) {
  const Sparse sparse{200'000, {5, 6, 70'000}, {1, 2, 3}};
  for (const SparseFormat format : kFormats) {
    const Message message = encoded(sparse, format);
    EXPECT_EQ(fault_of(message, sparse.n), std::nullopt);
    EXPECT_EQ(fault_of(message, sparse.n + 1), SparseFault::kElements);
    EXPECT_EQ(fault_of(patched(message, 0, 0), sparse.n), SparseFault::kFormat);
    EXPECT_EQ(fault_of(patched(message, 0, 4), sparse.n), SparseFault::kFormat);
    EXPECT_EQ(fault_of(patched(message, 4, 70'000), 70'000),
              format == SparseFormat::kExact ? SparseFault::kTooLong : SparseFault::kRange);
    EXPECT_EQ(fault_of(patched(message, 8, 200'001), sparse.n), SparseFault::kCount);
    EXPECT_EQ(fault_of(patched(message, 8, ~0u), sparse.n), SparseFault::kCount);
    EXPECT_EQ(fault_of(patched(message, 8, 200'000), sparse.n), SparseFault::kTruncated);
    EXPECT_EQ(fault_of(patched(message, 8, 2), sparse.n), SparseFault::kTooLong);
  }
  const Message exact = encoded(sparse, SparseFormat::kExact);  // four blocks: 2, 1, 0, 0
  EXPECT_EQ(fault_of(patched(exact, 12, 1), sparse.n), SparseFault::kCount);
  EXPECT_EQ(fault_of(patched(exact, 12, 3), sparse.n), SparseFault::kCount);
  EXPECT_EQ(fault_of(patched(exact, 12, ~0u), sparse.n), SparseFault::kCount);
  const size_t offsets = 12 + 4 * 4 + 4 * 3;
  EXPECT_EQ(fault_of(patched(exact, offsets, 6u << 16 | 6), sparse.n), SparseFault::kOrder);
  EXPECT_EQ(fault_of(patched(exact, offsets, 6u << 16 | 7), sparse.n), SparseFault::kOrder);
  // The last block has 200,000 - 3 * 65,536 = 3,392 indices; the entry of the second, 4,464, is none of them.
  EXPECT_EQ(fault_of(patched(patched(exact, 16, 0), 24, 1), sparse.n), SparseFault::kRange);
}

TEST(SparseCodec, an_error_says_what_was_found_and_what_was_due) {
  const Message message = encoded({100, {5}, {1}}, SparseFormat::kCompact);
  try {
    decoded(std::span(message).first(14), 100);
    FAIL();
  } catch (const SparseCodecError& error) {
    EXPECT_STREQ(error.what(), "sparse message: 14 bytes, where it needs 15");
  }
}

TEST(SparseCodec, what_is_flipped_is_refused_or_still_a_sparse_vector) {
  Random random(8);
  int refused = 0, taken = 0;
  for (const SparseFormat format : kFormats) {
    for (const Sparse& sparse : {scattered(3'000, 0.02, random), scattered(2'000'000, 1e-4, random),
                                 clustered(10'000, 0.02, random), with_values(1, {0}, random)}) {
      const Message message = encoded(sparse, format);
      for (int round = 0; round < 3'000; ++round) {
        Message flipped = message;
        for (uint64_t flips = 1 + random() % 4; flips > 0; --flips) {
          flipped[random() % flipped.size()] = static_cast<std::byte>(random());
        }
        try {
          const Sparse back = decoded(flipped, sparse.n);
          expect_valid(back);
          if (HasFatalFailure()) return;
          ++taken;
        } catch (const SparseCodecError&) {
          ++refused;
        }
      }
    }
  }
  EXPECT_GT(refused, 1'000);
  EXPECT_GT(taken, 1'000);  // those whose values alone were hit, at least
}

TEST(SparseCodec, a_message_that_is_taken_is_the_only_one_of_its_vector) {
  Random random(9);
  int taken = 0;
  for (int round = 0; round < 20'000; ++round) {
    const Sparse sparse = scattered(1'000, 0.02, random);
    for (const SparseFormat format : kFormats) {
      Message message = encoded(sparse, format);
      message[12 + random() % (message.size() - 12)] = static_cast<std::byte>(random());
      if (fault_of(message, sparse.n)) continue;
      const Sparse back = decoded(message, sparse.n);
      if (std::ranges::any_of(back.values, [](float x) { return std::isnan(x); })) continue;
      ASSERT_TRUE(encoded(back, format) == message);
      ++taken;
    }
  }
  EXPECT_GT(taken, 1'000);
}

TEST(SparseCodec, room_is_made_only_for_what_the_message_has_bytes_for) {
  const Message message = encoded({kMostSparseElements, {5}, {1}}, SparseFormat::kCompact);
  for (const uint32_t format : {1, 2, 3}) {
    std::vector<uint32_t> indices;
    std::vector<float> values;
    const Message huge = patched(patched(message, 0, format), 8, ~0u);
    EXPECT_THROW(decode(huge, kMostSparseElements, indices, values), SparseCodecError);
    EXPECT_EQ(indices.capacity() + values.capacity(), 0u);
  }
}

TEST(SparseCodecDeathTest, callers_mistakes_stop_the_program) {
  Message room(1'000);
  const std::vector<float> values = {1, 2};
  const auto try_with = [&](const std::vector<uint32_t>& indices, std::span<std::byte> out) {
    encode(100, indices, values, SparseFormat::kCompact, out);
  };
  EXPECT_DEATH(try_with({5, 5}, room), "broken invariant");
  EXPECT_DEATH(try_with({6, 5}, room), "broken invariant");
  EXPECT_DEATH(try_with({5, 100}, room), "broken invariant");
  EXPECT_DEATH(try_with({5}, room), "2 values for 1 indices");
  EXPECT_DEATH(try_with({5, 6}, std::span(room).first(10)), "10 bytes, where up to");
  EXPECT_DEATH(encoded_bound(kMostSparseElements + 1, 0, SparseFormat::kExact), "broken invariant");
  EXPECT_DEATH(encoded_bound(5, 6, SparseFormat::kExact), "6 entries of 5 elements");
}

}  // namespace
}  // namespace annulus
