#include "runtime/initial_weights.h"

#include <gtest/gtest.h>

#include <cmath>

#include "parameter_list.h"

namespace annulus {
namespace {

ParameterPlan parameter_of(const TensorLayout& layout, int64_t fan_in) {
  return {.name = "weight", .layout = layout, .layer = 0, .fan_in = fan_in};
}

const std::array<int64_t, 4> kDims{60, 24, 3, 3};
const TensorLayout kPlain = TensorLayout::plain(kDims), kBlocked = blocked_layout(60, 24, 3, 3);

std::vector<float> draw(const TensorLayout& layout, uint64_t seed, uint32_t stream, int64_t fan_in = 216) {
  std::vector<float> values(layout.padded_elements(), NAN);
  draw_initial_weights(parameter_of(layout, fan_in), seed, stream, values);
  return values;
}

TEST(InitialWeights, are_uniform_between_plus_and_minus_one_over_the_root_of_fan_in) {
  for (const int64_t fan_in : {1, 9, 216, 4096}) {
    const std::vector<float> values = draw(kPlain, 1, 0, fan_in);
    const double bound = 1 / std::sqrt(static_cast<double>(fan_in)), count = values.size();
    double sum = 0, squares = 0, fourth = 0, largest = 0;
    for (const double x : values) {
      sum += x;
      squares += x * x;
      fourth += x * x * x * x;
      largest = std::max(largest, std::abs(x));
    }
    EXPECT_LE(largest, bound * 1.0000001);
    EXPECT_GT(largest, bound * 0.999);
    // Five standard deviations of each moment's estimate, for 12,960 numbers.
    const double deviation = bound / std::sqrt(3 * count);
    EXPECT_NEAR(sum / count, 0, 5 * deviation);
    EXPECT_NEAR(squares / count, bound * bound / 3, 5 * bound * bound * std::sqrt(4 / 45.0 / count));
    EXPECT_NEAR(fourth / count, std::pow(bound, 4) / 5,
                5 * std::pow(bound, 4) * std::sqrt(16 / 225.0 / count));
  }
}

TEST(InitialWeights, do_not_depend_on_the_layout_and_leave_zeros_in_the_padding) {
  const std::vector<float> blocked = draw(kBlocked, 3, 2), plain = draw(kPlain, 3, 2);
  ASSERT_GT(blocked.size(), plain.size());
  std::vector<float> unblocked(plain.size()), again(blocked.size());
  to_plain(kBlocked, blocked.data(), unblocked.data());
  EXPECT_EQ(unblocked, plain);
  from_plain(kBlocked, plain.data(), again.data());  // zeros in the padding
  EXPECT_EQ(blocked, again);
}

TEST(InitialWeights, repeat_for_the_same_seed_and_parameter_and_differ_for_others) {
  const std::vector<float> values = draw(kPlain, 7, 4);
  EXPECT_EQ(draw(kPlain, 7, 4), values);
  for (const std::vector<float>& other : {draw(kPlain, 8, 4), draw(kPlain, 7, 5)}) {
    int equal = 0;
    for (std::size_t i = 0; i < values.size(); ++i) equal += values[i] == other[i];
    EXPECT_LT(equal, 5);
  }
}

TEST(InitialWeightsDeathTest, want_memory_of_the_parameters_size) {
  std::vector<float> values(kPlain.elements() - 1);
  EXPECT_DEATH(draw_initial_weights(parameter_of(kPlain, 9), 1, 0, values), "padded_elements");
}

}  // namespace
}  // namespace annulus
