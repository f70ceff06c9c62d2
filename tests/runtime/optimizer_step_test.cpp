#include "runtime/optimizer_step.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/aligned_floats.h"

namespace annulus {
namespace {

TEST(ClipFactor, brings_the_norm_down_to_the_limit_as_pytorch_does) {
  EXPECT_EQ(clip_factor(1, 4), static_cast<float>(1 / 4.000001));
  EXPECT_EQ(clip_factor(0.5, 0.25), 1);
  EXPECT_EQ(clip_factor(2, 0), 1);
  EXPECT_EQ(clip_factor(1, 1), static_cast<float>(1 / 1.000001));
  EXPECT_EQ(clip_factor(1, std::numeric_limits<double>::infinity()), 0);
  EXPECT_TRUE(std::isnan(clip_factor(1, std::nan(""))));
}

TEST(OptimizerStep, takes_each_optimizer_with_its_options) {
  constexpr int64_t kCount = 64;
  TrainConfig config;
  config.momentum = 0.5;
  config.weight_decay = 0.25;
  config.beta1 = 0.5;
  config.beta2 = 0.75;
  config.epsilon = 1;
  const AlignedFloats gradient(kCount, 1), zero(kCount, 0), one(kCount, 1);
  const auto updated = [&](const char* optimizer) {
    config.optimizer = optimizer;
    AlignedFloats weights(kCount), first(kCount), second(kCount), old_weights(one), old_first(one),
        old_second(zero);
    const OptimizerStep update(config, 1, 0.5f);
    update.apply(kCount, gradient.data(), {old_weights.data(), {old_first.data(), old_second.data()}},
                 {weights.data(), {first.data(), second.data()}}, {});
    AlignedFloats plain(kCount), plain_first(kCount), plain_second(kCount);
    update.apply_reference(kCount, gradient.data(),
                           {old_weights.data(), {old_first.data(), old_second.data()}},
                           {plain.data(), {plain_first.data(), plain_second.data()}});
    EXPECT_EQ(weights, plain);
    EXPECT_EQ(first, plain_first);
    EXPECT_EQ(second, plain_second);
    return weights[kCount - 1];
  };
  // Direction 1 + 0.25 in all but adamw; moments 1 before.
  EXPECT_FLOAT_EQ(updated("sgd"), 1 - 0.5F * 1.25F);
  EXPECT_FLOAT_EQ(updated("momentum"), 1 - 0.5F * 1.75F);
  EXPECT_FLOAT_EQ(updated("nesterov"), 1 - 0.5F * (1.25F + 0.5F * 1.75F));
  // m = (1 + 1.25) / 2, v = 1.25^2 / 4, each divided by what a first update has of it: a half and a quarter.
  EXPECT_FLOAT_EQ(updated("adam"), 1 - 0.5F * 2.25F / (1.25F + 1));
  EXPECT_FLOAT_EQ(updated("adamw"), 1 - 0.5F * 0.25F - 0.5F * 2.0F / (1.0F + 1));
}

}  // namespace
}  // namespace annulus
