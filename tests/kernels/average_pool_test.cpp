#include "kernels/average_pool.h"

#include <gtest/gtest.h>

#include "each_target.h"
#include "stored_tensor.h"

namespace annulus {
namespace {

const AveragePoolShape kShapes[] = {
    {.planes = 6, .pixels = 16, .block = 16},  {.planes = 3, .pixels = 49, .block = 16},
    {.planes = 2, .pixels = 700, .block = 16},  // several stretches
    {.planes = 3, .pixels = 5, .block = 8},    {.planes = 5, .pixels = 49, .block = 1},
    {.planes = 2, .pixels = 5000, .block = 1}, {.planes = 2, .pixels = 9, .block = 44},
    {.planes = 2, .pixels = 3, .block = 21},   {.planes = 3, .pixels = 1, .block = 1},
};

template <class Body>
void for_each_case(const Body& body) {
  for (AveragePoolShape shape : kShapes) {
    for (const DataType type : kStoredTypes) {
      shape.type = type;
      SCOPED_TRACE(name_of(type) + ", block " + std::to_string(shape.block) + ", pixels " +
                   std::to_string(shape.pixels));
      body(shape, shape.planes * shape.block, shape.planes * shape.block * shape.pixels);
    }
  }
}

TEST(AveragePool, ForwardOfIntegersHasTheBitsOfThePlainLoopOnEveryTarget) {
  for_each_target([] {
    for_each_case([](const AveragePoolShape& shape, int64_t outputs, int64_t inputs) {
      const StoredTensor x(shape.type, integers(inputs, 100, 1));
      StoredTensor expected(shape.type, outputs), y(shape.type, outputs);
      average_pool_forward_reference(shape, x.data(), expected.data());
      average_pool_forward(shape, 0, shape.planes, x.data(), y.data());
      EXPECT_EQ(y, expected);
    });
  });
}

TEST(AveragePool, ForwardIsNearThePlainLoop) {
  for_each_case([](const AveragePoolShape& shape, int64_t outputs, int64_t inputs) {
    const StoredTensor x(shape.type, normals(inputs, 2, 1));
    StoredTensor expected(shape.type, outputs), y(shape.type, outputs);
    average_pool_forward_reference(shape, x.data(), expected.data());
    average_pool_forward(shape, 0, shape.planes, x.data(), y.data());
    const std::vector<float> near = expected.floats(), got = y.floats();
    for (int64_t i = 0; i < outputs; ++i) {
      EXPECT_NEAR(got[i], near[i], shape.type == DataType::kF32 ? 2e-6 : 0x1p-8 * std::abs(near[i])) << i;
    }
  });
}

TEST(AveragePool, BackwardHasTheBitsOfThePlainLoopOnEveryTarget) {
  for_each_target([] {
    for_each_case([](const AveragePoolShape& shape, int64_t outputs, int64_t inputs) {
      const StoredTensor dy(shape.type, normals(outputs, 3));
      StoredTensor expected(shape.type, inputs), dx(shape.type, inputs);
      average_pool_backward_reference(shape, dy.data(), expected.data());
      average_pool_backward(shape, 0, shape.planes, dy.data(), dx.data());
      EXPECT_EQ(dx, expected);
    });
  });
}

TEST(AveragePool, BitsDependNeitherOnTargetsNorOnHowPlanesAreDealtOut) {
  for_each_case([](const AveragePoolShape& shape, int64_t outputs, int64_t inputs) {
    const StoredTensor x(shape.type, normals(inputs, 4));
    StoredTensor whole(shape.type, outputs), dx(shape.type, inputs);
    average_pool_forward(shape, 0, shape.planes, x.data(), whole.data());
    average_pool_backward(shape, 0, shape.planes, whole.data(), dx.data());
    for_each_target([&] {
      StoredTensor parts(shape.type, outputs), dx_parts(shape.type, inputs);
      average_pool_forward(shape, 1, shape.planes, x.data(), parts.data());
      average_pool_forward(shape, 0, 1, x.data(), parts.data());
      EXPECT_EQ(parts, whole);
      average_pool_backward(shape, 1, shape.planes, whole.data(), dx_parts.data());
      average_pool_backward(shape, 0, 1, whole.data(), dx_parts.data());
      EXPECT_EQ(dx_parts, dx);
    });
  });
}

}  // namespace
}  // namespace annulus
