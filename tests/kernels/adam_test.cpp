#include "kernels/adam.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "each_target.h"
#include "kernels/aligned_floats.h"

namespace annulus {
namespace {

constexpr int64_t kElements = 64 * 9;
constexpr float kUnwritten = std::numeric_limits<float>::quiet_NaN();

AlignedFloats random_floats(unsigned seed, bool squared = false) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  AlignedFloats values(kElements);
  for (float& value : values) {
    value = normal(random);
    if (squared) value *= value;
  }
  return values;
}

const AdamOptions kOptions[] = {
    {},
    {.beta1 = 0.8, .beta2 = 0.95, .epsilon = 1e-4, .weight_decay = 0.1},
    {.weight_decay = 0.1, .decoupled = true},
    {.beta1 = 0, .beta2 = 0, .epsilon = 1e-3},
};

struct State {
  AlignedFloats weights = AlignedFloats(kElements, kUnwritten), first = AlignedFloats(kElements, kUnwritten),
                second = AlignedFloats(kElements, kUnwritten);
  bool operator==(const State&) const = default;
};

State random_state(unsigned seed) {
  return {random_floats(seed), random_floats(seed + 1), random_floats(seed + 2, true)};
}

State updated(const AdamStep& step, const AlignedFloats& gradient, const State& old,
              UpdateStores stores = {}) {
  State state;
  adam_update(step, kElements, gradient.data(), old.weights.data(), old.first.data(), old.second.data(),
              state.weights.data(), state.first.data(), state.second.data(), stores);
  return state;
}

TEST(AdamUpdate, HasTheBitsOfThePlainLoopHoweverItStoresOnEveryTarget) {
  const AlignedFloats gradient = random_floats(1);
  const State old = random_state(2);
  for_each_target([&] {
    for (const AdamOptions& options : kOptions) {
      const AdamStep step = adam_step(options, 0.01, 3);
      State expected;
      adam_update_reference(step, kElements, gradient.data(), old.weights.data(), old.first.data(),
                            old.second.data(), expected.weights.data(), expected.first.data(),
                            expected.second.data());
      for (const Store weights : {Store::kCached, Store::kStreaming}) {
        for (const Store moments : {Store::kCached, Store::kStreaming}) {
          EXPECT_EQ(updated(step, gradient, old, {weights, moments}), expected);
        }
      }
    }
  });
}

// Many updates in a row, so that the corrections of young moments matter and then fade.
TEST(AdamUpdate, FollowsPyTorchsDefinitionInDoublePrecisionForManySteps) {
  for (const AdamOptions& options : kOptions) {
    State state{random_floats(5), AlignedFloats(kElements), AlignedFloats(kElements)};
    std::vector<double> w(state.weights.begin(), state.weights.end()), m(kElements), v(kElements);
    for (int t = 1; t <= 50; ++t) {
      const double lr = 0.01 / t;
      const AlignedFloats gradient = random_floats(100 + t);
      state = updated(adam_step(options, lr, t), gradient, state);
      for (int64_t i = 0; i < kElements; ++i) {
        double g = gradient[i];
        if (options.decoupled) {
          w[i] -= lr * options.weight_decay * w[i];
        } else {
          g += options.weight_decay * w[i];
        }
        m[i] = options.beta1 * m[i] + (1 - options.beta1) * g;
        v[i] = options.beta2 * v[i] + (1 - options.beta2) * g * g;
        const double mean = m[i] / (1 - std::pow(options.beta1, t));
        w[i] -= lr * mean / (std::sqrt(v[i] / (1 - std::pow(options.beta2, t))) + options.epsilon);
        // About one rounding of a weight around one a step; moments forget theirs.
        ASSERT_NEAR(state.weights[i], w[i], 2e-6) << "update " << t;
        ASSERT_NEAR(state.first[i], m[i], 1e-6);
        ASSERT_NEAR(state.second[i], v[i], 2e-6);
      }
    }
  }
}

// What torch.optim of PyTorch 2.13 gives for these four parameters after three steps at rate 0.01.
TEST(AdamUpdate, EndsWherePyTorchEnds) {
  struct Case {
    AdamOptions options;
    double weights[4], first[4], second[4];
  };
  const Case cases[] = {
      {{},
       {0.997252584, -1.98570275, 0.498618037, 2.98574471},
       {-0.0346999951, 0.00130000478, -0.0854999945, -0.137991011},
       {0.00145861029, 0.000688980508, 0.000812497514, 0.0129920039}},
      {{.beta1 = 0.8, .beta2 = 0.95, .epsilon = 1e-4, .weight_decay = 0.1},
       {0.995190203, -1.98070049, 0.486229628, 2.98462939},
       {-0.00906157587, -0.07471288, -0.148154482, -0.198090687},
       {0.067289643, 0.0385841392, 0.0368713662, 0.607928872}},
      {{.weight_decay = 0.1, .decoupled = true},
       {0.994270205, -1.97973323, 0.497126997, 2.97678041},
       {-0.0346999951, 0.00130000478, -0.0854999945, -0.137991011},
       {0.00145861029, 0.000688980508, 0.000812497514, 0.0129920039}},
  };
  const float gradients[3][4] = {
      {0.3F, -0.7F, 0.0F, 2.0F}, {-1.1F, 0.2F, 0.05F, 1e-4F}, {0.4F, 0.4F, -0.9F, -3.0F}};
  const float start[4] = {1, -2, 0.5, 3};
  for (const Case& c : cases) {
    State state{AlignedFloats(kElements), AlignedFloats(kElements), AlignedFloats(kElements)};
    std::copy_n(start, 4, state.weights.begin());
    for (int t = 1; t <= 3; ++t) {
      AlignedFloats gradient(kElements);
      std::copy_n(gradients[t - 1], 4, gradient.begin());
      state = updated(adam_step(c.options, 0.01, t), gradient, state);
    }
    for (int i = 0; i < 4; ++i) {
      EXPECT_NEAR(state.weights[i], c.weights[i], 5e-7);
      EXPECT_NEAR(state.first[i], c.first[i], 1e-7);
      EXPECT_NEAR(state.second[i], c.second[i], 1e-7);
    }
  }
}

TEST(AdamUpdate, LeavesPaddingZero) {
  const State zero{AlignedFloats(kElements), AlignedFloats(kElements), AlignedFloats(kElements)};
  for (const AdamOptions& options : kOptions) {
    EXPECT_EQ(updated(adam_step(options, 0.01, 1), AlignedFloats(kElements), zero), zero);
  }
}

TEST(AdamUpdate, BitsDoNotDependOnHowElementsAreDealtOut) {
  const AlignedFloats gradient = random_floats(9);
  const State old = random_state(10);
  const AdamStep step = adam_step(kOptions[1], 0.01, 7);
  State parts;
  for (int64_t i = 0; i < kElements; i += 192) {
    adam_update(step, 192, &gradient[i], &old.weights[i], &old.first[i], &old.second[i], &parts.weights[i],
                &parts.first[i], &parts.second[i]);
  }
  EXPECT_EQ(parts, updated(step, gradient, old));
}

TEST(AdamUpdateDeathTest, RefusesATailAndAnUpdateBeforeTheFirst) {
  AlignedFloats x(128);
  EXPECT_DEATH(adam_update({}, 100, x.data(), x.data(), x.data(), x.data(), x.data(), x.data(), x.data()),
               "n = 100");
  EXPECT_DEATH(adam_step({}, 0.1, 0), "update 0");
}

}  // namespace
}  // namespace annulus
