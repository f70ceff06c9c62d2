// Networks whose activations are bf16, against the same networks in fp32, which network_test compares with
// plain loops.
//
// A bf16 number has 8 significant bits: rounding changes it by up to u = 2^-8, by 0.4 u in the mean square. A
// network rounds every activation, every weight and every activation's gradient once; each of these roundings
// moves the result by about as much, independently of the others, so ten layers make 2 u. ReLU and max
// pooling choose otherwise where two values lie closer together than that: about u of the gradient passes
// that should not, or the reverse, which is sqrt(u) = 6% of its norm for every layer of choices behind a
// parameter, and more where few images leave few choices. Bounds are on relative norms of differences.
#include <gtest/gtest.h>

#include <algorithm>

#include "network_harness.h"
#include "network_specs.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

constexpr double kUnit = 1.0 / 256;
constexpr double kRounding = 6 * kUnit;  // twice what was measured

bool has_bf16_kernels(std::string& isa) {
  isa = Network(small_networks()[0], {.images = 1}).plan().isa;
  return isa.rfind("avx512_core", 0) == 0;
}

class EachBf16Network : public testing::TestWithParam<NetworkSpec> {
 protected:
  void SetUp() override {
    std::string isa;
    if (!has_bf16_kernels(isa)) {
      GTEST_SKIP() << "SKIPPED: bf16 needs AVX-512 (avx512_core), oneDNN uses " << isa;
    }
  }
};

NetworkOptions bf16(const Staging& staging, int threads = 1) {
  return {.images = staging.batch, .threads = threads, .type = DataType::kBf16, .staging = staging};
}
NetworkOptions bf16(int64_t images, int threads = 1) {
  return {.images = images, .threads = threads, .type = DataType::kBf16};
}

// oneDNN has no bf16 kernels for a first convolution whose filters do not fill blocks of 16.
bool starts_oddly(const NetworkSpec& spec) {
  const auto first = std::ranges::find(spec.layers, LayerKind::kConvolution, &LayerSpec::kind);
  return first != spec.layers.end() && first->out % 16 != 0;
}

std::vector<NetworkSpec> bf16_networks() {
  std::vector<NetworkSpec> networks = small_networks();
  std::erase_if(networks,
                [](const NetworkSpec& spec) { return spec.layers.back().relu || starts_oddly(spec); });
  return networks;
}

INSTANTIATE_TEST_SUITE_P(Networks, EachBf16Network, testing::ValuesIn(bf16_networks()), [](const auto& info) {
  return info.param.name + "_" + std::to_string(info.param.input.channels) + "_channels";
});

// ReLUs and max poolings from layer `first` on.
int choices_from(const NetworkSpec& spec, int first) {
  return static_cast<int>(
      std::count_if(spec.layers.begin() + first, spec.layers.end(),
                    [](const LayerSpec& layer) { return layer.relu || layer.kind == LayerKind::kMaxPool; }));
}

TEST_P(EachBf16Network, LogitsAndGradientsAreThoseOfFp32UpToRounding) {
  for (const int images : {16, 1}) {
    SCOPED_TRACE(images);
    NetworkHarness narrow(GetParam(), bf16(images)), exact(GetParam(), images);
    ASSERT_EQ(narrow.parameters(), exact.parameters());
    const LossSum sum = narrow.step(images, 0.25F), expected = exact.step(images, 0.25F);
    EXPECT_LE(distance(narrow.logits(), exact.logits()), kRounding);
    EXPECT_NEAR(sum.mean_loss(), expected.mean_loss(), kRounding * largest_of(exact.logits()));
    for (size_t p = 0; p < exact.parameters().size(); ++p) {
      const ParameterPlan& parameter = exact.plan().parameters[p];
      const int choices = is_statistic(parameter.role) ? 0 : choices_from(GetParam(), parameter.layer);
      const double passed_wrongly = (images == 1 ? 4 : 2) * std::sqrt(choices * kUnit);
      EXPECT_LE(distance(narrow.gradient(p), exact.gradient(p)), kRounding + passed_wrongly)
          << parameter.name;
    }
  }
}

// Equal up to the order of sums in fp32, which now and then rounds an activation the other way: u/4.
void expect_same_results(const NetworkHarness& a, const NetworkHarness& b) {
  for (size_t p = 0; p < a.parameters().size(); ++p) {
    EXPECT_LE(distance(a.gradient(p), b.gradient(p)), kUnit / 4) << a.plan().parameters[p].name;
  }
}

TEST_P(EachBf16Network, APartialBatchHasTheGradientOfTheSmallerBatch) {
  NetworkHarness whole(GetParam(), bf16(3)), partial(GetParam(), bf16(7));
  const LossSum expected = whole.step(3, 0.5F), sum = partial.step(3, 0.5F);
  EXPECT_EQ(sum.images, expected.images);
  EXPECT_NEAR(sum.mean_loss(), expected.mean_loss(), kUnit);
  expect_same_results(partial, whole);
}

TEST_P(EachBf16Network, PortionsOfTheImagesHaveTheResultsOfAllAtOnce) {
  for (const int64_t images : {12, 7}) {
    NetworkHarness whole(GetParam(), bf16(staged(GetParam(), 12, 12)));
    whole.step(images, 0.25F);
    for (const int64_t portion : {1, 4}) {
      SCOPED_TRACE(portion);
      NetworkHarness portions(GetParam(), bf16(staged(GetParam(), 12, portion)));
      portions.step(images, 0.25F);
      expect_same_results(portions, whole);
    }
  }
}

TEST_P(EachBf16Network, TwoThreadsAgreeWithOneUpToRounding) {
  // A network's number of threads holds for the calling thread until the next network is made.
  NetworkHarness two(GetParam(), bf16(6, 2));
  two.step(6, 0.25F);
  NetworkHarness one(GetParam(), bf16(6, 1));
  one.step(6, 0.25F);
  expect_same_results(two, one);
}

TEST_P(EachBf16Network, RepeatsItsBits) {
  for (const int64_t portion : {12, 4}) {
    NetworkHarness first(GetParam(), bf16(staged(GetParam(), 12, portion)));
    NetworkHarness second(GetParam(), bf16(staged(GetParam(), 12, portion)));
    expect_same_bits(first, second, 11);
  }
}

TEST_P(EachBf16Network, WritesZerosIntoThePaddingOfGradients) {
  NetworkHarness harness(GetParam(), bf16(2));
  harness.step(2, 1);
  expect_zero_padding(harness);
}

TEST(Bf16Network, AFirstConvolutionThatFillsNoBlocksIsTheUsersError) {
  std::string isa;
  if (!has_bf16_kernels(isa)) GTEST_SKIP() << "SKIPPED: bf16 needs AVX-512, oneDNN uses " << isa;
  for (const NetworkSpec& spec : small_networks()) {
    if (!starts_oddly(spec)) continue;
    try {
      const Network network(spec, bf16(2));  // a later oneDNN may have such kernels
    } catch (const UserError& error) {
      EXPECT_NE(std::string(error.what()).find("conv1"), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("fp32"), std::string::npos) << error.what();
    }
  }
}

TEST(Bf16Network, LogitsThatGoThroughAReluAreTheUsersError) {
  EXPECT_THROW(Network(net("last_relu", {1, 5, 5}, {fc("fc1", 4, true)}), bf16(1)), UserError);
}

}  // namespace
}  // namespace annulus
