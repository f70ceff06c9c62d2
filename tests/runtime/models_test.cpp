#include "runtime/models.h"

#include <gtest/gtest.h>

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

TEST(Models, TooSmallAnImageNamesTheLayerAndBothShapes) {
  const std::string error = error_of("simplecnn", {3, 9, 9});
  EXPECT_NE(error.find("pool2"), std::string::npos) << error;
  EXPECT_NE(error.find("64x2x2"), std::string::npos) << error;
  EXPECT_NE(error.find("64x1x1"), std::string::npos) << error;
  EXPECT_EQ(error_of("simplecnn", {3, 10, 10}), "");
  EXPECT_NE(error_of("simplecnn", {3, 2, 32}).find("conv1"), std::string::npos);
}

TEST(Models, AnUnknownNameIsRefusedWithTheKnownOnes) {
  const std::string error = error_of("resnet", {3, 32, 32});
  EXPECT_NE(error.find("resnet"), std::string::npos);
  EXPECT_NE(error.find("simplecnn"), std::string::npos);
}

}  // namespace
}  // namespace annulus
