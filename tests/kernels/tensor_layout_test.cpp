#include "kernels/tensor_layout.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>
#include <vector>

#include "kernels/dnnl_compat.h"

namespace annulus {
namespace {

using onednn::Tag;

std::vector<float> counting(int64_t n) {
  std::vector<float> values(n);
  std::iota(values.begin(), values.end(), 1.0F);
  return values;
}

TEST(TensorLayout, PlainIsRowMajorWithoutPadding) {
  const int64_t dims[] = {4, 3, 2};
  const TensorLayout layout = TensorLayout::plain(dims);
  EXPECT_TRUE(layout.is_plain());
  EXPECT_EQ(layout.tag(), "abc");
  EXPECT_EQ(layout.elements(), 24);
  EXPECT_EQ(layout.padded_elements(), 24);
  const int64_t index[] = {3, 1, 1};
  EXPECT_EQ(layout.offset(index), 3 * 6 + 1 * 2 + 1);
}

TEST(TensorLayout, ReadsOneDnnsDescriptorAndSpellsItsTag) {
  EXPECT_EQ(onednn::layout_of(onednn::make_desc({64, 32, 3, 3}, Tag::OIhw16i16o)).tag(), "ABcd16b16a");
  EXPECT_EQ(onednn::layout_of(onednn::make_desc({2, 32, 5, 5}, Tag::nChw16c)).tag(), "aBcd16b");
  EXPECT_EQ(onednn::layout_of(onednn::make_desc({2, 32, 5, 5}, Tag::nhwc)).tag(), "acdb");
  EXPECT_EQ(onednn::layout_of(onednn::make_desc({32, 1, 3, 3}, Tag::Ohwi16o)).tag(), "Acdb16a");
  EXPECT_TRUE(onednn::layout_of(onednn::make_desc({64, 32, 3, 3}, Tag::oihw)).is_plain());
  EXPECT_FALSE(onednn::layout_of(onednn::make_desc({64, 32, 3, 3}, Tag::hwio)).is_plain());
}

TEST(TensorLayout, OffsetOfATwiceBlockedTensorFollowsTheDefinition) {
  const TensorLayout layout = onednn::layout_of(onednn::make_desc({64, 32, 3, 3}, Tag::OIhw16i16o));
  const int64_t o = 37, i = 21, y = 2, x = 1;
  const int64_t index[] = {o, i, y, x};
  EXPECT_EQ(layout.offset(index), (((o / 16 * 2 + i / 16) * 3 + y) * 3 + x) * 256 + i % 16 * 16 + o % 16);
}

// The only layout with three levels of blocking and one dimension blocked twice among those that bf16 uses.
TEST(TensorLayout, OffsetHandlesADimensionBlockedTwice) {
  const TensorLayout layout = onednn::layout_of(onednn::make_desc({32, 32, 1, 1}, Tag::OIhw8i16o2i));
  const int64_t o = 19, i = 27;
  const int64_t index[] = {o, i, 0, 0};
  EXPECT_EQ(layout.tag(), "ABcd8b16a2b");
  EXPECT_EQ(layout.offset(index), (o / 16 * 2 + i / 16) * 256 + i % 16 / 2 * 32 + o % 16 * 2 + i % 2);
}

class TensorLayoutRoundTrip : public testing::TestWithParam<std::pair<onednn::Dims, Tag>> {};

TEST_P(TensorLayoutRoundTrip, KeepsEveryElementAndZeroesThePadding) {
  const auto& [dims, tag] = GetParam();
  const TensorLayout layout = onednn::layout_of(onednn::make_desc(dims, tag));
  const std::vector<float> plain = counting(layout.elements());
  std::vector<float> blocked(layout.padded_elements(), -1.0F), back(plain.size());
  from_plain(layout, plain.data(), blocked.data());
  to_plain(layout, blocked.data(), back.data());
  EXPECT_EQ(back, plain);

  const std::multiset<float> stored(blocked.begin(), blocked.end());
  EXPECT_EQ(stored.count(0.0F), static_cast<size_t>(layout.padded_elements() - layout.elements()));
  EXPECT_EQ(stored.count(-1.0F), 0U);
}

TEST_P(TensorLayoutRoundTrip, AgreesWithOneDnnsReorder) {
  const auto& [dims, tag] = GetParam();
  const onednn::Desc desc = onednn::make_desc(dims, tag);
  const TensorLayout layout = onednn::layout_of(desc);
  const TensorLayout row_major = TensorLayout::plain(dims);
  constexpr Tag kPlainTags[] = {Tag::a, Tag::ab, Tag::abc, Tag::abcd};
  std::vector<float> plain = counting(layout.elements());
  std::vector<float> blocked(layout.padded_elements()), expected(layout.padded_elements(), -1.0F);
  from_plain(layout, plain.data(), blocked.data());

  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  dnnl::memory from(onednn::make_desc(dims, kPlainTags[row_major.dims_count - 1]), engine, plain.data());
  dnnl::memory to(desc, engine, expected.data());
  dnnl::reorder(from, to).execute(stream, from, to);
  EXPECT_EQ(blocked, expected);
}

INSTANTIATE_TEST_SUITE_P(Layouts, TensorLayoutRoundTrip,
                         testing::Values(std::pair{onednn::Dims{5, 3, 2, 4}, Tag::nchw},
                                         std::pair{onednn::Dims{2, 5, 3, 3}, Tag::nhwc},
                                         std::pair{onednn::Dims{2, 32, 3, 3}, Tag::nChw16c},
                                         std::pair{onednn::Dims{2, 20, 3, 3}, Tag::nChw16c},
                                         std::pair{onednn::Dims{33, 17, 3, 3}, Tag::OIhw16i16o},
                                         std::pair{onednn::Dims{32, 48, 3, 3}, Tag::OIhw16o16i},
                                         std::pair{onednn::Dims{32, 1, 3, 3}, Tag::Ohwi16o},
                                         std::pair{onednn::Dims{20, 20, 1, 1}, Tag::OIhw8i16o2i},
                                         std::pair{onednn::Dims{10}, Tag::a}));

}  // namespace
}  // namespace annulus
