// The reference, which kernels are compared with, on figures worked out by hand.
#include "reference_network.h"

#include <gtest/gtest.h>

#include <numeric>

namespace annulus {
namespace {

constexpr double kExact = 1e-12;

void expect_near(const Doubles& values, const Doubles& expected) {
  ASSERT_EQ(values.size(), expected.size());
  for (size_t i = 0; i < values.size(); ++i) EXPECT_NEAR(values[i], expected[i], kExact) << i;
}

// `layers` and behind them a linear layer that hands every pixel on.
class Seen {
 public:
  Seen(ImageShape input, std::vector<LayerSpec> layers) {
    spec_ = {.name = "seen", .input = input, .layers = std::move(layers)};
    ImageShape last = input;
    for (const LayerSpec& layer : spec_.layers) last = output_shape(layer, last);
    features_ = spec_.classes = static_cast<int>(last.pixels());
    spec_.layers.push_back({.kind = LayerKind::kLinear, .name = "fc", .out = features_, .bias = false});
  }
  Doubles operator()(std::vector<Doubles> parameters, const Doubles& input, int images) const {
    Doubles identity(features_ * features_);
    for (int i = 0; i < features_; ++i) identity[i * features_ + i] = 1;
    parameters.push_back(identity);
    return ReferenceNetwork(spec_).logits(parameters, input, images);
  }

 private:
  NetworkSpec spec_;
  int features_ = 0;
};

Doubles count_to(int last) {
  Doubles values(last);
  std::iota(values.begin(), values.end(), 1);
  return values;
}

// Of channels whose values are 1 and 3: mean 2, variance 1.
const double kUnit = 1 / std::sqrt(1 + ReferenceNetwork::kBatchNormEpsilon);

TEST(ReferenceNetwork, AStridedConvolutionWithPaddingAndWithoutBias) {
  const Seen seen({1, 3, 3}, {{.kind = LayerKind::kConvolution,
                               .name = "conv",
                               .out = 1,
                               .kernel = 3,
                               .stride = 2,
                               .padding = 1,
                               .bias = false}});
  // Corners of 1..9: each window holds a 2x2 of the image.
  expect_near(seen({Doubles(9, 1)}, count_to(9), 1), {12, 16, 24, 28});
  expect_near(seen({count_to(9)}, count_to(9), 1),
              {5 * 1 + 6 * 2 + 8 * 4 + 9 * 5, 4 * 2 + 5 * 3 + 7 * 5 + 8 * 6, 2 * 4 + 3 * 5 + 5 * 7 + 6 * 8,
               1 * 5 + 2 * 6 + 4 * 8 + 5 * 9});
}

TEST(ReferenceNetwork, BatchNormTakesItsStatisticsOverImagesAndPixels) {
  const Seen seen({2, 1, 2}, {{.kind = LayerKind::kBatchNorm, .name = "bn"}});
  const std::vector<Doubles> parameters{{1, 2}, {0, 10}, {77, 77}, {77, 77}};
  expect_near(seen(parameters, {1, 1, 3, 1, 3, 3, 3, 1}, 2),
              {-kUnit, -kUnit, 10 + 2 * kUnit, 10 - 2 * kUnit, kUnit, kUnit, 10 + 2 * kUnit, 10 - 2 * kUnit});
}

TEST(ReferenceNetwork, BatchNormAddsBeforeItsRelu) {
  const Seen seen({1, 1, 2}, {{.kind = LayerKind::kBatchNorm, .name = "bn", .relu = true, .addend = 0}});
  expect_near(seen({{4}, {0}, {0}, {1}}, {1, 3}, 1), {0, 3 + 4 * kUnit});
}

TEST(ReferenceNetwork, MaxPoolingLeavesThePaddingOutAndOverlaps) {
  const Seen seen({1, 3, 3},
                  {{.kind = LayerKind::kMaxPool, .name = "pool", .kernel = 3, .stride = 2, .padding = 1}});
  Doubles input = count_to(9);
  for (double& value : input) value = -value;
  expect_near(seen({}, input, 1), {-1, -2, -4, -5});
}

TEST(ReferenceNetwork, AveragePoolingIsOfTheWholeImage) {
  const Seen seen({2, 2, 2}, {{.kind = LayerKind::kAveragePool, .name = "pool"}});
  expect_near(seen({}, count_to(8), 1), {2.5, 6.5});
}

TEST(ReferenceNetwork, SumsOfActivationsThatAreNotThePreviousOnes) {
  const LayerSpec pool{.kind = LayerKind::kAveragePool, .name = "pool"};
  LayerSpec pool_of_input = pool;
  pool_of_input.input = 0;
  const Seen seen({1, 1, 2},
                  {pool,
                   {.kind = LayerKind::kLinear, .name = "fc1", .out = 1, .relu = true, .input = 0},
                   pool_of_input,
                   {.kind = LayerKind::kAdd, .name = "add1", .relu = true, .input = 1, .addend = 2},
                   {.kind = LayerKind::kAdd, .name = "add2", .input = 3, .addend = 4}});
  // pool: 3; fc1: 2 * 1 + 5 + 1.
  expect_near(seen({{2, 1}, {1}}, {1, 5}, 1), {3 + 8 + 3});
  expect_near(seen({{2, 1}, {1}}, {-1, -5}, 1), {-3});
}

NetworkSpec normed() {
  return {
      "normed",
      {1, 1, 2},
      2,
      {{.kind = LayerKind::kBatchNorm, .name = "bn"}, {.kind = LayerKind::kLinear, .name = "fc", .out = 2}}};
}

TEST(ReferenceNetwork, InferenceNormalizesWithTheRunningStatistics) {
  const std::vector<Doubles> parameters{{3},          {10},  {5}, {4 - ReferenceNetwork::kBatchNormEpsilon},
                                        {1, 0, 0, 1}, {0, 0}};
  expect_near(ReferenceNetwork(normed()).inference_logits(parameters, {1, 7}, 1), {10 - 6, 10 + 3});
}

TEST(ReferenceNetwork, StatisticsAreTheMeanAndTheUnbiasedVarianceOfWhatANormReads) {
  const std::vector<Doubles> parameters{{3}, {10}, {5}, {4}, {1, 0, 0, 1}, {0, 0}};
  const auto statistics = ReferenceNetwork(normed()).statistics(0, parameters, {1, 7, 3, 5}, 2);
  expect_near(statistics.mean, {4});
  expect_near(statistics.unbiased_variance, {(9 + 9 + 1 + 1) / 3.0});
}

}  // namespace
}  // namespace annulus
