#include "runtime/models.h"

#include <gtest/gtest.h>

#include <stdexcept>

#include "telemetry/error.h"

namespace annulus {
namespace {

std::string error_of(const std::string& model, const ImageShape& input) {
  try {
    make_network(model, input, 10);
  } catch (const UserError& error) {
    return error.what();
  }
  return "";
}

TEST(Models, MlpIsThreeLinearLayersWithReluBetween) {
  const NetworkSpec spec = make_network("mlp", {1, 28, 28}, 10);
  ASSERT_EQ(spec.layers.size(), 3U);
  EXPECT_EQ(spec.name, "mlp");
  EXPECT_EQ(spec.layers[0].name, "fc1");
  EXPECT_EQ(spec.layers[0].out, 256);
  EXPECT_EQ(spec.layers[1].out, 128);
  EXPECT_EQ(spec.layers[2].out, 10);
  EXPECT_TRUE(spec.layers[0].relu);
  EXPECT_TRUE(spec.layers[1].relu);
  EXPECT_FALSE(spec.layers[2].relu);
}

TEST(Models, SimpleCnnHasTheShapesOfItsPlan) {
  const NetworkSpec spec = make_network("simplecnn", {1, 28, 28}, 10);
  const std::vector<std::pair<std::string, ImageShape>> expected{
      {"conv1", {32, 26, 26}}, {"pool1", {32, 13, 13}}, {"conv2", {64, 11, 11}},
      {"pool2", {64, 5, 5}},   {"fc1", {128, 1, 1}},    {"fc2", {10, 1, 1}}};
  ASSERT_EQ(spec.layers.size(), expected.size());
  ImageShape shape = spec.input;
  for (size_t k = 0; k < expected.size(); ++k) {
    shape = output_shape(spec.layers[k], shape);
    EXPECT_EQ(spec.layers[k].name, expected[k].first);
    EXPECT_EQ(shape, expected[k].second) << expected[k].first;
  }
}

// Torchvision's names, in our order: a shortcut runs right before the batch norm that adds it.
TEST(Models, ResNet18HasTorchvisionsLayers) {
  std::vector<std::string> expected{"conv1", "bn1", "maxpool"};
  for (const std::string group : {"1", "2", "3", "4"}) {
    for (const std::string block : {"0", "1"}) {
      const std::string prefix = "layer" + group + "." + block + ".";
      for (const char* name : {"conv1", "bn1", "conv2"}) expected.push_back(prefix + name);
      if (group != "1" && block == "0") {
        for (const char* name : {"downsample.0", "downsample.1"}) expected.push_back(prefix + name);
      }
      expected.push_back(prefix + "bn2");
    }
  }
  expected.insert(expected.end(), {"avgpool", "fc"});
  std::vector<std::string> names;
  for (const LayerSpec& layer : make_network("resnet18", {3, 224, 224}, 1000, "imagenet").layers) {
    names.push_back(layer.name);
  }
  EXPECT_EQ(names, expected);
}

// Shape of the layer's output.
ImageShape shape_of(const NetworkSpec& spec, const std::string& name) {
  const std::vector<ImageShape> shapes = activation_shapes(spec);
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    if (spec.layers[i].name == name) return shapes[i + 1];
  }
  ADD_FAILURE() << spec.name << " has no layer " << name;
  return {};
}

const LayerSpec& layer_of(const NetworkSpec& spec, const std::string& name) {
  for (const LayerSpec& layer : spec.layers) {
    if (layer.name == name) return layer;
  }
  throw std::out_of_range(name);
}

TEST(Models, ResNetsHaveTheShapesOfThePaper) {
  const NetworkSpec large = make_network("resnet50", {3, 224, 224}, 1000, "imagenet");
  EXPECT_EQ(shape_of(large, "conv1"), (ImageShape{64, 112, 112}));
  EXPECT_EQ(shape_of(large, "maxpool"), (ImageShape{64, 56, 56}));
  EXPECT_EQ(shape_of(large, "layer1.2.bn3"), (ImageShape{256, 56, 56}));
  EXPECT_EQ(shape_of(large, "layer2.0.conv1"), (ImageShape{128, 56, 56}));  // the stride is in conv2
  EXPECT_EQ(shape_of(large, "layer2.0.conv2"), (ImageShape{128, 28, 28}));
  EXPECT_EQ(shape_of(large, "layer3.5.bn3"), (ImageShape{1024, 14, 14}));
  EXPECT_EQ(shape_of(large, "layer4.2.bn3"), (ImageShape{2048, 7, 7}));
  EXPECT_EQ(shape_of(large, "avgpool"), (ImageShape{2048, 1, 1}));
  const NetworkSpec small = make_network("resnet18", {1, 28, 28}, 10);
  EXPECT_EQ(shape_of(small, "conv1"), (ImageShape{64, 28, 28}));
  EXPECT_EQ(shape_of(small, "layer1.1.bn2"), (ImageShape{64, 28, 28}));
  EXPECT_EQ(shape_of(small, "layer2.0.conv1"), (ImageShape{128, 14, 14}));
  EXPECT_EQ(shape_of(small, "layer4.1.bn2"), (ImageShape{512, 4, 4}));
}

TEST(Models, BlocksOfAResNetAddTheirShortcutInTheLastBatchNorm) {
  for (const char* model : {"resnet18", "resnet50"}) {
    const NetworkSpec spec = make_network(model, {3, 32, 32}, 10);
    int sums = 0;
    for (const LayerSpec& layer : spec.layers) {
      const bool is_convolution = layer.kind == LayerKind::kConvolution;
      const bool is_shortcut = layer.name.find("downsample") != std::string::npos;
      EXPECT_NE(layer.kind, LayerKind::kAdd) << layer.name;
      EXPECT_EQ(layer.relu, layer.kind == LayerKind::kBatchNorm && !is_shortcut) << layer.name;
      EXPECT_EQ(layer.bias, !is_convolution) << layer.name;
      if (layer.addend == kNoActivation) continue;
      ++sums;
      EXPECT_EQ(layer.kind, LayerKind::kBatchNorm) << layer.name;
      EXPECT_TRUE(layer.name.ends_with(model == std::string("resnet18") ? ".bn2" : ".bn3")) << layer.name;
    }
    EXPECT_EQ(sums, model == std::string("resnet18") ? 8 : 16);
    const auto activation = [&](const std::string& name) {
      return static_cast<int>(&layer_of(spec, name) - spec.layers.data()) + 1;
    };
    const std::string last = model == std::string("resnet18") ? ".bn2" : ".bn3";
    EXPECT_EQ(layer_of(spec, "layer2.0" + last).addend, activation("layer2.0.downsample.1"));
    EXPECT_EQ(layer_of(spec, "layer2.1" + last).addend, activation("layer2.0" + last));
    EXPECT_EQ(layer_of(spec, "layer2.0.downsample.0").input,
              activation("layer1." + std::string(model == std::string("resnet18") ? "1" : "2") + last));
  }
}

TEST(Models, OnlyResNetsHaveAStem) {
  EXPECT_TRUE(has_stem("resnet18"));
  EXPECT_TRUE(has_stem("resnet50"));
  EXPECT_FALSE(has_stem("simplecnn"));
  EXPECT_THROW(make_network("resnet18", {3, 32, 32}, 10, "none"), UserError);
  EXPECT_EQ(make_network("resnet18", {3, 32, 32}, 10), make_network("resnet18", {3, 32, 32}, 10, "cifar"));
}

TEST(Models, TooSmallAnImageNamesTheLayerAndBothShapes) {
  const std::string error = error_of("simplecnn", {3, 9, 9});
  EXPECT_NE(error.find("pool2"), std::string::npos) << error;
  EXPECT_NE(error.find("64x2x2"), std::string::npos) << error;
  EXPECT_NE(error.find("64x1x1"), std::string::npos) << error;
  EXPECT_EQ(error_of("simplecnn", {3, 10, 10}), "");
  EXPECT_NE(error_of("simplecnn", {3, 2, 32}).find("conv1"), std::string::npos);
}

TEST(Models, AnUnknownNameIsRefusedWithTheKnownOnes) {
  const std::string error = error_of("resnet-18", {3, 32, 32});
  EXPECT_NE(error.find("resnet-18"), std::string::npos);
  EXPECT_NE(error.find("simplecnn"), std::string::npos);
  EXPECT_NE(error.find("resnet50"), std::string::npos);
}

}  // namespace
}  // namespace annulus
