#include "kernels/max_pool.h"

#include <gtest/gtest.h>

#include <limits>

#include "each_target.h"
#include "stored_tensor.h"

namespace annulus {
namespace {

constexpr float kUnwritten = std::numeric_limits<float>::quiet_NaN();
constexpr uint8_t kNoPlace = 254;  // what no kernel writes

using Places = std::vector<uint8_t>;

// Small integers, so that ties are frequent; negative ones and zeros too.
struct Case {
  Case(const MaxPoolShape& of, unsigned seed)
      : shape(of),
        x(shape.type, integers(shape.planes * shape.plane_elements(), 3, seed)),
        dy(shape.type, integers(shape.planes * shape.out_plane_elements(), 20, seed + 1)) {}
  MaxPoolShape shape;
  StoredTensor x, dy;
};

// What forward makes of a case.
struct Pooled {
  explicit Pooled(const Case& c) : y(c.shape.type, c.dy.elements()), places(c.dy.elements(), kNoPlace) {}
  StoredTensor y;
  Places places;
};

Pooled pooled_reference(const Case& c, bool relu) {
  Pooled result(c);
  max_pool_forward_reference(c.shape, c.x.data(), relu, result.y.data(), result.places.data());
  return result;
}

const MaxPoolShape kShapes[] = {
    {.planes = 3, .height = 8, .width = 6, .block = 16, .window = 2, .stride = 2},
    {.planes = 2, .height = 7, .width = 5, .block = 16, .window = 2, .stride = 2},  // cut off on both sides
    {.planes = 2, .height = 9, .width = 10, .block = 8, .window = 3, .stride = 3},
    {.planes = 4, .height = 5, .width = 5, .block = 1, .window = 2, .stride = 2},
    {.planes = 2, .height = 6, .width = 7, .block = 20, .window = 2, .stride = 2},
    {.planes = 1, .height = 4, .width = 4, .block = 64, .window = 4, .stride = 4},
    {.planes = 2, .height = 3, .width = 3, .block = 5, .window = 1, .stride = 1},
    {.planes = 1, .height = 15, .width = 16, .block = 16, .window = kLargestWindow, .stride = 15},
    {.planes = 2, .height = 14, .width = 12, .block = 16, .window = 3, .stride = 2, .padding = 1},
    {.planes = 3, .height = 9, .width = 7, .block = 8, .window = 3, .stride = 2, .padding = 1},
    {.planes = 3, .height = 8, .width = 11, .block = 1, .window = 3, .stride = 2, .padding = 0},
    {.planes = 1, .height = 7, .width = 6, .block = 12, .window = 3, .stride = 1, .padding = 1},
    {.planes = 2, .height = 6, .width = 5, .block = 16, .window = 2, .stride = 1, .padding = 1},
    {.planes = 2, .height = 9, .width = 8, .block = 16, .window = 2, .stride = 3, .padding = 0},  // with gaps
    {.planes = 2, .height = 3, .width = 2, .block = 16, .window = 5, .stride = 2, .padding = 2},
    {.planes = 1, .height = 1, .width = 1, .block = 16, .window = 3, .stride = 2, .padding = 1},
    {.planes = 1, .height = 11, .width = 10, .block = 8, .window = 5, .stride = 1, .padding = 2},
};

template <class Body>
void for_each_case(unsigned seed, const Body& body) {
  for (MaxPoolShape shape : kShapes) {
    for (const DataType type : kStoredTypes) {
      shape.type = type;
      SCOPED_TRACE(name_of(type) + ", " + std::to_string(shape.height) + "x" + std::to_string(shape.width) +
                   ", window " + std::to_string(shape.window) + ", stride " + std::to_string(shape.stride) +
                   ", padding " + std::to_string(shape.padding) + ", block " + std::to_string(shape.block));
      const Case c(shape, seed);
      for (const bool relu : {false, true}) body(c, relu);
    }
  }
}

TEST(MaxPool, ForwardEqualsThePlainLoopOnEveryTarget) {
  for_each_target([] {
    for_each_case(1, [](const Case& c, bool relu) {
      const Pooled expected = pooled_reference(c, relu);
      Pooled pooled(c);
      max_pool_forward(c.shape, 0, c.shape.planes, c.x.data(), relu, pooled.y.data(), pooled.places.data());
      EXPECT_EQ(pooled.y, expected.y);
      EXPECT_EQ(pooled.places, expected.places);
    });
  });
}

TEST(MaxPool, BackwardEqualsThePlainLoopOnEveryTarget) {
  for_each_target([] {
    for_each_case(2, [](const Case& c, bool relu) {
      const Places places = pooled_reference(c, relu).places;
      StoredTensor expected(c.shape.type, c.x.elements()), dx = expected;
      max_pool_backward_reference(c.shape, places.data(), c.dy.data(), expected.data());
      max_pool_backward(c.shape, 0, c.shape.planes, places.data(), c.dy.data(), dx.data());
      EXPECT_EQ(dx, expected);
    });
  });
}

// Sums of up to nine gradients round; the order of additions must not change.
TEST(MaxPool, BackwardAddsInTheOrderOfThePlainLoopOnEveryTarget) {
  for_each_target([] {
    for_each_case(3, [](const Case& c, bool relu) {
      const Places places = pooled_reference(c, relu).places;
      const StoredTensor dy(c.shape.type, normals(c.dy.elements(), 5));
      StoredTensor expected(c.shape.type, c.x.elements()), dx = expected;
      max_pool_backward_reference(c.shape, places.data(), dy.data(), expected.data());
      max_pool_backward(c.shape, 0, c.shape.planes, places.data(), dy.data(), dx.data());
      EXPECT_EQ(dx.floats(), expected.floats());
    });
  });
}

void expect_parts_equal_the_whole(const MaxPoolShape& shape) {
  const Case c(shape, 4);
  const Pooled whole = pooled_reference(c, true);
  Pooled parts(c);
  max_pool_forward(shape, 1, shape.planes, c.x.data(), true, parts.y.data(), parts.places.data());
  max_pool_forward(shape, 0, 1, c.x.data(), true, parts.y.data(), parts.places.data());
  EXPECT_EQ(parts.y, whole.y);
  EXPECT_EQ(parts.places, whole.places);

  StoredTensor dx(shape.type, c.x.elements()), dx_parts = dx;
  max_pool_backward(shape, 0, shape.planes, whole.places.data(), c.dy.data(), dx.data());
  max_pool_backward(shape, 1, shape.planes, whole.places.data(), c.dy.data(), dx_parts.data());
  max_pool_backward(shape, 0, 1, whole.places.data(), c.dy.data(), dx_parts.data());
  EXPECT_EQ(dx_parts, dx);
}

TEST(MaxPool, PlanesMayBeDealtOutInAnyParts) {
  expect_parts_equal_the_whole(kShapes[0]);
  expect_parts_equal_the_whole(kShapes[8]);
}

// The gradient that the windows of one channel hand back.
std::vector<float> gradient_of(const MaxPoolShape& shape, std::vector<float> x, std::vector<float> dy,
                               bool relu) {
  std::vector<float> y(dy.size(), kUnwritten), dx(x.size(), kUnwritten);
  Places places(dy.size(), kNoPlace);
  max_pool_forward(shape, 0, 1, x.data(), relu, y.data(), places.data());
  max_pool_backward(shape, 0, 1, places.data(), dy.data(), dx.data());
  return dx;
}

constexpr MaxPoolShape kOneWindow{.planes = 1, .height = 2, .width = 2, .block = 1, .window = 2, .stride = 2};

TEST(MaxPool, TheFirstOfEqualMaximaGetsTheGradient) {
  EXPECT_EQ(gradient_of(kOneWindow, {1, 5, 5, 5}, {7}, false), (std::vector<float>{0, 7, 0, 0}));
  EXPECT_EQ(gradient_of(kOneWindow, {1, 2, 5, 5}, {7}, false), (std::vector<float>{0, 0, 7, 0}));
  EXPECT_EQ(gradient_of(kOneWindow, {1, 2, 3, 5}, {7}, true), (std::vector<float>{0, 0, 0, 7}));
}

TEST(MaxPool, FusedReluLetsNoGradientThroughWhereTheMaximumIsZero) {
  EXPECT_EQ(gradient_of(kOneWindow, {0, 0, 0, 0}, {7}, true), std::vector<float>(4, 0.0F));
  EXPECT_EQ(gradient_of(kOneWindow, {0, 0, 0, 0}, {7}, false), (std::vector<float>{7, 0, 0, 0}));
}

TEST(MaxPool, PaddingIsNeverTheMaximumAndSharedElementsAddUp) {
  // The stem of a ResNet: windows begin at -1 and 1.
  const MaxPoolShape shape{
      .planes = 1, .height = 3, .width = 3, .block = 1, .window = 3, .stride = 2, .padding = 1};
  const std::vector<float> x = {-9, -8, -7, -6, -5, -4, -3, -2, -1};
  std::vector<float> y(4, kUnwritten);
  Places places(4, kNoPlace);
  max_pool_forward(shape, 0, 1, x.data(), false, y.data(), places.data());
  EXPECT_EQ(y, (std::vector<float>{-5, -4, -2, -1}));
  EXPECT_EQ(places, (Places{8, 7, 5, 4}));

  // The centre is the maximum of all four windows.
  EXPECT_EQ(gradient_of(shape, {0, 0, 0, 0, 1, 0, 0, 0, 0}, {1, 2, 4, 8}, false),
            (std::vector<float>{0, 0, 0, 0, 15, 0, 0, 0, 0}));
}

TEST(MaxPoolDeathTest, RefusesWindowsThatCouldBeEmpty) {
  MaxPoolShape shape = kShapes[0];
  shape.padding = 2;
  EXPECT_DEATH(max_pool_forward(shape, 0, 0, nullptr, false, nullptr, nullptr), "padding 2 of windows of 2");
}

}  // namespace
}  // namespace annulus
