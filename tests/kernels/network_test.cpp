#include "kernels/network.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "network_harness.h"
#include "network_specs.h"
#include "runtime/models.h"
#include "telemetry/error.h"

namespace annulus {

namespace {

class EachNetwork : public testing::TestWithParam<NetworkSpec> {};

INSTANTIATE_TEST_SUITE_P(Networks, EachNetwork, testing::ValuesIn(small_networks()), [](const auto& info) {
  return info.param.name + "_" + std::to_string(info.param.input.channels) + "_channels";
});

// 1e-5 of the largest logit: sums of up to 1,600 products, rounded in single precision.
TEST_P(EachNetwork, LogitsAndLossMatchThePlainDoubleLoops) {
  for (const int images : {5, 1}) {
    NetworkHarness harness(GetParam(), images);
    const ReferenceNetwork reference(GetParam());
    const Doubles expected = reference.logits(harness.parameters(), harness.input(), images);
    const double loss = reference.loss(harness.parameters(), harness.input(), harness.labels(), 1.0 / images);
    const LossSum sum = harness.step(images, 1.0F / static_cast<float>(images));
    const double largest = largest_of(expected);
    ASSERT_EQ(harness.logits().size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_NEAR(harness.logits()[i], expected[i], 1e-5 * largest);
    }
    EXPECT_NEAR(sum.mean_loss(), loss, 1e-5 * std::max(1.0, largest));
  }
}

// Central differences in double precision are exact to about 1e-9 here, single precision adds 1e-6 of the
// largest gradients; the bound is 2e-5 of the largest element of each parameter's gradient, and 1e-9. Batch
// norm of a single value passes no gradient on, so of one image some are 0.
TEST_P(EachNetwork, GradientsMatchCentralDifferencesOfTheLoss) {
  constexpr int kSamples = 12;
  constexpr double kStep = 1e-6, kScale = 0.25;
  for (const int images : {4, 1}) {
    NetworkHarness harness(GetParam(), images);
    const ReferenceNetwork reference(GetParam());
    const Doubles input = harness.input();
    harness.step(images, kScale);
    std::vector<Doubles> parameters = harness.parameters();
    std::mt19937 random(3);
    for (size_t p = 0; p < parameters.size(); ++p) {
      if (is_statistic(harness.plan().parameters[p].role)) continue;
      const std::vector<float> gradient = harness.gradient(p);
      const double largest = largest_of(gradient);
      EXPECT_TRUE(largest > 0 || images == 1) << harness.plan().parameters[p].name;
      for (int sample = 0; sample < kSamples; ++sample) {
        const size_t i = random() % gradient.size();
        const double kept = parameters[p][i];
        parameters[p][i] = kept + kStep;
        const double above = reference.loss(parameters, input, harness.labels(), kScale);
        parameters[p][i] = kept - kStep;
        const double below = reference.loss(parameters, input, harness.labels(), kScale);
        parameters[p][i] = kept;
        ASSERT_NEAR(gradient[i], (above - below) / (2 * kStep), 2e-5 * largest + 1e-9)
            << harness.plan().parameters[p].name << " element " << i;
      }
    }
  }
}

// The same mathematics summed in another order: 1e-5 of the largest element of each parameter's gradient.
void expect_near_gradients(const NetworkHarness& expected, const NetworkHarness& got) {
  for (size_t p = 0; p < expected.plan().parameters.size(); ++p) {
    const std::vector<float> a = expected.gradient(p), b = got.gradient(p);
    const double largest = largest_of(a);
    for (size_t i = 0; i < a.size(); ++i) {
      ASSERT_NEAR(a[i], b[i], 1e-5 * largest) << expected.plan().parameters[p].name << " element " << i;
    }
  }
}

TEST_P(EachNetwork, APartialBatchHasTheGradientOfTheSmallerBatch) {
  constexpr int kImages = 3;
  NetworkHarness whole(GetParam(), kImages), partial(GetParam(), kImages + 4);
  const LossSum expected = whole.step(kImages, 0.5F), sum = partial.step(kImages, 0.5F);
  EXPECT_EQ(sum.images, expected.images);
  EXPECT_NEAR(sum.mean_loss(), expected.mean_loss(), 1e-5);
  expect_near_gradients(whole, partial);
}

TEST_P(EachNetwork, PortionsOfTheImagesHaveTheResultsOfAllAtOnce) {
  constexpr int64_t kBatch = 12;
  for (const int64_t images : {kBatch, int64_t{7}}) {
    NetworkHarness whole(GetParam(), staged(GetParam(), kBatch, kBatch));
    const LossSum expected = whole.step(images, 0.25F);
    for (const int64_t portion : {1, 2, 3, 4, 6}) {
      SCOPED_TRACE(portion);
      NetworkHarness portions(GetParam(), staged(GetParam(), kBatch, portion));
      const LossSum sum = portions.step(images, 0.25F);
      EXPECT_EQ(sum.images, images);
      EXPECT_EQ(sum.correct, expected.correct);
      EXPECT_NEAR(sum.mean_loss(), expected.mean_loss(), 1e-5);
      ASSERT_EQ(portions.parameters(), whole.parameters());
      expect_near_gradients(whole, portions);
    }
  }
}

TEST_P(EachNetwork, PortionsRepeatTheirBits) {
  NetworkHarness first(GetParam(), staged(GetParam(), 12, 4)), second(GetParam(), staged(GetParam(), 12, 4));
  expect_same_bits(first, second, 11);
}

TEST_P(EachNetwork, RepeatsItsBits) {
  NetworkHarness first(GetParam(), 6), second(GetParam(), 6);
  expect_same_bits(first, second, 6);
}

TEST_P(EachNetwork, WritesZerosIntoThePaddingOfGradients) {
  NetworkHarness harness(GetParam(), 2);
  harness.step(2, 1);
  expect_zero_padding(harness);
}

TEST_P(EachNetwork, TwoThreadsAgreeWithOneUpToRounding) {
  // A network's number of threads holds for the calling thread until the next network is made.
  NetworkHarness two(GetParam(), 6, 2);
  EXPECT_EQ(two.plan().threads, 2);
  two.step(6, 0.25F);
  NetworkHarness one(GetParam(), 6, 1);
  one.step(6, 0.25F);
  expect_near_gradients(one, two);
}

// Samples of all gradients, with the bounds of the networks above and, where a norm takes away most of a
// gradient, 2e-6 of the largest one of the network.
TEST(Network, GradientsOfRandomGraphsMatchCentralDifferences) {
  constexpr int kImages = 3, kSamples = 3;
  constexpr double kStep = 1e-6;
  std::mt19937 random(11);
  for (int round = 0; round < 60; ++round) {
    const NetworkSpec spec = random_graph(random, 16);
    NetworkHarness harness(spec, kImages + round % 2);
    const ReferenceNetwork reference(spec);
    const Doubles input = harness.input();
    harness.step(kImages, 1);
    std::vector<Doubles> parameters = harness.parameters();
    double largest_of_all = 0;
    for (size_t p = 0; p < parameters.size(); ++p) {
      if (is_statistic(harness.plan().parameters[p].role)) continue;
      largest_of_all = std::max(largest_of_all, largest_of(harness.gradient(p)));
    }
    const std::vector<uint8_t> labels(harness.labels().begin(), harness.labels().begin() + kImages);
    for (size_t p = 0; p < parameters.size(); ++p) {
      if (is_statistic(harness.plan().parameters[p].role)) continue;
      const std::vector<float> gradient = harness.gradient(p);
      for (int sample = 0; sample < kSamples; ++sample) {
        const size_t i = random() % gradient.size();
        const double kept = parameters[p][i];
        parameters[p][i] = kept + kStep;
        const double above = reference.loss(parameters, input, labels, 1);
        parameters[p][i] = kept - kStep;
        const double below = reference.loss(parameters, input, labels, 1);
        parameters[p][i] = kept;
        ASSERT_NEAR(gradient[i], (above - below) / (2 * kStep),
                    2e-5 * largest_of(gradient) + 2e-6 * largest_of_all)
            << harness.plan().parameters[p].name << " element " << i << " of\n"
            << text_of(spec);
      }
    }
  }
}

TEST(Network, PlanOfTheSameNetworkHasTheSameHash) {
  const NetworkSpec spec = make_network("simplecnn", {1, 28, 28}, 10);
  const Network first(spec, {.images = 16}), second(spec, {.images = 16}), other(spec, {.images = 17});
  EXPECT_EQ(first.plan().hash(), second.plan().hash());
  EXPECT_NE(first.plan().hash(), other.plan().hash());
}

TEST(Network, PlanListsParametersInOrderOfUse) {
  const Network network(make_network("simplecnn", {1, 28, 28}, 10), {.images = 16});
  std::vector<std::string> names;
  for (const ParameterPlan& parameter : network.plan().parameters) names.push_back(parameter.name);
  EXPECT_EQ(names, (std::vector<std::string>{"conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias",
                                             "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}));
  EXPECT_EQ(network.plan().parameters[2].layer, 2);
  EXPECT_EQ(network.plan().parameters[2].fan_in, 32 * 9);
  EXPECT_EQ(network.plan().parameters[5].fan_in, 64 * 5 * 5);
  EXPECT_EQ(network.plan().parameters[4].layout.elements(), 128 * 64 * 5 * 5);
}

// In bf16 only AVX-512 has kernels at all.
TEST(Network, NoPassRunsOnAReferenceKernel) {
  for (const DataType type : {DataType::kF32, DataType::kBf16}) {
    for (const NetworkSpec& spec : small_networks()) {
      if (type == DataType::kBf16 && spec.layers.back().relu) continue;  // refused
      const std::string isa = Network(small_networks().front(), {.images = 1}).plan().isa;
      if (isa.rfind("avx512", 0) != 0 && (type == DataType::kBf16 || isa.rfind("avx2", 0) != 0)) {
        GTEST_SKIP() << "SKIPPED: on " << isa << " oneDNN may have reference kernels only"
                     << (type == DataType::kBf16 ? " in bf16" : "");
      }
      const Network network(spec, {.images = 8, .type = type});
      for (const KernelPlan& kernel : network.plan().kernels) {
        EXPECT_EQ(kernel.implementation.find("ref"), std::string::npos) << spec.name << " " << kernel.layer;
      }
    }
  }
}

// Filters of side 5, which Winograd does not fit.
NetworkSpec direct_only(int side) {
  return net("direct_only", {3, side, side},
             {conv("conv1", 32, 3, 0, true), pool("pool1", 2), conv("conv2", 64, 5, 1, true),
              pool("pool2", 2), fc("fc1", 10, false)});
}

TEST(Network, DirectBackwardDataReadsAViewOnAvx512) {
  const Network network(direct_only(28), {.images = 16});
  if (network.plan().isa.rfind("avx512", 0) != 0 || network.plan().library.rfind("oneDNN 2.", 0) != 0) {
    GTEST_SKIP() << "SKIPPED: the view is that of oneDNN 2 on AVX-512, this is " << network.plan().library
                 << " on " << network.plan().isa;
  }
  std::vector<std::string> views;
  for (const KernelPlan& kernel : network.plan().kernels) {
    if (kernel.view) views.push_back(kernel.layer + " " + kernel.pass + " " + kernel.weights);
  }
  EXPECT_EQ(views, std::vector<std::string>{"conv2 backward-data ABcd16a16b"});
}

TEST(Network, TheFirstLayerHasNoBackwardData) {
  const Network network(make_network("simplecnn", {1, 28, 28}, 10), {.images = 4});
  for (const KernelPlan& kernel : network.plan().kernels) {
    EXPECT_FALSE(kernel.layer == "conv1" && kernel.pass == "backward-data");
  }
}

TEST(Network, ArenaHasRoomForOnePortionOfWhatBackwardDoesNotRead) {
  const NetworkSpec spec = direct_only(32);
  // Bytes per image: what conv1 writes, and what backward reads, the input and the outputs of pooling.
  const int64_t largest = 4 * 32 * 30 * 30;
  const int64_t kept = 4 * (3 * 32 * 32 + 32 * 15 * 15 + 64 * 6 * 6);
  const Network whole(spec, {.images = 64, .staging = staged(spec, 64, 64)});
  const Network portions(spec, {.images = 64, .staging = staged(spec, 64, 4)});
  EXPECT_GT(whole.plan().arena_bytes, 64 * (largest + kept));
  EXPECT_GT(portions.plan().arena_bytes, 4 * largest + 64 * kept);
  EXPECT_LT(portions.plan().arena_bytes, 8 * largest + 128 * kept);
}

TEST(Network, AnImageTooSmallForALayerIsTheUsersError) {
  const NetworkSpec spec = net("tiny", {1, 4, 4}, {conv("conv1", 16, 5, 0, true), fc("fc1", 2, false)});
  try {
    const Network network(spec, {.images = 1});
    FAIL();
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find("conv1"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("1x5x5"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("1x4x4"), std::string::npos);
  }
}

TEST(Network, AConvolutionWithoutAFastKernelIsTheUsersError) {
  const NetworkSpec spec = net("wide", {3, 32, 32}, {conv("conv1", 8, 15, 7, true), fc("fc1", 2, false)});
  try {
    const Network network(spec, {.images = 4});
    GTEST_SKIP() << "SKIPPED: " << network.plan().library << " on " << network.plan().isa
                 << " has a kernel for filters of 15x15";
  } catch (const UserError& error) {
    for (const char* part : {"layer conv1: oneDNN", "backward-weights from 3x32x32 to",
                             "(kernel 15, stride 1, padding 7) in fp32; give another kernel"}) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  }
}

TEST(Network, AWindowWhosePlacesDoNotFitIntoAByteIsTheUsersError) {
  const auto pooled = [](int window) {
    return net("pooled", {1, 40, 40}, {pool("pool1", window), fc("fc1", 2, false)});
  };
  EXPECT_NO_THROW(Network(pooled(15), {.images = 1}));
  EXPECT_THROW(Network(pooled(16), {.images = 1}), UserError);
}

TEST(Network, MustEndWithALinearLayerOfItsClasses) {
  NetworkSpec spec = net("headless", {1, 8, 8}, {conv("conv1", 16, 3, 0, true)});
  EXPECT_THROW(Network(spec, {.images = 1}), UserError);
  spec = net("wrong", {1, 8, 8}, {fc("fc1", 16, false)});
  spec.classes = 10;
  EXPECT_THROW(Network(spec, {.images = 1}), UserError);
}

TEST(Network, OnlyLinearLayersAndSumsReadWhatLinearLayersMake) {
  for (const LayerSpec& between :
       {norm("between", true), average("between"), pool("between", 1), conv("between", 16, 1, 0, false)}) {
    const NetworkSpec spec = net("features", {1, 8, 8}, {fc("fc1", 16, true), between, fc("fc2", 3, false)});
    try {
      const Network network(spec, {.images = 2});
      ADD_FAILURE() << static_cast<int>(between.kind);
    } catch (const UserError& error) {
      EXPECT_NE(std::string(error.what()).find("between"), std::string::npos);
      EXPECT_NE(std::string(error.what()).find("fc1"), std::string::npos);
    }
  }
}

// Each block doubles the ways from the image to the end of it.
TEST(Network, ManyBlocksWithoutParametersArePlannedAtOnce) {
  std::vector<LayerSpec> layers;
  for (int block = 0; block < 64; ++block) {
    layers.push_back({.kind = LayerKind::kMaxPool, .name = "pool", .kernel = 3, .stride = 1, .padding = 1});
    layers.push_back(sum("sum", false, static_cast<int>(layers.size()) - 1));
  }
  layers.push_back(fc("fc1", 3, false));
  EXPECT_EQ(Network(net("blocks", {1, 4, 4}, layers), {.images = 1}).plan().parameters.size(), 2u);
}

}  // namespace
}  // namespace annulus
