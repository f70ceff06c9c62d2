// A Network with all it needs to run a step in a test: arena, parameters, gradients.
//
// The parameters lie on pages that are read-only during a step, so a write to them ends the test. Arena and
// gradients start as NaNs, so reading what was never written shows in the results.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/aligned_floats.h"
#include "kernels/network.h"
#include "reference_network.h"
#include "telemetry/check.h"

namespace annulus {

// The largest magnitude.
template <typename Values>
double largest_of(const Values& values) {
  double largest = 0;
  for (const double value : values) largest = std::max(largest, std::abs(value));
  return largest;
}

// ||a - b|| / ||b||; 0 where they are the same.
template <typename A, typename B>
double distance(const A& a, const B& b) {
  CHECK(std::size(a) == std::size(b), "{} and {} values", std::size(a), std::size(b));
  double difference = 0, norm = 0;
  for (size_t i = 0; i < std::size(a); ++i) {
    difference += (double{a[i]} - double{b[i]}) * (double{a[i]} - double{b[i]});
    norm += double{b[i]} * double{b[i]};
  }
  return difference == 0 ? 0 : std::sqrt(difference / norm);
}

// The trunk, where there is one, in portions of this size.
inline Staging staged(const NetworkSpec& spec, int64_t batch, int64_t portion) {
  Staging staging = plan_stages(spec, batch, 1);
  const bool trunk = spec.layers[0].kind != LayerKind::kLinear;
  if (trunk) staging.stages[0].portion = portion;
  return staging;
}

class NetworkHarness {
 public:
  NetworkHarness(const NetworkSpec& spec, int64_t batch, int threads = 1)
      : NetworkHarness(spec, NetworkOptions{.images = batch, .threads = threads}) {}
  NetworkHarness(const NetworkSpec& spec, const Staging& staging, int threads = 1)
      : NetworkHarness(spec,
                       NetworkOptions{.images = staging.batch, .threads = threads, .staging = staging}) {}
  NetworkHarness(const NetworkSpec& spec, const NetworkOptions& options)
      : spec_(spec), network_(spec, options) {
    for (const ParameterPlan& parameter : plan().parameters) {
      offsets_.push_back(elements_);
      elements_ += (parameter.layout.padded_elements() + 63) / 64 * 64;
    }
    arena_.assign(plan().arena_bytes / sizeof(float), NAN);
    gradients_.assign(elements_, NAN);
    weights_ = static_cast<float*>(
        mmap(nullptr, weight_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    CHECK(weights_ != MAP_FAILED);
    network_.bind_arena(std::as_writable_bytes(std::span(arena_)));
    network_.set_parameter_offsets(offsets_);
    randomize(1);
  }
  ~NetworkHarness() { munmap(weights_, weight_bytes()); }
  NetworkHarness(const NetworkHarness&) = delete;
  NetworkHarness& operator=(const NetworkHarness&) = delete;

  const NetworkPlan& plan() const { return network_.plan(); }
  Network& network() { return network_; }

  // Weights of about the size of PyTorch's initial ones, uniform images, labels. Equal seeds give equal
  // values for any batch: image i is the same.
  void randomize(unsigned seed) {
    std::mt19937 random(seed);
    const auto uniform = [&](double limit) {
      return static_cast<float>(std::uniform_real_distribution<double>(-limit, limit)(random));
    };
    set_parameters([&](const ParameterPlan& parameter, std::vector<float>& values) {
      for (float& value : values) value = uniform(2 / std::sqrt(parameter.fan_in));
      if (parameter.role == ParameterRole::kRunningVariance) {
        for (float& value : values) value = std::abs(value) + 0.5F;
      }
    });
    labels_.clear();
    const int64_t pixels = spec_.input.pixels();
    for (int64_t image = 0; image < plan().batch; ++image) {
      for (int64_t i = 0; i < pixels; ++i) network_.input()[image * pixels + i] = uniform(1);
      labels_.push_back(static_cast<uint8_t>(random() % spec_.classes));
    }
  }

  // make(parameter, values) fills the values of each, in row-major order.
  template <typename Make>
  void set_parameters(const Make& make) {
    parameters_.clear();
    mprotect(weights_, weight_bytes(), PROT_READ | PROT_WRITE);
    for (size_t p = 0; p < offsets_.size(); ++p) {
      const TensorLayout& layout = plan().parameters[p].layout;
      std::vector<float> values(layout.elements());
      make(plan().parameters[p], values);
      from_plain(layout, values.data(), weights_ + offsets_[p]);
      parameters_.emplace_back(values.begin(), values.end());
    }
    mprotect(weights_, weight_bytes(), PROT_READ);
  }

  void set_images(std::span<const float> images, std::span<const uint8_t> labels) {
    std::ranges::copy(images, network_.input().begin());
    labels_.assign(labels.begin(), labels.end());
  }

  // Forward, loss over the first `images` and backward; the images behind them become zeros.
  LossSum step(int64_t images, float scale) {
    auto input = network_.input();
    std::fill(input.begin() + images * spec_.input.pixels(), input.end(), 0.0F);
    network_.begin({.training = true, .images = images, .share = scale * static_cast<float>(images)});
    for (int stage = 0; stage < plan().stage_count(); ++stage) {
      for (int k = 0; k < network_.portions(stage); ++k) network_.forward(stage, k, weights_);
    }
    logits_.assign(network_.logits().begin(), network_.logits().end());
    const LossSum sum = network_.loss(std::span(labels_).first(images), scale);
    for (int stage = plan().stage_count() - 1; stage >= 0; --stage) {
      for (int k = 0; k < network_.portions(stage); ++k) {
        network_.backward(stage, k, weights_, gradients_.data());
      }
    }
    return sum;
  }

  // Forward alone, with batch norm's running statistics.
  void infer(int64_t images) {
    network_.begin({.training = false, .images = images});
    for (int stage = 0; stage < plan().stage_count(); ++stage) {
      for (int k = 0; k < network_.portions(stage); ++k) network_.forward(stage, k, weights_);
    }
    logits_.assign(network_.logits().begin(), network_.logits().end());
  }

  std::vector<float> gradient(size_t parameter) const {
    const TensorLayout& layout = plan().parameters[parameter].layout;
    std::vector<float> plain(layout.elements());
    to_plain(layout, gradients_.data() + offsets_[parameter], plain.data());
    return plain;
  }
  // All elements, padding included, in the master layout.
  std::span<const float> stored_gradient(size_t parameter) const {
    return {gradients_.data() + offsets_[parameter],
            static_cast<size_t>(plan().parameters[parameter].layout.padded_elements())};
  }
  const AlignedFloats& gradients() const { return gradients_; }
  const std::vector<float>& logits() const { return logits_; }
  const std::vector<Doubles>& parameters() const { return parameters_; }
  const std::vector<uint8_t>& labels() const { return labels_; }
  Doubles input() { return {network_.input().begin(), network_.input().end()}; }

 private:
  size_t weight_bytes() const { return elements_ * sizeof(float); }

  NetworkSpec spec_;
  Network network_;
  std::vector<int64_t> offsets_;
  int64_t elements_ = 0;
  AlignedFloats arena_, gradients_;
  float* weights_ = nullptr;
  std::vector<Doubles> parameters_;  // the same weights, row-major
  std::vector<uint8_t> labels_;
  std::vector<float> logits_;
};

// Expects the same bits of two networks with the same values, in the second one also where the arena has been
// used for others.
inline void expect_same_bits(NetworkHarness& first, NetworkHarness& second, int64_t images) {
  const auto expect_same = [&] {
    EXPECT_EQ(first.logits(), second.logits());
    for (size_t p = 0; p < first.parameters().size(); ++p) {
      EXPECT_TRUE(std::ranges::equal(first.stored_gradient(p), second.stored_gradient(p)))
          << first.plan().parameters[p].name;
    }
  };
  first.step(images, 1);
  second.step(images, 1);
  expect_same();
  second.randomize(2);
  second.step(images / 2, 1);
  second.randomize(1);
  second.step(images, 1);
  expect_same();
}

// Expects zeros in the padding of the last step's gradients.
inline void expect_zero_padding(const NetworkHarness& harness) {
  for (size_t p = 0; p < harness.parameters().size(); ++p) {
    const TensorLayout& layout = harness.plan().parameters[p].layout;
    std::vector<float> expected(layout.padded_elements());
    from_plain(layout, harness.gradient(p).data(), expected.data());
    EXPECT_TRUE(std::ranges::equal(harness.stored_gradient(p), expected))
        << harness.plan().parameters[p].name;
  }
}

}  // namespace annulus
