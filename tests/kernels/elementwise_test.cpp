#include "kernels/elementwise.h"

#include <gtest/gtest.h>

#include <limits>

#include "each_target.h"
#include "stored_tensor.h"

namespace annulus {
namespace {

constexpr int64_t kElements = 80;
constexpr int64_t kCounts[] = {0, 1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 64, 70};

// Where element `shift` of a tensor lies, so that no kernel can count on alignment.
void* shifted(StoredTensor& tensor, DataType type, int64_t shift) {
  return static_cast<uint8_t*>(tensor.data()) + shift * size_of(type);
}
const void* shifted(const StoredTensor& tensor, DataType type, int64_t shift) {
  return static_cast<const uint8_t*>(tensor.data()) + shift * size_of(type);
}

template <class Body>
void for_each_case(const Body& body) {
  for_each_target([&] {
    for (const DataType type : kStoredTypes) {
      for (const int64_t n : kCounts) {
        for (const int64_t shift : {0, 1, 5}) {
          SCOPED_TRACE(name_of(type) + ", " + std::to_string(n) + " elements, shifted by " +
                       std::to_string(shift));
          body(type, n, shift);
        }
      }
    }
  });
}

TEST(ReluBackward, HasTheBitsOfThePlainLoopOnEveryTarget) {
  for_each_case([](DataType type, int64_t n, int64_t shift) {
    const StoredTensor y(type, integers(kElements, 2, 1));
    StoredTensor expected(type, normals(kElements, 2)), gradient = expected;
    relu_backward_reference(type, n, shifted(y, type, shift), shifted(expected, type, shift));
    relu_backward(type, n, shifted(y, type, shift), shifted(gradient, type, shift));
    EXPECT_EQ(gradient, expected);
  });
}

TEST(ReluBackward, IsClosedAtZeroAndBelow) {
  for (const DataType type : kStoredTypes) {
    const StoredTensor y(type, {-1, 0, 1, -0.0F, 1e-30F});
    StoredTensor gradient(type, {2, 3, 4, 5, 6});
    relu_backward(type, 5, y.data(), gradient.data());
    EXPECT_EQ(gradient.floats(), (std::vector<float>{0, 0, 4, 0, 6}));
  }
}

TEST(AddOfElements, HasTheBitsOfThePlainLoopOnEveryTarget) {
  for_each_case([](DataType type, int64_t n, int64_t shift) {
    const StoredTensor a(type, normals(kElements, 3)), b(type, normals(kElements, 4));
    for (const bool relu : {false, true}) {
      StoredTensor expected(type, kElements), sum(type, kElements);
      add_reference(type, n, shifted(a, type, shift), shifted(b, type, shift), relu,
                    shifted(expected, type, shift));
      add(type, n, shifted(a, type, shift), shifted(b, type, shift), relu, shifted(sum, type, shift));
      EXPECT_EQ(sum, expected);
    }
  });
}

TEST(AddOfElements, MayWriteOverEitherAddend) {
  for (const DataType type : kStoredTypes) {
    const StoredTensor a(type, normals(kElements, 5)), b(type, normals(kElements, 6));
    StoredTensor sum(type, kElements), left = a, right = b;
    add(type, kElements, a.data(), b.data(), true, sum.data());
    add(type, kElements, left.data(), b.data(), true, left.data());
    add(type, kElements, a.data(), right.data(), true, right.data());
    EXPECT_EQ(left, sum);
    EXPECT_EQ(right, sum);
  }
}

TEST(AddOfElements, RoundsTheExactSumOnce) {
  // 257 + 2^-7 lies just above the middle of 256 and 258, bf16's neighbours; cut off, it would be 256.
  StoredTensor sum(DataType::kBf16, 1);
  const StoredTensor a(DataType::kBf16, std::vector<float>{256});
  const StoredTensor b(DataType::kBf16, std::vector<float>{1 + 0x1p-7F});
  add(DataType::kBf16, 1, a.data(), b.data(), false, sum.data());
  EXPECT_EQ(sum.floats(), std::vector<float>{258});
}

TEST(AddOfElements, KeepsNanBehindReluOnEveryTarget) {
  for_each_target([] {
    for (const DataType type : kStoredTypes) {
      const StoredTensor a(type, std::vector<float>(20, std::numeric_limits<float>::quiet_NaN()));
      const StoredTensor b(type, std::vector<float>(20, 1));
      StoredTensor sum(type, std::vector<float>(20, 0));
      add(type, 20, a.data(), b.data(), true, sum.data());
      for (const float value : sum.floats()) EXPECT_NE(value, value);
    }
  });
}

}  // namespace
}  // namespace annulus
