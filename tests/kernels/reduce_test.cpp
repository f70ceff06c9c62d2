#include "kernels/reduce.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "each_target.h"
#include "kernels/aligned_floats.h"

namespace annulus {
namespace {

constexpr int64_t kMost = 1000;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

uint32_t bits_of(float x) { return std::bit_cast<uint32_t>(x); }
float float_of(uint32_t bits) { return std::bit_cast<float>(bits); }

AlignedFloats random_floats(unsigned seed, int64_t count) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  AlignedFloats values(count);
  for (float& value : values) value = normal(random);
  return values;
}

// As memory: NaN equals itself, and zeros of different sign differ.
void expect_same_bits(const float* got, const float* expected, int64_t count, const std::string& what) {
  for (int64_t i = 0; i < count; ++i) {
    ASSERT_EQ(bits_of(got[i]), bits_of(expected[i])) << what << ", element " << i << " of " << count;
  }
}

// Streams of random floats, each `shift` floats past a line.
struct Streams {
  Streams(int count, int shift, unsigned seed) {
    for (int i = 0; i < count; ++i) arrays.push_back(random_floats(seed * 100 + i, kMost + 64));
    for (AlignedFloats& array : arrays) {
      all.push_back(array.data() + shift);
      shift = (shift * 3) % 16;
    }
  }
  std::vector<AlignedFloats> arrays;
  std::vector<const float*> all;
};

TEST(Combine, HasTheBitsOfThePlainLoopOnEveryTarget) {
  for_each_target([&] {
    for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kMax}) {
      for (const int streams : {1, 2, 4, 8}) {
        for (const int shift : {0, 1, 7}) {
          const Streams in(streams, shift, streams + shift);
          for (const int64_t n : {0, 1, 3, 15, 16, 17, 31, 63, 64, 65, 127, 997}) {
            for (const Store store : {Store::kCached, Store::kStreaming}) {
              for (const bool twice : {false, true}) {
                for (const int out_shift : {0, 5}) {
                  const float untouched = 12345.5F;
                  AlignedFloats expected(kMost), out(kMost + 64, untouched), also(kMost + 64, untouched);
                  combine_reference(op, n, in.all, expected.data());
                  float* const to = out.data() + out_shift;
                  combine(op, n, in.all, to, twice ? also.data() + 16 : nullptr, store);
                  const std::string what = std::to_string(streams) + " streams";
                  expect_same_bits(to, expected.data(), n, what);
                  if (twice) expect_same_bits(also.data() + 16, expected.data(), n, what + ", also");
                  ASSERT_EQ(to[n], untouched);
                  ASSERT_EQ(also[twice ? 16 + n : 16], untouched);
                }
              }
            }
          }
        }
      }
    }
  });
}

TEST(Combine, AddsAlongAPerfectTree) {
  // Only this order gives these bits.
  const float big = 0x1p24F;
  const float in[8] = {big, 1, -big, 1, 1, big, 1, -big};
  std::vector<const float*> streams;
  for (const float& x : in) streams.push_back(&x);
  float sum = 0;
  combine(ReduceOp::kSum, 1, streams, &sum);
  EXPECT_EQ(sum, ((in[0] + in[1]) + (in[2] + in[3])) + ((in[4] + in[5]) + (in[6] + in[7])));
  EXPECT_NE(sum, ((((((in[0] + in[1]) + in[2]) + in[3]) + in[4]) + in[5]) + in[6]) + in[7]);
  float most = 0;
  combine(ReduceOp::kMax, 1, streams, &most);
  EXPECT_EQ(most, big);
}

TEST(Combine, MayWriteOverAnySourceOnEveryTarget) {
  for_each_target([&] {
    for (const int streams : {1, 2, 4, 8}) {
      for (int over = 0; over < streams; ++over) {
        for (const Store store : {Store::kCached, Store::kStreaming}) {
          Streams in(streams, 0, 40 + streams);
          AlignedFloats expected(kMost), also(kMost);
          combine_reference(ReduceOp::kSum, kMost, in.all, expected.data());
          float* const out = in.arrays[over].data();
          in.all[over] = out;
          combine(ReduceOp::kSum, kMost, in.all, out, also.data(), store);
          expect_same_bits(out, expected.data(), kMost, "in place");
          expect_same_bits(also.data(), expected.data(), kMost, "also");
        }
      }
    }
  });
}

