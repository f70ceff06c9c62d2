#include "kernels/squared_norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "each_target.h"
#include "kernels/aligned_floats.h"

namespace annulus {
namespace {

AlignedFloats random_floats(int64_t n, float scale) {
  std::mt19937 random(static_cast<unsigned>(n));
  std::normal_distribution<float> normal(0, scale);
  AlignedFloats values(n);
  for (float& value : values) value = normal(random);
  return values;
}

TEST(SquaredNorm, HasTheBitsOfThePlainLoopOnEveryTarget) {
  for (const int64_t n : {0, 64, 192, 1024}) {
    for (const float scale : {1e-20F, 1.0F, 1e18F}) {
      const AlignedFloats x = random_floats(n, scale);
      const double expected = squared_norm_reference(n, x.data());
      for_each_target([&] { EXPECT_EQ(squared_norm(n, x.data()), expected); });
    }
  }
}

// Squares that a float cannot hold: neither overflow nor underflow, nor a rounding of each.
TEST(SquaredNorm, IsTheSumOfSquaresInDouble) {
  for (const float scale : {1e-30F, 1.0F, 1e30F}) {
    const AlignedFloats x = random_floats(1024, scale);
    long double expected = 0;
    for (const float value : x) expected += static_cast<long double>(value) * value;
    EXPECT_NEAR(squared_norm(1024, x.data()) / static_cast<double>(expected), 1, 1e-14);
  }
  AlignedFloats whole(128);
  for (int i = 0; i < 128; ++i) whole[i] = static_cast<float>(i);
  EXPECT_EQ(squared_norm(128, whole.data()), 127 * 128 * 255 / 6);
}

TEST(SquaredNorm, OfWhatIsNotFiniteIsNotFinite) {
  AlignedFloats x(64);
  x[17] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(squared_norm(64, x.data()), std::numeric_limits<double>::infinity());
  x[3] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(squared_norm(64, x.data())));
}

TEST(SquaredNormDeathTest, RefusesATail) {
  const AlignedFloats x(128);
  EXPECT_DEATH(squared_norm(100, x.data()), "n = 100");
}

}  // namespace
}  // namespace annulus
