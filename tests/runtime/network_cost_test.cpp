#include "runtime/network_cost.h"

#include <gtest/gtest.h>

#include "runtime/models.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

// One layer on an image of 3x8x6, and the linear layer that ends every network.
NetworkCost cost_of(LayerSpec layer) {
  layer.name = "layer";
  return layer_costs({.name = "one",
                      .input = {3, 8, 6},
                      .classes = 2,
                      .layers = {layer, {.kind = LayerKind::kLinear, .name = "fc", .out = 2}}})[0];
}

TEST(NetworkCost, OfAConvolution) {
  const LayerSpec conv{.kind = LayerKind::kConvolution, .out = 5, .kernel = 3, .stride = 2, .padding = 1};
  // 5x4x3 outputs, each a sum of 27 products that starts at the bias.
  EXPECT_EQ(cost_of(conv), (NetworkCost{5 * 27 + 5, 60 * 27 * 2, 60 * 4}));
  LayerSpec bare = conv;
  bare.bias = false;
  EXPECT_EQ(cost_of(bare), (NetworkCost{5 * 27, 60 * 27 * 2, 60 * 4}));
}

TEST(NetworkCost, OfALinearLayer) {
  EXPECT_EQ(cost_of({.kind = LayerKind::kLinear, .out = 7, .relu = true}),
            (NetworkCost{7 * 144 + 7, 7 * 144 * 2, 7 * 4}));
}

TEST(NetworkCost, OfPoolingAndBatchNorm) {
  EXPECT_EQ(cost_of({.kind = LayerKind::kMaxPool, .kernel = 2}), (NetworkCost{0, 0, 3 * 4 * 3 * 4}));
  EXPECT_EQ(cost_of({.kind = LayerKind::kAveragePool}), (NetworkCost{0, 144, 3 * 4}));
  EXPECT_EQ(cost_of({.kind = LayerKind::kBatchNorm}), (NetworkCost{6, 2 * 144, 144 * 4}));
}

TEST(NetworkCost, OfSums) {
  EXPECT_EQ(cost_of({.kind = LayerKind::kBatchNorm, .addend = 0}), (NetworkCost{6, 3 * 144, 144 * 4}));
  EXPECT_EQ(cost_of({.kind = LayerKind::kAdd, .addend = 0}), (NetworkCost{0, 144, 144 * 4}));
}

TEST(NetworkCost, OfSimpleCnnByHand) {
  const NetworkSpec spec = make_network("simplecnn", {1, 28, 28}, 10);
  EXPECT_EQ(total_cost(spec).parameters,
            (9 * 32 + 32) + (32 * 9 * 64 + 64) + (64 * 5 * 5 * 128 + 128) + (128 * 10 + 10));
  EXPECT_EQ(total_cost(spec).flops,
            2 * (32 * 26 * 26 * 9 + 64 * 11 * 11 * 32 * 9 + 64 * 5 * 5 * 128 + 128 * 10));
  EXPECT_EQ(total_cost(spec).activation_bytes,
            4 * (32 * 26 * 26 + 32 * 13 * 13 + 64 * 11 * 11 + 64 * 5 * 5 + 128 + 10));
}

// Torchvision's counts of parameters.
TEST(NetworkCost, ResNetsHaveTheKnownNumbersOfParameters) {
  const auto parameters = [](const char* model, const ImageShape& input, int classes, const char* stem) {
    return total_cost(make_network(model, input, classes, stem)).parameters;
  };
  EXPECT_EQ(parameters("resnet18", {3, 224, 224}, 1000, "imagenet"), 11'689'512);
  EXPECT_EQ(parameters("resnet50", {3, 224, 224}, 1000, "imagenet"), 25'557'032);
  EXPECT_EQ(parameters("resnet18", {3, 32, 32}, 10, "cifar"), 11'173'962);
  // One input channel in place of three.
  EXPECT_EQ(parameters("resnet18", {1, 28, 28}, 10, "cifar"), 11'173'962 - 2 * 9 * 64);
  EXPECT_EQ(parameters("resnet50", {3, 32, 32}, 100, "cifar"),
            25'557'032 - 3 * 64 * (49 - 9) - 900 * (2048 + 1));
}

// Torchvision says 1.814 and 4.089 billion multiply-adds of convolutions and linear layers.
TEST(NetworkCost, ResNetsHaveTheKnownNumbersOfMultiplyAdds) {
  const auto multiply_adds = [](const char* model) {
    const NetworkSpec spec = make_network(model, {3, 224, 224}, 1000, "imagenet");
    const std::vector<NetworkCost> costs = layer_costs(spec);
    int64_t flops = 0;
    for (size_t i = 0; i < costs.size(); ++i) {
      const LayerKind kind = spec.layers[i].kind;
      if (kind == LayerKind::kConvolution || kind == LayerKind::kLinear) flops += costs[i].flops;
    }
    return static_cast<double>(flops / 2) * 1e-9;
  };
  EXPECT_NEAR(multiply_adds("resnet18"), 1.814, 0.0005);
  EXPECT_NEAR(multiply_adds("resnet50"), 4.089, 0.0005);
}

TEST(NetworkCost, BeyondAllMachinesIsTheUsersError) {
  const NetworkSpec spec{.name = "huge",
                         .input = {60000, 60000, 60000},
                         .classes = 60000,
                         .layers = {{.kind = LayerKind::kLinear, .name = "fc", .out = 60000}}};
  EXPECT_THROW(layer_costs(spec), UserError);
}

}  // namespace
}  // namespace annulus
