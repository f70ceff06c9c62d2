#include "kernels/top_k.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <set>

#include "each_target.h"
#include "kernels/aligned_floats.h"

namespace annulus {
namespace {

using Floats = std::vector<float>;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<uint32_t> bits_of(std::span<const float> values) {
  std::vector<uint32_t> bits;
  for (const float value : values) bits.push_back(std::bit_cast<uint32_t>(value));
  return bits;
}

Floats normals(int64_t n, unsigned seed, float scale = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  Floats values(n);
  for (float& value : values) value = normal(random);
  return values;
}

// -largest .. largest, zeros of both signs among them.
Floats integers(int64_t n, unsigned seed, int largest) {
  std::mt19937 random(seed);
  Floats values(n);
  for (float& value : values) {
    value = static_cast<float>(random() % (largest + 1)) * (random() % 2 == 0 ? 1.0F : -1.0F);
  }
  return values;
}

Floats any_bits(int64_t n, unsigned seed) {
  std::mt19937 random(seed);
  Floats values(n);
  for (float& value : values) value = std::bit_cast<float>(static_cast<uint32_t>(random()));
  return values;
}

// Selects once, in place or not, in the latter case past the caches too, and compares with the reference; the
// residual becomes the new one.
void expect_reference_bits(TopK& top, int64_t k, std::span<const float> gradient, std::span<float> residual,
                           bool in_place, float scale = 1) {
  const auto n = static_cast<int64_t>(gradient.size());
  Floats expected_residual(n);
  const SparseVector expected =
      top_k_reference(k, n, gradient.data(), residual.data(), expected_residual.data(), scale);

  AlignedFloats elsewhere(in_place ? 0 : n);
  const Floats residual_before(residual.begin(), residual.end());
  float* const new_residual = in_place ? residual.data() : elsewhere.data();
  for (const Store store : {Store::kStreaming, Store::kCached}) {
    if (in_place && store == Store::kStreaming) continue;
    std::fill(elsewhere.begin(), elsewhere.end(), NAN);
    const SparseView sent = top.select(k, n, gradient.data(), residual.data(), new_residual, scale, store);
    ASSERT_EQ(std::vector<uint32_t>(sent.indices.begin(), sent.indices.end()), expected.indices);
    ASSERT_EQ(bits_of(sent.values), bits_of(expected.values));
    ASSERT_EQ(bits_of({new_residual, gradient.size()}), bits_of(expected_residual));
  }
  if (!in_place) {
    ASSERT_EQ(bits_of(residual), bits_of(residual_before));
    std::copy(elsewhere.begin(), elsewhere.end(), residual.begin());
  }
}

// Some k from 1 to n; 0 of 0.
std::set<int64_t> counts_for(int64_t n) {
  std::set<int64_t> counts;
  for (const int64_t k : {int64_t{1}, int64_t{2}, n / 1000, n / 100, n / 10, n / 3, n / 2, n - 1, n}) {
    counts.insert(std::clamp(k, std::min<int64_t>(n, 1), n));
  }
  return counts;
}

TEST(CountFor, IsTheProductRoundedUp) {
  EXPECT_EQ(count_for(0.5, 7), 4);
  EXPECT_EQ(count_for(0.1, 11), 2);
  EXPECT_EQ(count_for(0.001, 1), 1);
  EXPECT_EQ(count_for(1e-30, 1000), 1);
  EXPECT_EQ(count_for(1, 1000), 1000);
  EXPECT_EQ(count_for(0.1, 0), 0);
}

TEST(CountFor, TakesTheRatioAsADecimalNumber) {
  std::mt19937_64 random(1);
  for (const int64_t parts : {10, 100, 1000}) {
    const double ratio = 1 / static_cast<double>(parts);
    for (int64_t n = 0; n < 100000; ++n) ASSERT_EQ(count_for(ratio, n), (n + parts - 1) / parts) << n;
    for (int i = 0; i < 100000; ++i) {
      const auto n = static_cast<int64_t>(random() >> 31);
      ASSERT_EQ(count_for(ratio, n), (n + parts - 1) / parts) << n;
      ASSERT_EQ(count_for(ratio, n / parts * parts), n / parts) << n;
    }
  }
  for (int percent = 1; percent <= 100; ++percent) {  // 0.07 * 100 is above 7
    for (int64_t n = 1; n < 1000; ++n) {
      ASSERT_EQ(count_for(percent / 100.0, n), (n * percent + 99) / 100) << percent << " % of " << n;
    }
  }
}

TEST(CountForDeathTest, RefusesWhatIsNoRatio) {
  EXPECT_DEATH(count_for(0, 10), "ratio 0, n 10");
  EXPECT_DEATH(count_for(1.5, 10), "ratio 1.5");
  EXPECT_DEATH(count_for(NAN, 10), "ratio nan");
}

TEST(TopK, HasTheBitsOfTheReferenceOnEveryTarget) {
  for_each_target([&] {
    for (const int64_t n : {0, 1, 2, 15, 16, 17, 33, 1000, 1023, 1024, 1025, 4097, 10007}) {
      for (const int64_t k : counts_for(n)) {
        SCOPED_TRACE(testing::Message() << "n = " << n << ", k = " << k);
        for (const bool in_place : {false, true}) {
          TopK top;
          Floats residual = normals(n, 1);
          for (unsigned step = 0; step < 3; ++step) {
            const float scale = step == 0 ? 1.0F : 0.7F + static_cast<float>(step);
            expect_reference_bits(top, k, normals(n, 2 + step), residual, in_place, scale);
          }
        }
      }
    }
  });
}

TEST(TopK, ScalesTheResidualAndNotTheGradient) {
  const Floats gradient = {1, -5, 3, 0}, residual = {6, 4, 1, -3};  // sums 4 -3 3.5 -1.5
  Floats rest(4);
  TopK top;
  const SparseView sent = top.select(2, 4, gradient.data(), residual.data(), rest.data(), 0.5F);
  EXPECT_EQ(Floats(sent.values.begin(), sent.values.end()), (Floats{4, 3.5F}));
  EXPECT_EQ(rest, (Floats{0, -3, 0, -1.5F}));
}

TEST(TopK, OfSomeTakesTheLargest) {
  const Floats gradient = {1, -5, 3, 0, -2, 4}, residual = {1, 1, 1, 1, 0, 0};  // sums 2 -4 4 1 -2 4
  Floats rest(6);
  TopK top;
  const SparseView sent = top.select(2, 6, gradient.data(), residual.data(), rest.data());
  EXPECT_EQ(std::vector<uint32_t>(sent.indices.begin(), sent.indices.end()), (std::vector<uint32_t>{1, 2}));
  EXPECT_EQ(Floats(sent.values.begin(), sent.values.end()), (Floats{-4, 4}));
  EXPECT_EQ(rest, (Floats{2, 0, 0, 1, -2, 4}));
}

TEST(TopK, SelectsFromALargeTensor) {
  for_each_target([&] {
    for (const int64_t k : {1, 1000, 10000}) {
      TopK top;
      Floats residual(100003);
      for (unsigned step = 0; step < 2; ++step) {
        expect_reference_bits(top, k, normals(100003, step), residual, true);
      }
    }
  });
}

TEST(TopK, NeedsNoAlignment) {
  const int64_t n = 5000;
  for (const int shift : {1, 3, 7, 13}) {
    const Floats gradient = normals(n + 16, shift);
    Floats residual = normals(n + 16, 100 + shift);
    TopK top;
    for (const bool in_place : {false, true}) {
      expect_reference_bits(top, n / 10, {gradient.data() + shift, n},
                            {residual.data() + (shift * 3) % 16, n}, in_place);
    }
  }
}

// What lies around the new residual is not written, by no length of the last vector.
TEST(TopK, WritesNoMoreThanNElements) {
  for_each_target([&] {
    for (int64_t n = 0; n < 70; ++n) {
      const Floats gradient = normals(n, 5), residual = normals(n, 6);
      for (const Store store : {Store::kCached, Store::kStreaming}) {
        AlignedFloats rest(n + 32, 77);
        TopK().select(std::min<int64_t>(n, 3), n, gradient.data(), residual.data(), rest.data() + 16, 1,
                      store);
        for (int64_t i = 0; i < 16; ++i) ASSERT_TRUE(rest[i] == 77 && rest[n + 31 - i] == 77) << n;
      }
    }
  });
}

TEST(TopK, OfEqualMagnitudesTakesTheFirst) {
  for_each_target([&] {
    for (const int64_t n : {17, 1000, 10001}) {
      for (const int64_t k : counts_for(n)) {
        SCOPED_TRACE(testing::Message() << "n = " << n << ", k = " << k);
        for (const int largest : {0, 1, 3, 100}) {
          TopK top;
          Floats residual = integers(n, 1, largest);
          for (unsigned step = 0; step < 3; ++step) {
            expect_reference_bits(top, k, integers(n, 2 + step, largest), residual, true);
          }
        }
        TopK top;
        Floats ones(n, -1), zeros(n, -0.0F);
        expect_reference_bits(top, k, Floats(n, -0.0F), ones, true);
        expect_reference_bits(top, k, Floats(n, -0.0F), zeros, true);
      }
    }
  });
}

// Among many equal sums, which have been pruned before they come.
TEST(TopK, MissesNoSumThatIsLargerByOneBit) {
  for_each_target([&] {
    Floats gradient(20000, 1.0F), residual(20000);
    for (const int64_t i : {3, 9000, 19990, 19999}) gradient[i] = std::nextafter(-1.0F, -2.0F);
    TopK top;
    expect_reference_bits(top, 100, gradient, residual, true);
  });
}

TEST(TopK, SelectsAmongDenormalNumbers) {
  for_each_target([&] {
    for (const int64_t k : {1, 50, 5000}) {
      TopK top;
      Floats residual(10007);
      for (unsigned step = 0; step < 3; ++step) {
        Floats gradient = normals(10007, step, 1e-42F);
        expect_reference_bits(top, k, gradient, residual, false);
      }
    }
  });
}

TEST(TopK, SendsInfinityAndThenNan) {
  for_each_target([&] {
    Floats gradient = normals(3000, 1), residual = normals(3000, 2);
    gradient[5] = -kInfinity;
    gradient[2000] = kInfinity;
    residual[1500] = std::bit_cast<float>(0xff800001U);  // a signalling NaN
    gradient[2900] = NAN;
    residual[2900] = std::bit_cast<float>(0xffc12345U);  // which of the two NaN comes out is not defined
    gradient[40] = kInfinity;
    residual[40] = -kInfinity;
    TopK top;
    Floats rest(3000);
    const SparseView sent = top.select(5, 3000, gradient.data(), residual.data(), rest.data());
    EXPECT_EQ(std::vector<uint32_t>(sent.indices.begin(), sent.indices.end()),
              (std::vector<uint32_t>{5, 40, 1500, 2000, 2900}));
    EXPECT_EQ(bits_of(sent.values),
              (std::vector<uint32_t>{0xff800000, 0x7fc00000, 0x7fc00000, 0x7f800000, 0x7fc00000}));
    for (const float value : rest) EXPECT_TRUE(std::isfinite(value));
    for (const int64_t k : {1, 2, 3, 4, 6}) {
      TopK fewer;
      Floats copy = residual;
      expect_reference_bits(fewer, k, gradient, copy, true);
    }
  });
}

TEST(TopK, SelectsAmongAnyBits) {
  for_each_target([&] {
    for (const int64_t k : {1, 100, 2000, 20000}) {
      TopK top;
      Floats residual = any_bits(20000, 1);
      for (unsigned step = 0; step < 4; ++step) {
        expect_reference_bits(top, k, any_bits(20000, 2 + step), residual, step % 2 == 0);
      }
    }
  });
}

// The sample is a handful of elements here, and in some of the tensors they are among the largest: fewer than
// k sums reach the guess.
TEST(TopK, SelectsAgainWhereTheGuessWasTooHigh) {
  for_each_target([&] {
    TopK top;
    for (unsigned seed = 0; seed < 300; ++seed) {
      SCOPED_TRACE(testing::Message() << "seed " << seed);
      Floats residual = normals(2048, 1000 + seed);
      expect_reference_bits(top, 30, normals(2048, seed), residual, seed % 2 == 0);
    }
  });
}

// Error feedback over steps whose gradients drift, jump, vanish and come back, in tensors of several sizes.
TEST(TopK, DoesNotDependOnWhatWasSelectedBefore) {
  for_each_target([&] {
    TopK top;
    for (const int64_t n : {500, 40000, 3000}) {
      for (const int64_t k : {n / 100, n / 10, n / 2, n - 1}) {
        Floats residual(n);
        unsigned seed = 0;
        for (const float scale : {1.0F, 1.05F, 1e3F, 1e-3F, 1e-30F, 0.0F, 1e30F, 1.0F}) {
          SCOPED_TRACE(testing::Message() << "n = " << n << ", k = " << k << ", scale " << scale);
          expect_reference_bits(top, k, normals(n, seed, scale), residual, seed % 2 == 0);
          ++seed;
        }
      }
    }
  });
}

// Each sum is larger than those before, so that candidates are pruned again and again.
TEST(TopK, SelectsFromAscendingAndDescendingSums) {
  for_each_target([&] {
    for (const int64_t k : {1, 1000, 9000}) {
      TopK top;
      const int64_t n = 30000;
      Floats ascending(n), descending(n);
      for (int64_t i = 0; i < n; ++i) {
        ascending[i] = static_cast<float>(i);
        descending[i] = static_cast<float>(-i);
      }
      Floats residual(n);
      expect_reference_bits(top, k, ascending, residual, true);
      std::fill(residual.begin(), residual.end(), 0.0F);
      expect_reference_bits(top, k, descending, residual, true);
    }
  });
}

TEST(TopK, FindsEachSumInExactlyOneOfItsResults) {
  const int64_t n = 10000;
  const Floats gradient = normals(n, 1), residual = normals(n, 2);
  Floats rest(n), dense(n, NAN);
  TopK top;
  const SparseView sent = top.select(n / 20, n, gradient.data(), residual.data(), rest.data());
  write_dense(sent, n, dense.data());
  EXPECT_EQ(sent.indices.size(), 500U);
  for (int64_t i = 0; i < n; ++i) {
    const float sum = gradient[i] + residual[i];
    ASSERT_EQ(std::bit_cast<uint32_t>(dense[i] + rest[i]), std::bit_cast<uint32_t>(sum)) << i;
    ASSERT_TRUE(dense[i] == 0 || std::bit_cast<uint32_t>(rest[i]) == 0) << i;
  }
}

TEST(WriteDense, ReplacesTheGradient) {
  Floats gradient = {1, -5, 3, 0}, residual(4);
  TopK top;
  write_dense(top.select(2, 4, gradient.data(), residual.data(), residual.data()), 4, gradient.data());
  EXPECT_EQ(gradient, (Floats{0, -5, 3, 0}));
  EXPECT_EQ(residual, (Floats{1, 0, 0, 0}));
}

TEST(TopKDeathTest, RefusesToSelectNothingOrMoreThanThereIs) {
  Floats x(5);
  EXPECT_DEATH(TopK().select(0, 5, x.data(), x.data(), x.data()), "k = 0, n = 5");
  EXPECT_DEATH(TopK().select(6, 5, x.data(), x.data(), x.data()), "k = 6, n = 5");
}

}  // namespace
}  // namespace annulus