TEST(Combine, TakesTheSecondWhereNeitherIsLarger) {
  const float left[] = {kNan, 1, 0.0F, -0.0F, kNan, -kInfinity, 2, -3};
  const float right[] = {1, kNan, -0.0F, 0.0F, kNan, kInfinity, 2, -2};
  AlignedFloats a(80), b(80), expected(80), out(80);
  for (int i = 0; i < 80; ++i) {
    a[i] = left[i % 8];
    b[i] = right[i % 8];
    expected[i] = left[i % 8] > right[i % 8] ? left[i % 8] : right[i % 8];
  }
  const float* const both[] = {a.data(), b.data()};
  for_each_target([&] {
    combine(ReduceOp::kMax, 80, both, out.data());
    expect_same_bits(out.data(), expected.data(), 80, "max");
  });
  EXPECT_EQ(bits_of(expected[2]), bits_of(-0.0F));
  EXPECT_EQ(expected[0], 1);
  EXPECT_TRUE(std::isnan(expected[1]));
}

TEST(CombineDeathTest, RefusesWhatIsNoPerfectTree) {
  const Streams in(8, 0, 3);
  AlignedFloats out(16);
  EXPECT_DEATH(combine(ReduceOp::kSum, 1, std::span(in.all).first(3), out.data()), "3 streams");
}

TEST(Add, HasTheBitsOfThePlainLoopOnEveryTarget) {
  const AlignedFloats a = random_floats(12, kMost), b = random_floats(13, kMost);
  for_each_target([&] {
    AlignedFloats expected(kMost), sum(kMost, kNan);
    for (int64_t i = 0; i < kMost; ++i) expected[i] = a[i] + b[i];
    add(kMost, a.data(), b.data(), sum.data());
    EXPECT_EQ(sum, expected);
  });
}

TEST(Add, MayWriteOverEitherAddend) {
  const AlignedFloats a = random_floats(14, kMost), b = random_floats(15, kMost);
  AlignedFloats expected(kMost), left = a, right = b;
  add(kMost, a.data(), b.data(), expected.data());
  add(kMost, left.data(), b.data(), left.data());
  add(kMost, a.data(), right.data(), right.data());
  EXPECT_EQ(left, expected);
  EXPECT_EQ(right, expected);
}

TEST(Scale, HasTheBitsOfThePlainLoopOnEveryTarget) {
  const AlignedFloats x = random_floats(16, kMost);
  for_each_target([&] {
    for (const int64_t n : {0, 1, 17, 64, 997}) {
      AlignedFloats scaled = x;
      scale(n, 1.0F / 3, scaled.data() + 1);
      for (int64_t i = 0; i < kMost; ++i) {
        const bool inside = 1 <= i && i <= n;
        ASSERT_EQ(bits_of(scaled[i]), bits_of(inside ? x[i] * (1.0F / 3) : x[i])) << i;
      }
    }
  });
}

// ---- conversions

constexpr DataType kHalves[] = {DataType::kBf16, DataType::kF16};
const char* name_of(DataType type) { return type == DataType::kBf16 ? "bf16" : "f16"; }

std::vector<uint16_t> all_patterns() {
  std::vector<uint16_t> all(65536);
  for (int i = 0; i < 65536; ++i) all[i] = static_cast<uint16_t>(i);
  return all;
}

