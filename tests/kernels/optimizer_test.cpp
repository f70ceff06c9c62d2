#include "kernels/optimizer.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>

#include "each_target.h"
#include "kernels/aligned_floats.h"

namespace annulus {
namespace {

constexpr int64_t kElements = 64 * 9;
constexpr float kUnwritten = std::numeric_limits<float>::quiet_NaN();

AlignedFloats random_floats(unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  AlignedFloats values(kElements);
  for (float& value : values) value = normal(random);
  return values;
}

const SgdStep kSteps[] = {
    {.learning_rate = 0.1F},
    {.learning_rate = 0.1F, .weight_decay = 0.01F},
    {.learning_rate = 0.05F, .momentum = 0.9F},
    {.learning_rate = 0.05F, .momentum = 0.9F, .weight_decay = 5e-4F},
    {.learning_rate = 0.05F, .momentum = 0.9F, .weight_decay = 5e-4F, .nesterov = true},
    {.learning_rate = 0.05F, .momentum = 0.9F, .weight_decay = 5e-4F, .corrected = true},
    {.learning_rate = 0.05F, .momentum = 0.9F, .weight_decay = 5e-4F, .nesterov = true, .corrected = true},
};

struct State {
  AlignedFloats weights = AlignedFloats(kElements, kUnwritten),
                moments = AlignedFloats(kElements, kUnwritten);
};

TEST(SgdUpdate, HasTheBitsOfThePlainLoopInEveryModeOnEveryTarget) {
  const AlignedFloats gradient = random_floats(1), weights = random_floats(2), moments = random_floats(3);
  for_each_target([&] {
    for (const SgdStep& step : kSteps) {
      State expected, updated;
      sgd_update_reference(step, kElements, gradient.data(), weights.data(), moments.data(),
                           expected.weights.data(), expected.moments.data());
      sgd_update(step, kElements, gradient.data(), weights.data(), moments.data(), updated.weights.data(),
                 updated.moments.data());
      EXPECT_EQ(updated.weights, expected.weights);
      if (step.momentum == 0) continue;
      EXPECT_EQ(updated.moments, expected.moments);
    }
  });
}

TEST(SgdUpdate, MatchesPyTorchsDefinitionInDoublePrecision) {
  const AlignedFloats gradient = random_floats(4), weights = random_floats(5), moments = random_floats(6);
  for (const SgdStep& step : kSteps) {
    State updated;
    sgd_update(step, kElements, gradient.data(), weights.data(), moments.data(), updated.weights.data(),
               updated.moments.data());
    for (int64_t i = 0; i < kElements; ++i) {
      const double w = weights[i], mu = step.momentum;
      double d = (step.corrected ? 0.0 : gradient[i]) + double{step.weight_decay} * w;
      if (mu != 0) {
        const double m = mu * moments[i] + d;
        EXPECT_NEAR(updated.moments[i], m, 1e-6);
        d = step.nesterov ? d + mu * m : m;
      }
      if (step.corrected) d += gradient[i];
      EXPECT_NEAR(updated.weights[i], w - step.learning_rate * d, 1e-6);
    }
  }
}

TEST(SgdUpdate, WithoutMomentumTouchesNoMoments) {
  const AlignedFloats gradient = random_floats(7), weights = random_floats(8);
  AlignedFloats updated(kElements);
  sgd_update(kSteps[0], kElements, gradient.data(), weights.data(), nullptr, updated.data(), nullptr);
  EXPECT_NE(updated, weights);
}

TEST(SgdUpdate, BitsDoNotDependOnHowElementsAreDealtOut) {
  const AlignedFloats gradient = random_floats(9), weights = random_floats(10), moments = random_floats(11);
  State whole, parts;
  const SgdStep step = kSteps[4];
  sgd_update(step, kElements, gradient.data(), weights.data(), moments.data(), whole.weights.data(),
             whole.moments.data());
  for (int64_t begin = 0; begin < kElements; begin += 192) {
    sgd_update(step, 192, gradient.data() + begin, weights.data() + begin, moments.data() + begin,
               parts.weights.data() + begin, parts.moments.data() + begin);
  }
  EXPECT_EQ(parts.weights, whole.weights);
  EXPECT_EQ(parts.moments, whole.moments);
}

TEST(VelocityUpdate, HasTheBitsOfThePlainLoopForAnyLengthOnEveryTarget) {
  const AlignedFloats old = random_floats(12), before = random_floats(13);
  for_each_target([&] {
    for (const bool nesterov : {false, true}) {
      for (const int64_t n : {0, 1, 15, 17, 100, 575}) {
        const SgdStep step{.momentum = 0.9F, .nesterov = nesterov};
        AlignedFloats expected = before, gradient = before;
        AlignedFloats expected_velocity(kElements, 7), velocity(kElements, 7);
        velocity_update_reference(step, n, expected.data() + 1, old.data(), expected_velocity.data());
        velocity_update(step, n, gradient.data() + 1, old.data(), velocity.data());
        EXPECT_EQ(gradient, expected);
        EXPECT_EQ(velocity, expected_velocity);
      }
    }
  });
}

// Momentum is linear: that of two shards' gradients, one by one before they are summed, is that of their sum.
// With small integers and powers of two nothing is rounded.
TEST(VelocityUpdate, BeforeTheSumIsMomentumAfterIt) {
  std::mt19937 random(14);
  const auto integers = [&] {
    AlignedFloats values(kElements);
    for (float& value : values) value = static_cast<float>(random() % 17) - 8;
    return values;
  };
  for (const bool nesterov : {false, true}) {
    const SgdStep whole{.learning_rate = 0.25F, .momentum = 0.5F, .weight_decay = 0.5F, .nesterov = nesterov};
    SgdStep corrected = whole;
    corrected.corrected = true;
    State a{integers(), AlignedFloats(kElements)}, b = a;
    AlignedFloats velocity[2] = {AlignedFloats(kElements), AlignedFloats(kElements)};
    for (int step = 0; step < 2; ++step) {
      AlignedFloats sum(kElements), sent(kElements), next(kElements);
      for (AlignedFloats& of_shard : velocity) {
        AlignedFloats gradient = integers();
        for (int64_t i = 0; i < kElements; ++i) sum[i] += gradient[i];
        velocity_update(whole, kElements, gradient.data(), of_shard.data(), next.data());
        of_shard = next;
        for (int64_t i = 0; i < kElements; ++i) sent[i] += gradient[i];
      }
      State a_next, b_next;
      sgd_update(whole, kElements, sum.data(), a.weights.data(), a.moments.data(), a_next.weights.data(),
                 a_next.moments.data());
      sgd_update(corrected, kElements, sent.data(), b.weights.data(), b.moments.data(), b_next.weights.data(),
                 b_next.moments.data());
      a = a_next;
      b = b_next;
    }
    EXPECT_EQ(a.weights, b.weights);
    EXPECT_NE(a.moments, b.moments);
  }
}

TEST(SgdUpdateDeathTest, RefusesATail) {
  AlignedFloats x(128);
  EXPECT_DEATH(sgd_update(kSteps[0], 100, x.data(), x.data(), nullptr, x.data(), nullptr), "n = 100");
}

}  // namespace
}  // namespace annulus
