#include "kernels/max_pool.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>

#include "aligned_floats.h"
#include "each_target.h"
#include "kernels/elementwise.h"

namespace annulus {
namespace {

constexpr float kUnwritten = std::numeric_limits<float>::quiet_NaN();

constexpr uint8_t kNoPlace = 254;  // what no kernel writes

using Places = std::vector<uint8_t>;

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

// What forward makes of a case.
struct Pooled {
  explicit Pooled(const Case& c) : y(c.dy.size(), kUnwritten), places(c.dy.size(), kNoPlace) {}
  AlignedFloats y;
  Places places;
};

Pooled pooled_reference(const Case& c, bool relu) {
  Pooled result(c);
  max_pool_forward_reference(c.shape, c.x.data(), relu, result.y.data(), result.places.data());
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
    {.planes = 1, .height = 15, .width = 16, .block = 16, .window = kLargestWindow},
};

TEST(MaxPool, ForwardEqualsThePlainLoopOnEveryTarget) {
  for_each_target([] {
    for (const MaxPoolShape& shape : kShapes) {
      for (const bool relu : {false, true}) {
        const Case c = make_case(shape, 1);
        const Pooled expected = pooled_reference(c, relu);
        Pooled pooled(c);
        max_pool_forward(shape, 0, shape.planes, c.x.data(), relu, pooled.y.data(), pooled.places.data());
        EXPECT_EQ(pooled.y, expected.y);
        EXPECT_EQ(pooled.places, expected.places);
      }
    }
  });
}

TEST(MaxPool, BackwardEqualsThePlainLoopOnEveryTarget) {
  for_each_target([] {
    for (const MaxPoolShape& shape : kShapes) {
      for (const bool relu : {false, true}) {
        const Case c = make_case(shape, 2);
        const Places places = pooled_reference(c, relu).places;
        AlignedFloats expected(c.x.size(), kUnwritten), dx(c.x.size(), kUnwritten);
        max_pool_backward_reference(shape, places.data(), c.dy.data(), expected.data());
        max_pool_backward(shape, 0, shape.planes, places.data(), c.dy.data(), dx.data());
        EXPECT_EQ(dx, expected);
      }
    }
  });
}

TEST(MaxPool, PlanesMayBeDealtOutInAnyParts) {
  const MaxPoolShape shape = kShapes[0];
  const Case c = make_case(shape, 4);
  const Pooled whole = pooled_reference(c, true);
  Pooled parts(c);
  max_pool_forward(shape, 1, 3, c.x.data(), true, parts.y.data(), parts.places.data());
  max_pool_forward(shape, 0, 1, c.x.data(), true, parts.y.data(), parts.places.data());
  EXPECT_EQ(parts.y, whole.y);
  EXPECT_EQ(parts.places, whole.places);

  AlignedFloats dx(c.x.size()), dx_parts(c.x.size(), kUnwritten);
  max_pool_backward(shape, 0, 3, whole.places.data(), c.dy.data(), dx.data());
  max_pool_backward(shape, 2, 3, whole.places.data(), c.dy.data(), dx_parts.data());
  max_pool_backward(shape, 0, 2, whole.places.data(), c.dy.data(), dx_parts.data());
  EXPECT_EQ(dx_parts, dx);
}

// One window of one channel, and the gradient that it hands back.
std::vector<float> gradient_of(std::vector<float> x, float dy, bool relu) {
  const MaxPoolShape shape{.planes = 1, .height = 2, .width = 2, .block = 1, .window = 2};
  float y = kUnwritten;
  uint8_t place = kNoPlace;
  std::vector<float> dx(x.size(), kUnwritten);
  max_pool_forward(shape, 0, 1, x.data(), relu, &y, &place);
  max_pool_backward(shape, 0, 1, &place, &dy, dx.data());
  return dx;
}

TEST(MaxPool, TheFirstOfEqualMaximaGetsTheGradient) {
  EXPECT_EQ(gradient_of({1, 5, 5, 5}, 7, false), (std::vector<float>{0, 7, 0, 0}));
  EXPECT_EQ(gradient_of({1, 2, 5, 5}, 7, false), (std::vector<float>{0, 0, 7, 0}));
  EXPECT_EQ(gradient_of({1, 2, 3, 5}, 7, true), (std::vector<float>{0, 0, 0, 7}));
}

TEST(MaxPool, FusedReluLetsNoGradientThroughWhereTheMaximumIsZero) {
  EXPECT_EQ(gradient_of({0, 0, 0, 0}, 7, true), std::vector<float>(4, 0.0F));
  EXPECT_EQ(gradient_of({0, 0, 0, 0}, 7, false), (std::vector<float>{7, 0, 0, 0}));
}

TEST(Relu, BackwardEqualsThePlainLoopOnEveryTarget) {
  for_each_target([] {
    const Case c = make_case({.planes = 5, .height = 2, .width = 4, .block = 16, .window = 1}, 5);
    AlignedFloats expected = c.dy, gradient = c.dy;
    relu_backward_reference(DataType::kF32, static_cast<int64_t>(c.x.size()), c.x.data(), expected.data());
    relu_backward(DataType::kF32, static_cast<int64_t>(c.x.size()), c.x.data(), gradient.data());
    EXPECT_EQ(gradient, expected);
    EXPECT_NE(gradient, c.dy);
  });
}

TEST(Relu, BackwardTakesAnyNumberOfElementsAnywhere) {
  for_each_target([] {
    const Case c = make_case({.planes = 1, .height = 2, .width = 4, .block = 16, .window = 1}, 6);
    for (int64_t n = 0; n <= 40; ++n) {
      AlignedFloats expected = c.dy, gradient = c.dy;
      relu_backward_reference(DataType::kF32, n, c.x.data() + 1, expected.data() + 1);
      relu_backward(DataType::kF32, n, c.x.data() + 1, gradient.data() + 1);
      EXPECT_EQ(gradient, expected) << n;
    }
  });
}

}  // namespace
}  // namespace annulus
