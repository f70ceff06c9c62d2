#include "runtime/checksum.h"

#include <gtest/gtest.h>

#include "parameter_list.h"

namespace annulus {
namespace {

// A convolution's weights, 20 x 3 x 3 x 3, and five more floats.
NetworkPlan network_with(const TensorLayout& weights) {
  NetworkPlan network = network_of({{0, 1}, {1, 5}});
  network.parameters[0].layout = weights;
  return network;
}

// One generation with the values 0, 1/8, 2/8, ... and -1, -2, ... in these parameters; junk between them.
std::vector<float> generation(const NetworkPlan& network, const BucketPlan& buckets) {
  std::vector<float> weights(buckets.elements, 1e30f);
  for (std::size_t i = 0; i < network.parameters.size(); ++i) {
    const TensorLayout& layout = network.parameters[i].layout;
    std::vector<float> plain(layout.elements());
    for (std::size_t k = 0; k < plain.size(); ++k) plain[k] = i == 0 ? k / 8.0f : -1.0f - k;
    from_plain(layout, plain.data(), weights.data() + buckets.offsets[i]);
  }
  return weights;
}

uint64_t checksum(const TensorLayout& layout, int64_t bucket_bytes) {
  const NetworkPlan network = network_with(layout);
  const BucketPlan buckets = plan_buckets(network, bucket_bytes);
  return weights_checksum(network, buckets, generation(network, buckets).data());
}

const TensorLayout kPlain = TensorLayout::plain(std::array<int64_t, 4>{20, 3, 3, 3});

TEST(Checksum, is_xxh64_of_the_plain_floats_in_order_of_use) {
  // Computed with another implementation over the 545 little-endian floats.
  EXPECT_EQ(checksum(kPlain, 1 << 20), 0x30ee1634e8adc2a7U);
}

TEST(Checksum, depends_on_neither_layout_nor_buckets) {
  EXPECT_EQ(checksum(blocked_layout(20, 3, 3, 3), 1 << 20), 0x30ee1634e8adc2a7U);
  EXPECT_EQ(checksum(kPlain, 1), 0x30ee1634e8adc2a7U);
}

TEST(Checksum, sees_a_changed_bit_and_ignores_what_lies_between_parameters) {
  const NetworkPlan network = network_with(kPlain);
  const BucketPlan buckets = plan_buckets(network, 1 << 20);
  std::vector<float> weights = generation(network, buckets);
  const uint64_t before = weights_checksum(network, buckets, weights.data());
  weights[buckets.offsets[0] + kPlain.elements()] = 17;  // padding
  EXPECT_EQ(weights_checksum(network, buckets, weights.data()), before);
  weights[buckets.offsets[1] + 4] = std::nextafter(weights[buckets.offsets[1] + 4], 0.0f);
  EXPECT_NE(weights_checksum(network, buckets, weights.data()), before);
}

TEST(Checksum, is_written_with_all_its_digits) {
  EXPECT_EQ(format_checksum(0x0123456789abcdef), "xxh64=0123456789abcdef");
  EXPECT_EQ(format_checksum(0), "xxh64=0000000000000000");
}

}  // namespace
}  // namespace annulus
