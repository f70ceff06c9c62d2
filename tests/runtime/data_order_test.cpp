#include "runtime/data_order.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <vector>

#include "runtime/philox.h"

namespace annulus {
namespace {

std::vector<uint64_t> order(uint64_t seed, uint64_t epoch, uint64_t n) {
  const Permutation permutation(seed, epoch, n);
  std::vector<uint64_t> values(n);
  for (uint64_t i = 0; i < n; ++i) values[i] = permutation(i);
  return values;
}

// Everything here is a fixed computation: bounds are there to say what is good enough, and never fail by
// chance. Chi-square of k equally likely bins, as its distance from the mean in standard deviations.
double chi_square_deviation(const std::vector<uint64_t>& bins) {
  double total = 0;
  for (const uint64_t count : bins) total += static_cast<double>(count);
  const double expected = total / static_cast<double>(bins.size());
  double chi_square = 0;
  for (const uint64_t count : bins)
    chi_square += std::pow(static_cast<double>(count) - expected, 2) / expected;
  const double freedom = static_cast<double>(bins.size()) - 1;
  return (chi_square - freedom) / std::sqrt(2 * freedom);
}

TEST(Philox, GivesRandom123sKnownAnswers) {
  // kat_vectors of Random123, philox4x32 10.
  EXPECT_EQ(philox4x32_10({0, 0, 0, 0}, {0, 0}),
            (PhiloxWords{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32_10({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (PhiloxWords{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32_10({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (PhiloxWords{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, PutsSeedIndexStreamAndDomainWhereItsHeaderSays) {
  EXPECT_EQ(philox(0x299f31d0a4093822, static_cast<PhiloxDomain>(0x03707344), 0x13198a2e, 0x85a308d3243f6a88),
            (PhiloxWords{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Permutation, VisitsEveryImageOnce) {
  for (const uint64_t n : {0, 1, 2, 3, 4, 5, 15, 16, 17, 97, 1000, 60000, 65536, 65537}) {
    for (const uint64_t seed : {uint64_t{0}, uint64_t{1}, ~uint64_t{0}}) {
      std::vector<int> seen(n, 0);
      for (const uint64_t image : order(seed, 3, n)) {
        ASSERT_LT(image, n);
        ++seen[image];
      }
      for (uint64_t i = 0; i < n; ++i) ASSERT_EQ(seen[i], 1) << "image " << i << " of " << n;
    }
  }
}

TEST(Permutation, ServesRangesThatNoTableWouldHold) {
  const Permutation permutation(1, 0, ~uint64_t{0});
  EXPECT_NE(permutation(0), permutation(~uint64_t{0} - 1));
}

TEST(Permutation, DiffersByEpochAndSeedInEveryBit) {
  const auto base = order(1, 0, 1000);
  EXPECT_EQ(base, order(1, 0, 1000));
  for (int bit = 0; bit < 64; ++bit) {
    EXPECT_NE(base, order(1 ^ (uint64_t{1} << bit), 0, 1000)) << "seed bit " << bit;
    if (bit < 32) {
      EXPECT_NE(base, order(1, uint64_t{1} << bit, 1000)) << "epoch bit " << bit;
    }
  }
}

TEST(Permutation, SendsEachPositionToEachImageEquallyOften) {
  constexpr uint64_t kSeeds = 20000;
  for (const uint64_t n : {2, 3, 10, 97}) {
    for (const uint64_t position : {uint64_t{0}, n / 2, n - 1}) {
      std::vector<uint64_t> bins(n);
      for (uint64_t seed = 0; seed < kSeeds; ++seed) ++bins[Permutation(seed, 0, n)(position)];
      EXPECT_LT(std::abs(chi_square_deviation(bins)), 5) << "position " << position << " of " << n;
    }
  }
}

TEST(Permutation, ReachesAllOrdersOfThreeImagesEquallyOften) {
  std::vector<uint64_t> bins(6);
  for (uint64_t epoch = 0; epoch < 30000; ++epoch) {
    const Permutation permutation(7, epoch, 3);
    ++bins[permutation(0) * 2 + (permutation(1) > permutation(2) ? 1 : 0)];
  }
  EXPECT_LT(std::abs(chi_square_deviation(bins)), 5);
}

TEST(Permutation, MixesNeighboursOverTheWholeDataSet) {
  constexpr uint64_t kImages = 60000, kBins = 60;
  const Permutation permutation(1, 0, kImages);
  std::vector<uint64_t> batch(kBins), distance(kBins);
  for (uint64_t i = 0; i < 6000; ++i) ++batch[permutation(i) * kBins / kImages];
  for (uint64_t i = 0; i + 1 < kImages; ++i) {
    ++distance[(permutation(i + 1) + kImages - permutation(i)) % kImages * kBins / kImages];
  }
  // Drawn without replacement, so the first one lies somewhat below its mean: only too uneven is wrong.
  EXPECT_LT(chi_square_deviation(batch), 5);
  EXPECT_LT(std::abs(chi_square_deviation(distance)), 5);
}

TEST(Augmentation, StaysWithinThePaddingAndReachesAllOfIt) {
  for (const int padding : {0, 2, 4}) {
    const int side = 2 * padding + 1;
    std::vector<uint64_t> bins(static_cast<size_t>(side * side * 2));
    for (uint64_t image = 0; image < 40000; ++image) {
      const ImageShift shift = augmentation(5, 2, image, padding, true);
      ASSERT_LE(std::abs(shift.dy), padding);
      ASSERT_LE(std::abs(shift.dx), padding);
      ++bins[static_cast<size_t>(((shift.dy + padding) * side + shift.dx + padding) * 2 + shift.flip)];
    }
    EXPECT_LT(std::abs(chi_square_deviation(bins)), 5) << "padding " << padding;
  }
}

TEST(Augmentation, FlipsOnlyWhereAllowedAndChangesNothingElse) {
  for (uint64_t image = 0; image < 1000; ++image) {
    const ImageShift with = augmentation(5, 2, image, 4, true), without = augmentation(5, 2, image, 4, false);
    EXPECT_FALSE(without.flip);
    EXPECT_EQ(with.dy, without.dy);
    EXPECT_EQ(with.dx, without.dx);
  }
}

TEST(Augmentation, DiffersByEpochSeedAndImage) {
  const auto list = [](uint64_t seed, uint64_t epoch, uint64_t first) {
    std::vector<int> all;
    for (uint64_t image = first; image < first + 100; ++image) {
      const ImageShift shift = augmentation(seed, epoch, image, 4, true);
      all.insert(all.end(), {shift.dy, shift.dx, shift.flip});
    }
    return all;
  };
  EXPECT_EQ(list(1, 1, 0), list(1, 1, 0));
  EXPECT_NE(list(1, 1, 0), list(2, 1, 0));
  EXPECT_NE(list(1, 1, 0), list(1, 2, 0));
  EXPECT_NE(list(1, 1, 0), list(1, 1, 1));
}

TEST(UniformUnit, IsUniformInZeroToOneAndNeverOne) {
  std::vector<uint64_t> bins(100);
  for (uint64_t i = 0; i < 100000; ++i) {
    const float value = uniform_unit(3, 0, i);
    ASSERT_GE(value, 0.0f);
    ASSERT_LT(value, 1.0f);
    ASSERT_EQ(value, std::floor(value * 0x1p24f) * 0x1p-24f);
    ++bins[static_cast<size_t>(value * 100)];
  }
  EXPECT_LT(std::abs(chi_square_deviation(bins)), 5);
}

TEST(UniformUnit, IsTheSameInBulkFromAnyStart) {
  for (const uint64_t first : {uint64_t{0}, uint64_t{1}, uint64_t{6}, uint64_t{11}, uint64_t{1} << 33}) {
    for (const size_t count : {0, 1, 2, 3, 4, 5, 17}) {
      std::vector<float> bulk(count, -1);
      uniform_units(9, 4, first, bulk);
      for (size_t i = 0; i < count; ++i) EXPECT_EQ(bulk[i], uniform_unit(9, 4, first + i));
    }
  }
}

TEST(UniformUnit, StreamsAndSeedsDiffer) {
  std::array<std::vector<float>, 3> draws;
  draws.fill(std::vector<float>(64));
  uniform_units(1, 0, 0, draws[0]);
  uniform_units(1, 1, 0, draws[1]);
  uniform_units(2, 0, 0, draws[2]);
  EXPECT_NE(draws[0], draws[1]);
  EXPECT_NE(draws[0], draws[2]);
}

}  // namespace
}  // namespace annulus