// What narrowing may get wrong: every 16-bit number, its neighbours, the middle between it and the next and
// that one's neighbours, for both types; NaN; random bits.
std::vector<float> hard_floats() {
  std::vector<float> all;
  const auto add = [&](uint32_t bits) {
    for (const uint32_t near : {bits - 1, bits, bits + 1}) all.push_back(float_of(near));
  };
  for (const DataType type : kHalves) {
    const std::vector<uint16_t> patterns = all_patterns();
    std::vector<float> wide(patterns.size());
    widen_reference(type, static_cast<int64_t>(patterns.size()), patterns.data(), wide.data());
    for (std::size_t i = 0; i + 1 < wide.size(); ++i) {
      add(bits_of(wide[i]));
      const uint32_t a = bits_of(wide[i]), b = bits_of(wide[i + 1]);
      if (a < b) add(a + (b - a) / 2);
      add(bits_of(static_cast<float>((double{wide[i]} + double{wide[i + 1]}) / 2)));
    }
  }
  for (const float x :
       {65504.0F, 65519.996F, 65520.0F, 65536.0F, 0x1p-24F, 0x1p-25F, 0x1.000002p-25F, 0x1p-26F, 0x1p-14F,
        0x1.ffcp-15F, 0x1.fffp-15F, 0x1p-149F, 0x1p-126F, kInfinity, std::numeric_limits<float>::max()}) {
    add(bits_of(x));
    add(bits_of(-x));
  }
  std::mt19937 random(7);
  for (int i = 0; i < 300'000; ++i) all.push_back(float_of(static_cast<uint32_t>(random())));
  return all;
}

TEST(Widen, HasTheBitsOfTheReferenceForEveryPatternOnEveryTarget) {
  const std::vector<uint16_t> patterns = all_patterns();
  std::vector<float> expected(patterns.size()), wide(patterns.size());
  for_each_target([&] {
    for (const DataType type : kHalves) {
      const auto count = static_cast<int64_t>(patterns.size());
      widen_reference(type, count, patterns.data(), expected.data());
      widen(type, count, patterns.data(), wide.data());
      expect_same_bits(wide.data(), expected.data(), count, name_of(type));
    }
  });
}

TEST(Narrow, HasTheBitsOfTheReferenceOnEveryTarget) {
  const std::vector<float> floats = hard_floats();
  std::vector<uint16_t> expected(floats.size()), half(floats.size());
  for_each_target([&] {
    for (const DataType type : kHalves) {
      narrow_reference(type, static_cast<int64_t>(floats.size()), floats.data(), expected.data());
      narrow(type, static_cast<int64_t>(floats.size()), floats.data(), half.data());
      for (std::size_t i = 0; i < floats.size(); ++i) {
        ASSERT_EQ(half[i], expected[i]) << name_of(type) << " of " << std::hex << bits_of(floats[i]);
      }
    }
  });
}

TEST(Conversions, OfOddCountsTouchNothingElseOnEveryTarget) {
  const AlignedFloats floats = random_floats(20, kMost);
  for_each_target([&] {
    for (const DataType type : kHalves) {
      for (const int64_t n : {0, 1, 7, 15, 17, 33, 65, 997}) {
        std::vector<uint16_t> expected(kMost), half(kMost, 0xabcd);
        narrow_reference(type, n, floats.data() + 1, expected.data());
        narrow(type, n, floats.data() + 1, half.data() + 1);
        for (int64_t i = 0; i < n; ++i) ASSERT_EQ(half[i + 1], expected[i]);
        ASSERT_EQ(half[0], 0xabcd);
        ASSERT_EQ(half[n + 1], 0xabcd);
        std::vector<float> wide(kMost, 5), wide_expected(kMost);
        widen_reference(type, n, half.data() + 1, wide_expected.data());
        widen(type, n, half.data() + 1, wide.data() + 1);
        expect_same_bits(wide.data() + 1, wide_expected.data(), n, name_of(type));
        ASSERT_EQ(wide[0], 5);
        ASSERT_EQ(wide[n + 1], 5);
      }
    }
  });
}

float widened(DataType type, uint16_t half) {
  float x;
  widen_reference(type, 1, &half, &x);
  return x;
}
uint16_t narrowed(DataType type, float x) {
  uint16_t half;
  narrow_reference(type, 1, &x, &half);
  return half;
}

TEST(ConversionReference, KnowsTheFactsOfBothTypes) {
  EXPECT_EQ(widened(DataType::kF16, 0x3c00), 1.0F);
  EXPECT_EQ(widened(DataType::kF16, 0xc000), -2.0F);
  EXPECT_EQ(widened(DataType::kF16, 0x7bff), 65504.0F);
  EXPECT_EQ(widened(DataType::kF16, 0x0400), 0x1p-14F);
  EXPECT_EQ(widened(DataType::kF16, 0x0001), 0x1p-24F);
  EXPECT_EQ(widened(DataType::kF16, 0x3555), 0x1.554p-2F);
  EXPECT_EQ(widened(DataType::kF16, 0x7c00), kInfinity);
  EXPECT_EQ(bits_of(widened(DataType::kF16, 0x8000)), bits_of(-0.0F));
  EXPECT_TRUE(std::isnan(widened(DataType::kF16, 0x7c01)));
  EXPECT_EQ(narrowed(DataType::kF16, 65519.996F), 0x7bff);
  EXPECT_EQ(narrowed(DataType::kF16, 65520.0F), 0x7c00);
  EXPECT_EQ(narrowed(DataType::kF16, -1e30F), 0xfc00);
  EXPECT_EQ(narrowed(DataType::kF16, 0x1p-25F), 0x0000);  // a tie, to even
  EXPECT_EQ(narrowed(DataType::kF16, 0x1.8p-24F), 0x0002);
  EXPECT_EQ(narrowed(DataType::kF16, 1.0F + 0x1p-11F), 0x3c00);
  EXPECT_EQ(narrowed(DataType::kF16, 1.0F + 0x1.8p-10F), 0x3c02);

  EXPECT_EQ(widened(DataType::kBf16, 0x3f80), 1.0F);
  EXPECT_EQ(widened(DataType::kBf16, 0xff80), -kInfinity);
  EXPECT_EQ(narrowed(DataType::kBf16, 1.0F + 0x1p-8F), 0x3f80);  // a tie, to even
  EXPECT_EQ(narrowed(DataType::kBf16, 1.0F + 0x1.8p-7F), 0x3f82);
  EXPECT_EQ(narrowed(DataType::kBf16, std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_EQ(narrowed(DataType::kBf16, float_of(0x7f800001)) & 0x7fc0, 0x7fc0);  // NaN by its low bits alone
}

TEST(ConversionReference, GoesThereAndBackForEveryPattern) {
  for (const DataType type : kHalves) {
    for (int i = 0; i < 65536; ++i) {
      const auto half = static_cast<uint16_t>(i);
      const float x = widened(type, half);
      if (std::isnan(x)) {
        EXPECT_TRUE(std::isnan(widened(type, narrowed(type, x)))) << name_of(type) << " " << i;
      } else {
        ASSERT_EQ(narrowed(type, x), half) << name_of(type);
      }
    }
  }
}

TEST(ConversionReference, RoundsToTheNearestAndToEvenBetweenTwo) {
  for (const DataType type : kHalves) {
    for (const float x : hard_floats()) {
      const uint16_t half = narrowed(type, x);
      if (std::isnan(x)) {
        ASSERT_TRUE(std::isnan(widened(type, half))) << bits_of(x);
        continue;
      }
      if (std::isinf(x)) {
        ASSERT_EQ(widened(type, half), x);
        continue;
      }
      ASSERT_EQ(half >> 15, bits_of(x) >> 31);
      // Distances are exact in double precision. Infinity stands where the next number would be.
      const double overflow = type == DataType::kF16 ? 0x1p16 : 0x1p128;
      const auto number = [&](int pattern) {
        const float y = widened(type, static_cast<uint16_t>(pattern & 0x7fff));
        return std::isinf(y) ? overflow : double{y};
      };
      const double size = std::fabs(double{x});
      const int pattern = half & 0x7fff;
      const double own = std::fabs(number(pattern) - size);
      for (const int next : {pattern - 1, pattern + 1}) {
        const bool is_number = next >= 0 && next <= (type == DataType::kF16 ? 0x7c00 : 0x7f80);
        if (!is_number) continue;
        const double other = std::fabs(number(next) - size);
        if (pattern == (type == DataType::kF16 ? 0x7c00 : 0x7f80) && size >= overflow) continue;
        ASSERT_LE(own, other) << name_of(type) << " of " << x;
        ASSERT_TRUE(own != other || pattern % 2 == 0) << name_of(type) << " of " << x;
      }
    }
  }
}

#if defined(__FLT16_MANT_DIG__)
TEST(ConversionReference, AgreesWithTheCompilersHalfPrecision) {
  for (const float x : hard_floats()) {
    if (std::isnan(x)) continue;
    ASSERT_EQ(narrowed(DataType::kF16, x), std::bit_cast<uint16_t>(static_cast<_Float16>(x))) << x;
  }
  for (int i = 0; i < 65536; ++i) {
    const auto half = static_cast<uint16_t>(i);
    const auto x = static_cast<float>(std::bit_cast<_Float16>(half));
    if (std::isnan(x)) continue;
    ASSERT_EQ(bits_of(widened(DataType::kF16, half)), bits_of(x)) << i;
  }
}
#endif

}  // namespace
}  // namespace annulus
