#include "runtime/network_tree.h"

#include <gtest/gtest.h>

#include <random>
#include <stdexcept>

namespace annulus {
namespace {

using Nodes = std::vector<NetworkNode>;

NetworkNode conv(const char* name = "") {
  return {{.kind = LayerKind::kConvolution, .name = name, .out = 8, .kernel = 3}};
}
NetworkNode batch_norm(bool relu) { return {{.kind = LayerKind::kBatchNorm, .relu = relu}}; }
NetworkNode block(Nodes layers, Nodes shortcut, const char* name = "") {
  return {{.kind = LayerKind::kAdd, .name = name, .relu = true}, std::move(layers), std::move(shortcut)};
}

std::vector<std::string> names(const Nodes& nodes) {
  std::vector<std::string> result;
  for (const LayerSpec& layer : flatten(nodes).layers) result.push_back(layer.name);
  return result;
}

TEST(NetworkTree, NamesSayTheKindAndCountWithinTheirList) {
  EXPECT_EQ(names({conv(),
                   conv(),
                   {{.kind = LayerKind::kMaxPool}},
                   {{.kind = LayerKind::kAveragePool}},
                   conv("last"),
                   conv(),
                   batch_norm(false),
                   {{.kind = LayerKind::kLinear}}}),
            (std::vector<std::string>{"conv1", "conv2", "pool1", "avgpool1", "last", "conv4", "bn1", "fc1"}));
}

TEST(NetworkTree, NamesInABlockFollowTheBlocks) {
  EXPECT_EQ(names({block({conv(), batch_norm(false)}, {conv(), batch_norm(false)}, "layer1.0"),
                   block({conv()}, {}), block({block({conv()}, {}), conv("head")}, {})}),
            (std::vector<std::string>{"layer1.0.conv1", "layer1.0.downsample.0", "layer1.0.downsample.1",
                                      "layer1.0.bn1", "block2.conv1", "block2.add", "block3.block1.conv1",
                                      "block3.block1.add", "block3.head", "block3.add"}));
}

TEST(NetworkTree, AFinalBatchNormWithoutReluDoesTheBlocksSum) {
  const std::vector<LayerSpec> layers =
      flatten({conv(), block({conv(), batch_norm(false)}, {}), conv()}).layers;
  ASSERT_EQ(layers.size(), 4U);
  EXPECT_EQ(layers[2].kind, LayerKind::kBatchNorm);
  EXPECT_EQ(layers[2].addend, 1);  // what conv1 made
  EXPECT_TRUE(layers[2].relu);
  for (const LayerSpec& layer : layers) EXPECT_EQ(layer.input, kPreviousActivation) << layer.name;
}

TEST(NetworkTree, ABatchNormWithAReluLeavesTheSumToALayerOfItsOwn) {
  const std::vector<LayerSpec> layers = flatten({conv(), block({conv(), batch_norm(true)}, {})}).layers;
  ASSERT_EQ(layers.size(), 4U);
  EXPECT_EQ(layers[2].addend, kNoActivation);
  EXPECT_EQ(layers[3].kind, LayerKind::kAdd);
  EXPECT_EQ(layers[3].addend, 1);
  EXPECT_TRUE(layers[3].relu);
}

TEST(NetworkTree, AShortcutRunsRightBeforeTheSum) {
  const std::vector<LayerSpec> layers =
      flatten({conv(), block({conv(), batch_norm(false)}, {conv(), batch_norm(false)})}).layers;
  ASSERT_EQ(layers.size(), 5U);
  EXPECT_EQ(layers[1].input, kPreviousActivation);
  EXPECT_EQ(layers[2].name, "block1.downsample.0");
  EXPECT_EQ(layers[2].input, 1);  // as layer 1
  EXPECT_EQ(layers[3].input, kPreviousActivation);
  EXPECT_EQ(layers[4].input, 2);  // what layer 1 made
  EXPECT_EQ(layers[4].addend, 4);
}

TEST(NetworkTree, LinesFollowTheirLayers) {
  NetworkNode first = conv(), inside = conv(), whole = block({}, {});
  first.line = 3;
  inside.line = 6;
  whole.line = 5;
  whole.layers = {inside};
  EXPECT_EQ(flatten({first, whole}).lines, (std::vector<int>{3, 6, 5}));
}

// Blocks within blocks and shortcuts, blocks whose only layer does the sum.
Nodes random_nodes(std::mt19937& random, int depth, bool may_be_empty) {
  Nodes nodes;
  const int count = static_cast<int>(random() % 4) + (may_be_empty ? 0 : 1);
  for (int i = 0; i < count; ++i) {
    switch (random() % (depth > 0 ? 5 : 3)) {
      case 0:
        nodes.push_back(conv(random() % 2 == 0 ? "" : ("own" + std::to_string(i)).c_str()));
        break;
      case 1:
      case 2:
        nodes.push_back(batch_norm(random() % 2 == 0));
        break;
      default:
        nodes.push_back(block(random_nodes(random, depth - 1, false), random_nodes(random, depth - 1, true),
                              random() % 2 == 0 ? "" : ("group" + std::to_string(i) + ".0").c_str()));
        nodes.back().layer.relu = random() % 2 == 0;
    }
  }
  return nodes;
}

TEST(NetworkTree, NestFindsTheBlocksThatWereFlattened) {
  std::mt19937 random(1);
  for (int round = 0; round < 5000; ++round) {
    const Nodes nodes = random_nodes(random, 3, false);
    ASSERT_EQ(nest(flatten(nodes).layers), nodes) << "round " << round;
  }
}

TEST(NetworkTree, NestRefusesWhatIsNoRowOfBlocks) {
  std::vector<LayerSpec> layers = flatten({conv(), conv(), conv()}).layers;
  layers[2].input = 1;  // leaves out conv2
  EXPECT_THROW(nest(layers), std::invalid_argument);
  layers = flatten({block({conv()}, {})}).layers;
  layers[1].name = "elsewhere";
  EXPECT_THROW(nest(layers), std::invalid_argument);
  layers = flatten({conv(), conv(), block({conv(), conv()}, {})}).layers;
  layers[4].addend = 4;  // its own input once more
  EXPECT_THROW(nest(layers), std::invalid_argument);
}

}  // namespace
}  // namespace annulus
