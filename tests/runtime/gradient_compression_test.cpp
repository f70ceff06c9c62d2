#include "runtime/gradient_compression.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <string>

#include "kernels/network.h"
#include "runtime/models.h"

namespace annulus {
namespace {

TrainConfig config_of(const char* compress, double ratio = 0.1) {
  TrainConfig config;
  config.compress = compress;
  config.ratio = ratio;
  config.compress_where = "all";
  return config;
}

// A network with weights, biases, batch norm and several buckets.
class GradientCompressionTest : public testing::Test {
 protected:
  GradientCompressionTest()
      : network_(Network(choose_network("resnet18", "cifar", {1, 8, 8}, 10), {.images = 1}).plan()),
        buckets_(plan_buckets(network_, 4 << 20)) {}

  std::vector<float> random_gradient(unsigned seed) const {
    std::vector<float> gradient(buckets_.elements);
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (int i = 0; i < std::ssize(network_.parameters); ++i) {
      std::vector<float> plain(network_.parameters[i].layout.elements());
      for (float& value : plain) value = normal(random);
      from_plain(network_.parameters[i].layout, plain.data(), gradient.data() + buckets_.offsets[i]);
    }
    return gradient;
  }

  void apply(const TrainConfig& config, std::vector<float>& gradient) const {
    GradientCompression compression(config, network_, buckets_);
    for (int b = 0; b < std::ssize(buckets_.extents); ++b) {
      compression.apply(b, gradient.data(), {}, {});
    }
  }

  template <typename Check>
  void each_parameter(Check check) const {
    for (int i = 0; i < std::ssize(network_.parameters); ++i) {
      SCOPED_TRACE(network_.parameters[i].name);
      check(network_.parameters[i], buckets_.offsets[i], network_.parameters[i].layout.padded_elements());
      if (HasFailure()) return;
    }
  }

  NetworkPlan network_;
  BucketPlan buckets_;
};

TEST_F(GradientCompressionTest, leaves_gradients_alone_unless_it_is_asked_for_inside_the_box) {
  const std::vector<float> gradient = random_gradient(1);
  TrainConfig bridge = config_of("topk");
  bridge.compress_where = "bridge";
  for (const TrainConfig& config : {config_of("none"), bridge}) {
    std::vector<float> sent = gradient;
    apply(config, sent);
    EXPECT_EQ(sent, gradient);
  }
}

TEST_F(GradientCompressionTest, rounds_every_gradient_and_no_statistic) {
  const std::vector<float> gradient = random_gradient(2);
  for (const auto& [name, type] : {std::pair{"fp16", DataType::kF16}, std::pair{"bf16", DataType::kBf16}}) {
    std::vector<float> sent = gradient;
    apply(config_of(name), sent);
    std::vector<uint16_t> narrow(gradient.size());
    std::vector<float> rounded(gradient.size());
    narrow_reference(type, gradient.size(), gradient.data(), narrow.data());
    widen_reference(type, gradient.size(), narrow.data(), rounded.data());
    each_parameter([&](const ParameterPlan& parameter, int64_t offset, int64_t elements) {
      const std::vector<float>& expected = is_statistic(parameter.role) ? gradient : rounded;
      for (int64_t i = offset; i < offset + elements; ++i) ASSERT_EQ(sent[i], expected[i]) << i;
    });
  }
}

// Stich et al., "Sparsified SGD with Memory" (2018): what was sent and what is kept are together all that
// there was, in every step. With momentum correction that is the velocity (Lin et al., "Deep Gradient
// Compression", 2018).
TEST_F(GradientCompressionTest, sends_the_largest_of_each_weight_and_keeps_the_rest) {
  for (const char* const correction : {"none", "momentum", "nesterov"}) {
    SCOPED_TRACE(correction);
    TrainConfig config = config_of("topk", 0.01);
    config.momentum_correction = correction != std::string("none");
    if (config.momentum_correction) config.optimizer = correction;
    config.schedule = "step";  // the rate falls to a half with the third step
    config.decay_every = 1;
    config.decay_factor = 0.5;
    config.ratio_warmup = 1;
    config.batch_size = 10;
    config.steps = 4;
    const StepSchedule schedule(config, 20);
    GradientCompression compression(config, network_, buckets_);
    std::vector<float> residual(buckets_.elements), next_residual(buckets_.elements);
    std::vector<float> velocity(buckets_.elements), next_velocity(buckets_.elements);
    for (unsigned step = 1; step <= 4; ++step) {
      SCOPED_TRACE(testing::Message() << "step " << step);
      const std::vector<float> gradient = random_gradient(step);
      std::vector<float> sent = gradient;
      compression.begin(schedule.top_k(step));
      for (int b = 0; b < std::ssize(buckets_.extents); ++b) {
        compression.apply(b, sent.data(), {residual.data(), velocity.data()},
                          {next_residual.data(), next_velocity.data()});
      }
      const float scale = step == 3 ? 2 : 1;
      each_parameter([&](const ParameterPlan& parameter, int64_t offset, int64_t elements) {
        if (!has_residual(parameter.role)) {
          for (int64_t i = offset; i < offset + elements; ++i) ASSERT_EQ(sent[i], gradient[i]) << i;
          return;
        }
        int64_t count = 0;
        float smallest_sent = INFINITY, largest_kept = 0;
        for (int64_t i = offset; i < offset + elements; ++i) {
          float own = gradient[i];
          if (config.momentum_correction) {
            ASSERT_EQ(next_velocity[i], 0.9F * velocity[i] + gradient[i]) << i;
            own = config.optimizer == "nesterov" ? gradient[i] + 0.9F * next_velocity[i] : next_velocity[i];
          }
          ASSERT_EQ(sent[i] + next_residual[i], own + scale * residual[i]) << i;
          ASSERT_TRUE(sent[i] == 0 || next_residual[i] == 0) << i;
          if (sent[i] != 0) {
            ++count;
            smallest_sent = std::min(smallest_sent, std::abs(sent[i]));
          }
          largest_kept = std::max(largest_kept, std::abs(next_residual[i]));
        }
        EXPECT_EQ(count, count_for(step == 1 ? 0.25 : step == 2 ? 0.05 : 0.01, parameter.layout.elements()));
        EXPECT_GE(smallest_sent, largest_kept);
      });
      std::swap(residual, next_residual);
      std::swap(velocity, next_velocity);
    }
  }
}

}  // namespace
}  // namespace annulus
