// Batch norm's statistics in whole networks, against plain loops in double precision.
#include <gtest/gtest.h>

#include <algorithm>

#include "network_harness.h"
#include "network_specs.h"

namespace annulus {
namespace {

std::vector<NetworkSpec> normed_networks() {
  std::vector<NetworkSpec> networks = small_networks();
  std::erase_if(networks, [](const NetworkSpec& spec) {
    return std::ranges::find(spec.layers, LayerKind::kBatchNorm, &LayerSpec::kind) == spec.layers.end();
  });
  return networks;
}

class EachNormedNetwork : public testing::TestWithParam<NetworkSpec> {};

INSTANTIATE_TEST_SUITE_P(Networks, EachNormedNetwork, testing::ValuesIn(normed_networks()),
                         [](const auto& info) { return info.param.name; });

// What backward writes as gradients of running statistics: the images' own mean and unbiased variance, times
// their share of the step. 1e-5 of the largest, as for logits.
TEST_P(EachNormedNetwork, GradientsOfRunningStatisticsAreTheShareOfTheBatchs) {
  constexpr int kImages = 3;
  constexpr float kScale = 0.125F;  // one over the images of the step
  NetworkHarness harness(GetParam(), kImages + 2);
  harness.step(kImages, kScale);
  const ReferenceNetwork reference(GetParam());
  int compared = 0;
  for (size_t p = 0; p < harness.parameters().size(); ++p) {
    const ParameterPlan& parameter = harness.plan().parameters[p];
    if (!is_statistic(parameter.role)) continue;
    const auto statistics =
        reference.statistics(parameter.layer, harness.parameters(), harness.input(), kImages);
    const Doubles& expected =
        parameter.role == ParameterRole::kRunningMean ? statistics.mean : statistics.unbiased_variance;
    const std::vector<float> gradient = harness.gradient(p);
    ASSERT_EQ(gradient.size(), expected.size());
    for (size_t c = 0; c < gradient.size(); ++c) {
      ASSERT_NEAR(gradient[c], kImages * kScale * expected[c], 1e-5 * largest_of(expected)) << parameter.name;
    }
    ++compared;
  }
  EXPECT_GE(compared, 2);
}

TEST_P(EachNormedNetwork, InferenceUsesTheRunningStatistics) {
  constexpr int kImages = 5;
  NetworkHarness harness(GetParam(), kImages);
  const ReferenceNetwork reference(GetParam());
  const Doubles expected = reference.inference_logits(harness.parameters(), harness.input(), kImages);
  harness.infer(kImages);
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_NEAR(harness.logits()[i], expected[i], 1e-5 * largest_of(expected));
  }
  // Not by chance: the images' own statistics yield other logits.
  EXPECT_GT(distance(reference.logits(harness.parameters(), harness.input(), kImages), expected), 1e-2);
}

// In inference an image's logits do not depend on what lies beside it, and the step that follows does not on
// the inference before it.
TEST_P(EachNormedNetwork, InferenceLeavesNothingBehind) {
  NetworkHarness harness(GetParam(), 4), other(GetParam(), 4);
  harness.infer(4);
  const std::vector<float> all = harness.logits();
  harness.infer(2);
  EXPECT_TRUE(std::equal(all.begin(), all.begin() + 2 * GetParam().classes, harness.logits().begin()));
  harness.randomize(1);
  harness.step(4, 0.25F);
  other.step(4, 0.25F);
  EXPECT_EQ(harness.logits(), other.logits());
  for (size_t p = 0; p < harness.parameters().size(); ++p) {
    EXPECT_EQ(harness.gradient(p), other.gradient(p)) << harness.plan().parameters[p].name;
  }
}

TEST(Network, StatisticsOfBf16AreThoseOfFp32UpToRounding) {
  const NetworkSpec spec = normed_networks().front();
  const NetworkOptions options{.images = 8, .type = DataType::kBf16};
  NetworkHarness exact(spec, 8);
  if (exact.plan().isa.rfind("avx512_core", 0) != 0) {
    GTEST_SKIP() << "SKIPPED: bf16 needs AVX-512 (avx512_core), oneDNN uses " << exact.plan().isa;
  }
  NetworkHarness narrow(spec, options);
  exact.infer(8);
  narrow.infer(8);
  EXPECT_LE(distance(narrow.logits(), exact.logits()), 6.0 / 256);  // network_bf16_test has the reasons
}

}  // namespace
}  // namespace annulus
