#include "runtime/momentum_correction.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "kernels/network.h"
#include "runtime/models.h"

namespace annulus {
namespace {

// Who selects: shards inside a box, or hosts.
class MomentumCorrectionOf : public testing::TestWithParam<const char*> {
 protected:
  MomentumCorrectionOf()
      : network_(Network(choose_network("resnet18", "cifar", {1, 8, 8}, 10), {.images = 1}).plan()),
        buckets_(plan_buckets(network_, 4 << 20)) {
    config_.compress = "topk";
    config_.compress_where = GetParam();
    config_.host_count = GetParam() == std::string("bridge") ? 2 : 1;
    config_.momentum_correction = true;
  }

  MomentumCorrection correction() const { return {config_, network_, buckets_}; }

  NetworkPlan network_;
  BucketPlan buckets_;
  TrainConfig config_;
};

INSTANTIATE_TEST_SUITE_P(Where, MomentumCorrectionOf, testing::Values("all", "bridge"),
                         [](const auto& info) { return std::string(info.param); });

// Every element belongs to one run, and a run to weights alone or to what is not corrected.
TEST_P(MomentumCorrectionOf, says_whose_momentum_the_update_must_not_add) {
  std::vector<bool> corrected(buckets_.elements);
  const MomentumCorrection correction = this->correction();
  for (int64_t at = 0; at < buckets_.elements;) {
    const auto [count, of_weights] = correction.first_run(at, buckets_.elements);
    ASSERT_GE(count, 1);
    ASSERT_EQ(count % 64, 0);
    std::fill_n(corrected.begin() + at, count, of_weights);
    at += count;
  }
  for (int i = 0; i < std::ssize(network_.parameters); ++i) {
    const ParameterPlan& parameter = network_.parameters[i];
    for (int64_t at = 0; at < parameter.layout.padded_elements(); ++at) {
      ASSERT_EQ(corrected[buckets_.offsets[i] + at], has_residual(parameter.role)) << parameter.name;
    }
  }
  EXPECT_EQ(correction.first_run(0, 64).count, 64);
}

TEST_P(MomentumCorrectionOf, makes_of_a_gradient_what_the_optimizers_momentum_would) {
  for (const char* const optimizer : {"momentum", "nesterov"}) {
    config_.optimizer = optimizer;
    std::vector<float> gradient(200, 3), from(200, 2), to(200, -1);
    correction().apply(64, 100, gradient.data(), from.data(), to.data());
    for (int i = 0; i < 200; ++i) {
      const bool own = i >= 64 && i < 164;
      const float velocity = 0.9F * 2 + 3;
      ASSERT_EQ(to[i], own ? velocity : -1) << i;
      ASSERT_EQ(from[i], 2) << i;
      ASSERT_EQ(gradient[i], !own                              ? 3
                             : config_.optimizer == "nesterov" ? 3 + 0.9F * velocity
                                                               : velocity)
          << i;
    }
  }
}

TEST_P(MomentumCorrectionOf, corrects_nothing_unless_it_is_asked_for) {
  TrainConfig off = config_, one_box = config_, adam = config_;
  off.momentum_correction = false;
  one_box.host_count = 1;
  one_box.compress_where = "bridge";  // between hosts, of which there is one
  adam.optimizer = "adam";
  for (const TrainConfig& config : {off, one_box, adam}) {
    config_ = config;
    const auto all = correction().first_run(0, buckets_.elements);
    EXPECT_EQ(all.count, buckets_.elements);
    EXPECT_FALSE(all.corrected);
    float gradient = 3;
    correction().apply(0, 1, &gradient, nullptr, nullptr);
    EXPECT_EQ(gradient, 3);
  }
}

}  // namespace
}  // namespace annulus
