#include "kernels/weight_view.h"

#include <gtest/gtest.h>

#include "each_target.h"
#include "stored_tensor.h"

namespace annulus {
namespace {

enum class Inside { k16i16o, k16o16i, k8i16o2i, k8o16i2o };

constexpr int64_t whole(int64_t n) { return (n + 15) / 16 * 16; }

// A blocked layout of these dimensions. `order` lists the dimensions around the tiles, outermost first.
TensorLayout blocked(const std::vector<int64_t>& dims, const std::vector<int>& order, Inside inside) {
  TensorLayout layout;
  layout.dims_count = static_cast<int>(dims.size());
  for (int d = 0; d < layout.dims_count; ++d) {
    layout.dims[d] = dims[d];
    layout.padded_dims[d] = d < 2 ? whole(dims[d]) : dims[d];
  }
  int64_t stride = 256;
  for (auto d = order.rbegin(); d != order.rend(); ++d) {
    layout.strides[*d] = stride;
    stride *= *d < 2 ? layout.padded_dims[*d] / 16 : layout.padded_dims[*d];
  }
  const bool inputs_outside = inside == Inside::k16i16o || inside == Inside::k8i16o2i;
  const int outside = inputs_outside ? 1 : 0;
  const bool pairs = inside == Inside::k8i16o2i || inside == Inside::k8o16i2o;
  layout.inner_count = pairs ? 3 : 2;
  layout.inner_blocks = pairs ? std::array<int64_t, 6>{8, 16, 2} : std::array<int64_t, 6>{16, 16};
  layout.inner_dims =
      pairs ? std::array<int, 6>{outside, 1 - outside, outside} : std::array<int, 6>{outside, 1 - outside};
  return layout;
}

TEST(WeightViewTest, LayoutsOfThisTestAreOneDnns) {
  EXPECT_EQ(blocked({32, 32, 3, 3}, {0, 1, 2, 3}, Inside::k16i16o).tag(), "ABcd16b16a");
  EXPECT_EQ(blocked({32, 32, 3, 3}, {1, 0, 2, 3}, Inside::k16o16i).tag(), "BAcd16a16b");
  EXPECT_EQ(blocked({32, 32, 3, 3}, {0, 1, 2, 3}, Inside::k8i16o2i).tag(), "ABcd8b16a2b");
  EXPECT_EQ(blocked({32, 32, 3, 3}, {1, 0, 2, 3}, Inside::k8o16i2o).tag(), "BAcd8a16b2a");
}

struct Tensor {
  std::vector<int64_t> dims;
  std::vector<std::vector<int>> orders;
};

const Tensor kTensors[] = {
    {{32, 48, 3, 3}, {{0, 1, 2, 3}, {1, 0, 2, 3}, {2, 3, 0, 1}, {0, 2, 3, 1}}},
    {{20, 3, 3, 3}, {{0, 1, 2, 3}, {1, 0, 2, 3}}},
    {{64, 16, 1, 1}, {{0, 1, 2, 3}, {1, 0, 2, 3}}},
    {{10, 40}, {{0, 1}, {1, 0}}},
};

struct Conversion {
  Inside from, to;
  DataType type;
};

constexpr Conversion kConversions[] = {
    {Inside::k16i16o, Inside::k8i16o2i, DataType::kBf16},
    {Inside::k16i16o, Inside::k8o16i2o, DataType::kBf16},
    {Inside::k16i16o, Inside::k16o16i, DataType::kF32},
    {Inside::k16o16i, Inside::k16i16o, DataType::kF32},
};

// Calls body(from, to, type, master) for all tensors, orders and insides; the master's padding is zero.
template <class Body>
void for_each_view(const Body& body) {
  for (const Tensor& tensor : kTensors) {
    for (const std::vector<int>& from_order : tensor.orders) {
      for (const std::vector<int>& to_order : tensor.orders) {
        for (const Conversion& conversion : kConversions) {
          const TensorLayout from = blocked(tensor.dims, from_order, conversion.from);
          const TensorLayout to = blocked(tensor.dims, to_order, conversion.to);
          SCOPED_TRACE(from.tag() + " to " + to.tag());
          std::vector<float> master(from.padded_elements());
          from_plain(from, normals(from.elements(), 1).data(), master.data());
          body(from, to, conversion.type, master);
        }
      }
    }
  }
}

TEST(WeightView, HasTheBitsOfTheReferenceOnEveryTarget) {
  for_each_target([] {
    for_each_view([](const TensorLayout& from, const TensorLayout& to, DataType type,
                     const std::vector<float>& master) {
      const std::optional<WeightView> view = plan_weight_view(from, to, type);
      ASSERT_TRUE(view.has_value());
      StoredTensor expected(type, to.padded_elements()), made(type, to.padded_elements());
      make_view_reference(from, to, type, master.data(), expected.data());
      make_view(*view, 1, master.data(), made.data());
      ASSERT_EQ(made, expected);
    });
  });
}

TEST(WeightView, BitsDoNotDependOnThreads) {
  for_each_view(
      [](const TensorLayout& from, const TensorLayout& to, DataType type, const std::vector<float>& master) {
        const std::optional<WeightView> view = plan_weight_view(from, to, type);
        StoredTensor one(type, to.padded_elements());
        make_view(*view, 1, master.data(), one.data());
        for (int threads = 2; threads <= 4; ++threads) {
          StoredTensor made(type, to.padded_elements());
          make_view(*view, threads, master.data(), made.data());
          ASSERT_EQ(made, one) << threads;
        }
      });
}

TEST(WeightView, IsRefusedWhereThereIsNoFastPath) {
  const std::vector<int64_t> dims = {32, 32, 3, 3};
  const std::vector<int> order = {0, 1, 2, 3};
  const TensorLayout master = blocked(dims, order, Inside::k16i16o);
  const auto planned = [&](const TensorLayout& to, DataType type) {
    return plan_weight_view(master, to, type).has_value();
  };
  EXPECT_TRUE(planned(blocked(dims, order, Inside::k16o16i), DataType::kF32));
  EXPECT_FALSE(planned(blocked(dims, order, Inside::k16o16i), DataType::kBf16));
  EXPECT_FALSE(planned(blocked(dims, order, Inside::k8i16o2i), DataType::kF32));
  EXPECT_FALSE(planned(master, DataType::kF32));
  EXPECT_FALSE(planned(blocked({32, 48, 3, 3}, order, Inside::k16o16i), DataType::kF32));
  EXPECT_FALSE(planned(TensorLayout::plain(dims), DataType::kF32));
}

}  // namespace
}  // namespace annulus
