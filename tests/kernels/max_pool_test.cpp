#include "kernels/max_pool.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>

#include "aligned_floats.h"
#include "each_target.h"
#include "kernels/relu.h"

namespace annulus {
namespace {

constexpr float kUnwritten = std::numeric_limits<float>::quiet_NaN();

struct Case {
  MaxPoolShape shape;
  AlignedFloats x, dy;
};

// Small integers, so that ties are frequent; negative ones and zeros too.
Case make_case(const MaxPoolShape& shape, unsigned seed) {
  std::mt19937 random(seed);
  Case result{shape, AlignedFloats(shape.planes * shape.plane_elements()),
              AlignedFloats(shape.planes * shape.out_plane_elements())};
  for (float& value : result.x) value = static_cast<float>(static_cast<int>(random() % 7) - 3);
  for (float& value : result.dy) value = static_cast<float>(static_cast<int>(random() % 201) - 100);
  return result;
}

const MaxPoolShape kShapes[] = {
    {.planes = 3, .height = 8, .width = 6, .block = 16, .window = 2},
    {.planes = 2, .height = 7, .width = 5, .block = 16, .window = 2},  // cut off on both sides
    {.planes = 2, .height = 9, .width = 10, .block = 8, .window = 3},
    {.planes = 4, .height = 5, .width = 5, .block = 1, .window = 2},
    {.planes = 2, .height = 6, .width = 7, .block = 20, .window = 2},
    {.planes = 1, .height = 4, .width = 4, .block = 64, .window = 4},
    {.planes = 2, .height = 3, .width = 3, .block = 5, .window = 1},
};

TEST(MaxPool, ForwardEqualsThePlainLoopOnEveryTarget) {
  for_each_target([] {
    for (const MaxPoolShape& shape : kShapes) {
      const Case c = make_case(shape, 1);
      AlignedFloats expected(c.dy.size(), kUnwritten), y(c.dy.size(), kUnwritten);
      max_pool_forward_reference(shape, c.x.data(), expected.data());
      max_pool_forward(shape, 0, shape.planes, c.x.data(), y.data());
      EXPECT_EQ(y, expected);
    }
  });
}

TEST(MaxPool, BackwardEqualsThePlainLoopOnEveryTarget) {
  for_each_target([] {
    for (const MaxPoolShape& shape : kShapes) {
      for (const bool relu : {false, true}) {
        const Case c = make_case(shape, 2);
        AlignedFloats expected(c.x.size(), kUnwritten), dx(c.x.size(), kUnwritten);
        max_pool_backward_reference(shape, c.x.data(), c.dy.data(), relu, expected.data());
        max_pool_backward(shape, 0, shape.planes, c.x.data(), c.dy.data(), relu, dx.data());
        EXPECT_EQ(dx, expected);
      }
    }
  });
}

TEST(MaxPool, BackwardMayOverwriteItsInput) {
  for (const MaxPoolShape& shape : kShapes) {
    Case c = make_case(shape, 3);
    AlignedFloats expected(c.x.size());
    max_pool_backward(shape, 0, shape.planes, c.x.data(), c.dy.data(), true, expected.data());
    max_pool_backward(shape, 0, shape.planes, c.x.data(), c.dy.data(), true, c.x.data());
    EXPECT_EQ(c.x, expected);
  }
}

TEST(MaxPool, PlanesMayBeDealtOutInAnyParts) {
  const MaxPoolShape shape = kShapes[0];
  const Case c = make_case(shape, 4);
  AlignedFloats y(c.dy.size()), parts(c.dy.size(), kUnwritten);
  max_pool_forward(shape, 0, 3, c.x.data(), y.data());
  max_pool_forward(shape, 1, 3, c.x.data(), parts.data());
  max_pool_forward(shape, 0, 1, c.x.data(), parts.data());
  EXPECT_EQ(parts, y);

  AlignedFloats dx(c.x.size()), dx_parts(c.x.size(), kUnwritten);
  max_pool_backward(shape, 0, 3, c.x.data(), c.dy.data(), true, dx.data());
  max_pool_backward(shape, 2, 3, c.x.data(), c.dy.data(), true, dx_parts.data());
  max_pool_backward(shape, 0, 2, c.x.data(), c.dy.data(), true, dx_parts.data());
  EXPECT_EQ(dx_parts, dx);
}

TEST(MaxPool, TheFirstOfEqualMaximaGetsTheGradient) {
  const MaxPoolShape shape{.planes = 1, .height = 2, .width = 2, .block = 1, .window = 2};
  const float x[] = {1, 5, 5, 5}, dy[] = {7};
  float dx[4];
  max_pool_backward(shape, 0, 1, x, dy, false, dx);
  EXPECT_EQ(std::vector<float>(dx, dx + 4), (std::vector<float>{0, 7, 0, 0}));
}

TEST(MaxPool, FusedReluLetsNoGradientThroughWhereTheMaximumIsZero) {
  const MaxPoolShape shape{.planes = 1, .height = 2, .width = 2, .block = 1, .window = 2};
  const float x[] = {0, 0, 0, 0}, dy[] = {7};
  float dx[4];
  max_pool_backward(shape, 0, 1, x, dy, true, dx);
  EXPECT_EQ(std::vector<float>(dx, dx + 4), std::vector<float>(4, 0.0F));
  max_pool_backward(shape, 0, 1, x, dy, false, dx);
  EXPECT_EQ(dx[0], 7);
}

TEST(Relu, BackwardEqualsThePlainLoopOnEveryTarget) {
  for_each_target([] {
    const Case c = make_case({.planes = 5, .height = 2, .width = 4, .block = 16, .window = 1}, 5);
    AlignedFloats expected = c.dy, gradient = c.dy;
    relu_backward_reference(static_cast<int64_t>(c.x.size()), c.x.data(), expected.data());
    relu_backward(static_cast<int64_t>(c.x.size()), c.x.data(), gradient.data());
    EXPECT_EQ(gradient, expected);
    EXPECT_NE(gradient, c.dy);
  });
}

}  // namespace
}  // namespace annulus
