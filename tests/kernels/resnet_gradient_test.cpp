// ResNet-18's whole gradient against PyTorch's, which resnet_torch.py computed in double precision and left
// in resnet18_gradient.json: of each parameter's gradient the norm, its scalar products with 16 vectors of
// signs, and three elements. The products tell how far two gradients lie apart: the mean square of their
// differences is the square of the gradients' distance, up to a factor of about two.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>

#include "network_harness.h"
#include "runtime/models.h"

namespace annulus {
namespace {

constexpr int kImages = 2, kSide = 32, kClasses = 10, kProjections = 16;

// As in resnet_torch.py.
uint32_t hash_of(uint32_t h) {
  h = (h ^ (h >> 16)) * 0x7FEB352DU;
  h = (h ^ (h >> 16)) * 0x846CA68BU;
  return h ^ (h >> 16);
}

void fill_uniform(uint32_t seed, double limit, std::span<float> values) {
  for (size_t i = 0; i < values.size(); ++i) {
    const uint32_t hash = hash_of(seed + static_cast<uint32_t>(i));
    values[i] = (static_cast<float>(hash >> 8) * 0x1p-23F - 1) * static_cast<float>(limit);
  }
}

uint32_t seed_of(const std::string& name) {
  uint32_t seed = 7;
  for (const char letter : name) seed = seed * 31 + static_cast<unsigned char>(letter);
  return seed;
}

void make_parameter(const ParameterPlan& parameter, std::vector<float>& values) {
  const bool of_norm = parameter.role == ParameterRole::kScale || parameter.role == ParameterRole::kShift;
  fill_uniform(seed_of(parameter.name), of_norm ? 0.25 : std::sqrt(6.0 / double(parameter.fan_in)), values);
  if (parameter.role != ParameterRole::kScale) return;
  for (float& value : values) value += 1;
}

struct Gradient {
  double norm = 0;
  std::array<double, kProjections> projections{};
};

Gradient summary_of(const std::vector<float>& values) {
  Gradient gradient;
  for (size_t i = 0; i < values.size(); ++i) {
    const uint32_t bits = hash_of(1 + static_cast<uint32_t>(i));
    for (int k = 0; k < kProjections; ++k) gradient.projections[k] += bits >> k & 1 ? -values[i] : values[i];
    gradient.norm += double{values[i]} * values[i];
  }
  gradient.norm = std::sqrt(gradient.norm);
  return gradient;
}

nlohmann::json expected_results() {
  std::ifstream file(ANNULUS_RESNET18_GRADIENT);
  return nlohmann::json::parse(file);
}

class ResNet18 {
 public:
  explicit ResNet18(const NetworkOptions& options)
      : harness_(make_network("resnet18", {3, kSide, kSide}, kClasses), options) {
    harness_.set_parameters(make_parameter);
    std::vector<float> images(kImages * 3 * kSide * kSide);
    fill_uniform(0, 1, images);
    std::array<uint8_t, kImages> labels{};
    std::iota(labels.begin(), labels.end(), uint8_t{0});
    harness_.set_images(images, labels);
  }

  // Relative norms of differences: of the logits, of the parameter's gradient that is in the middle and of
  // the one that is farthest off.
  struct Bounds {
    double logits, middle, farthest;
  };
  void expect_what_pytorch_says(const Bounds& bounds) {
    const nlohmann::json expected = expected_results();
    const LossSum sum = harness_.step(kImages, 1.0F / kImages);
    const std::vector<float> logits(harness_.logits().begin(),
                                    harness_.logits().begin() + kImages * kClasses);
    const double logits_off = distance(logits, expected.at("logits").get<std::vector<double>>());
    EXPECT_LE(logits_off, bounds.logits);
    EXPECT_NEAR(sum.mean_loss(), expected.at("loss").get<double>(), bounds.logits * largest_of(logits));
    std::vector<double> off;
    for (size_t p = 0; p < harness_.parameters().size(); ++p) {
      const ParameterPlan& parameter = harness_.plan().parameters[p];
      if (is_statistic(parameter.role)) continue;
      off.push_back(compare(parameter.name, expected.at("gradients").at(parameter.name), harness_.gradient(p),
                            bounds.farthest));
    }
    EXPECT_EQ(off.size(), expected.at("gradients").size());
    std::ranges::sort(off);
    EXPECT_LE(off[off.size() / 2], bounds.middle);
    std::printf("logits off by %.2g, gradients by %.2g in the middle, at most %.2g\n", logits_off,
                off[off.size() / 2], off.back());
  }

 private:
  static double compare(const std::string& name, const nlohmann::json& expected,
                        const std::vector<float>& values, double bound) {
    EXPECT_EQ(values.size(), expected.at("count").get<size_t>()) << name;
    const Gradient gradient = summary_of(values);
    const auto norm = expected.at("norm").get<double>();
    const auto projections = expected.at("projections").get<std::vector<double>>();
    EXPECT_NEAR(gradient.norm, norm, bound * norm) << name;
    double squares = 0;
    for (int k = 0; k < kProjections; ++k) {
      const double away = gradient.projections[k] - projections[k];
      squares += away * away / kProjections;
    }
    const double off = std::sqrt(squares) / norm;
    EXPECT_LE(off, bound) << name;
    for (const auto& [place, value] : expected.at("elements").get<std::vector<std::pair<size_t, double>>>()) {
      const double typical = norm / std::sqrt(double(values.size()));
      EXPECT_NEAR(values[place], value, 10 * bound * typical) << name << " element " << place;
    }
    return off;
  }

  NetworkHarness harness_;
};

// Measured: 2e-6, 5e-6 and 1e-5 (PyTorch in fp32: 5e-7, 2e-6, 3e-6). A ReLU whose input is so near zero that
// rounding decides would add about 1e-3.
constexpr ResNet18::Bounds kFp32{.logits = 1e-5, .middle = 1e-3, .farthest = 3e-3};

TEST(ResNet18, InFp32HasPyTorchsGradient) { ResNet18({.images = kImages}).expect_what_pytorch_says(kFp32); }

TEST(ResNet18, OnTwoThreadsHasPyTorchsGradient) {
  ResNet18({.images = kImages + 1, .threads = 2}).expect_what_pytorch_says(kFp32);
}

// By the reasons of network_bf16_test.cpp, of 17 ReLUs: 2% and 2 * sqrt(17 / 256) = 52%. PyTorch in bf16
// (autocast, 2 images) is off by 1.1%, 31% and 43%; this by 1.0%, 31% and 61%, of which the last is the
// largest of 62 estimates.
TEST(ResNet18, InBf16HasPyTorchsGradientUpToRounding) {
  const Network network(make_network("mlp", {1, 4, 4}, 10), {.images = 1});
  if (network.plan().isa.rfind("avx512_core", 0) != 0) {
    GTEST_SKIP() << "SKIPPED: bf16 needs AVX-512 (avx512_core), oneDNN uses " << network.plan().isa;
  }
  ResNet18({.images = kImages, .type = DataType::kBf16})
      .expect_what_pytorch_says({.logits = 0.025, .middle = 0.5, .farthest = 0.9});
}

}  // namespace
}  // namespace annulus
