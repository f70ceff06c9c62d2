#include "runtime/tune.h"

#include <gtest/gtest.h>

#include "runtime/models.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

constexpr auto kDirect = ConvolutionAlgorithm::kDirect;
constexpr auto kWinograd = ConvolutionAlgorithm::kWinograd;

NetworkSpec spec() { return make_network("simplecnn", {3, 16, 16}, 10); }

std::string error_of(const std::string& text, DataType type = DataType::kF32) {
  try {
    algorithms_from_text(text, "--convolutions", spec(), type);
  } catch (const UserError& error) {
    return error.what();
  }
  return "";
}

TEST(ChosenAlgorithms, AreTheSameAfterTheWayThroughText) {
  const std::string text = "conv1=ddd,conv2=wdw";
  const ChosenAlgorithms chosen = algorithms_from_text(text, "", spec(), DataType::kF32);
  EXPECT_EQ(chosen.size(), 6u);
  EXPECT_EQ(chosen.at({"conv2", kForward}), kWinograd);
  EXPECT_EQ(chosen.at({"conv2", kBackwardWeights}), kDirect);
  EXPECT_EQ(chosen.at({"conv2", kBackwardData}), kWinograd);
  EXPECT_EQ(to_text(chosen), text);
  EXPECT_EQ(to_text({}), "");
}

TEST(ChosenAlgorithms, ThatCannotBeAreTheUsersError) {
  for (const char* text : {"conv2", "conv2=", "conv2=wd", "conv2=wdwd", "conv2=abc", "=www", ",",
                           "conv2=www,,", "conv2=www,conv2=ddd"}) {
    EXPECT_NE(error_of(text), "") << text;
  }
  EXPECT_NE(error_of("conv9=ddd").find("conv9"), std::string::npos);
  EXPECT_NE(error_of("fc1=ddd").find("fc1"), std::string::npos);
  EXPECT_NE(error_of("conv2=www", DataType::kBf16).find("fp32"), std::string::npos);
  EXPECT_EQ(error_of("conv2=ddd", DataType::kBf16), "");
}

TEST(ChosenAlgorithms, DecideWhichKernelsRun) {
  for (const auto& [text, winograd] : {std::pair("conv2=www", true), {"conv2=ddd", false}}) {
    const Network network(
        spec(), {.images = 8, .algorithms = algorithms_from_text(text, "", spec(), DataType::kF32)});
    if (network.plan().isa.rfind("avx512", 0) != 0 || network.plan().library.rfind("oneDNN 2.", 0) != 0) {
      GTEST_SKIP() << "SKIPPED: Winograd is that of oneDNN 2 on AVX-512, this is " << network.plan().library
                   << " on " << network.plan().isa;
    }
    int convolutions = 0;
    for (const KernelPlan& kernel : network.plan().kernels) {
      if (kernel.layer != "conv2") continue;
      EXPECT_EQ(kernel.implementation.find("wino") != std::string::npos, winograd) << kernel.pass;
      ++convolutions;
    }
    EXPECT_EQ(convolutions, 3);
  }
}

TEST(Tune, NamesEveryConvolutionThatHasAChoice) {
  const ChosenAlgorithms chosen = fastest_algorithms(spec(), {.images = 8});
  EXPECT_EQ(chosen.size(), 6u);  // conv1 and conv2, three passes each
  EXPECT_EQ(to_text(algorithms_from_text(to_text(chosen), "", spec(), DataType::kF32)), to_text(chosen));
  EXPECT_EQ(chosen.at({"conv1", kBackwardData}), kDirect);  // a pass that the first layer does not have
}

TEST(Tune, GivesLayersOfOneShapeTheSameAlgorithms) {
  const NetworkSpec resnet = make_network("resnet18", {1, 8, 8}, 10);
  const ChosenAlgorithms chosen = fastest_algorithms(resnet, {.images = 4});
  for (const char* pass : {kForward, kBackwardWeights, kBackwardData}) {
    EXPECT_EQ(chosen.at({"layer1.0.conv1", pass}), chosen.at({"layer1.1.conv1", pass}));
  }
  EXPECT_FALSE(chosen.contains({"layer2.0.conv1", kForward}));  // stride 2
}

TEST(Tune, HasNothingToChooseWithoutSuchConvolutions) {
  EXPECT_TRUE(fastest_algorithms(make_network("mlp", {1, 8, 8}, 10), {.images = 4}).empty());
  EXPECT_TRUE(fastest_algorithms(spec(), {.images = 4, .type = DataType::kBf16}).empty());
}

}  // namespace
}  // namespace annulus
