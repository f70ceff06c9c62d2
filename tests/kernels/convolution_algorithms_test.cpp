#include "kernels/convolution_algorithms.h"

#include <gtest/gtest.h>

#include "network_specs.h"

namespace annulus {
namespace {

constexpr auto kDirect = ConvolutionAlgorithm::kDirect;
constexpr auto kWinograd = ConvolutionAlgorithm::kWinograd;

LayerSpec filters(int out, int kernel = 3, int stride = 1) { return bare_conv("conv", out, kernel, stride); }

ConvolutionAlgorithm choice(const LayerSpec& layer, const ImageShape& input, int64_t images,
                            DataType type = DataType::kF32) {
  return choose_algorithm(layer, input, images, type);
}

TEST(ConvolutionAlgorithms, WinogradFitsUnstridedFiltersOfThreeInFp32) {
  EXPECT_TRUE(winograd_fits(filters(64), DataType::kF32));
  EXPECT_TRUE(winograd_fits(conv("conv", 64, 3, 0, true), DataType::kF32));
  EXPECT_FALSE(winograd_fits(conv("conv", 64, 3, 2, true), DataType::kF32));
  EXPECT_FALSE(winograd_fits(filters(64), DataType::kBf16));
  EXPECT_FALSE(winograd_fits(filters(64, 3, 2), DataType::kF32));
  EXPECT_FALSE(winograd_fits(filters(64, 1), DataType::kF32));
  EXPECT_FALSE(winograd_fits(filters(64, 5), DataType::kF32));
  EXPECT_FALSE(winograd_fits(fc("fc", 64, false), DataType::kF32));
  EXPECT_FALSE(winograd_fits(pool("pool", 3, 1, 1), DataType::kF32));
}

TEST(ConvolutionAlgorithms, Bf16IsDirect) {
  EXPECT_EQ(choice(filters(64), {64, 32, 32}, 64), kWinograd);
  EXPECT_EQ(choice(filters(64), {64, 32, 32}, 64, DataType::kBf16), kDirect);
}

TEST(ConvolutionAlgorithms, FewChannelsAreDirectOnEitherSide) {
  EXPECT_EQ(choice(filters(32), {32, 32, 32}, 64), kWinograd);
  EXPECT_EQ(choice(filters(32), {31, 32, 32}, 64), kDirect);
  EXPECT_EQ(choice(filters(31), {32, 32, 32}, 64), kDirect);
  EXPECT_EQ(choice(filters(64), {3, 32, 32}, 64), kDirect);
}

TEST(ConvolutionAlgorithms, FewTilesAreDirect) {
  // 32x32: 64 tiles of 4x4 each; 8x8: 4; 4x4: 1; 7x7: 4 that reach over the edge.
  EXPECT_EQ(choice(filters(64), {64, 32, 32}, 1), kWinograd);
  EXPECT_EQ(choice(filters(256), {256, 8, 8}, 7), kDirect);
  EXPECT_EQ(choice(filters(256), {256, 8, 8}, 8), kWinograd);
  EXPECT_EQ(choice(filters(256), {256, 7, 7}, 8), kWinograd);
  EXPECT_EQ(choice(filters(512), {512, 4, 4}, 31), kDirect);
  EXPECT_EQ(choice(filters(512), {512, 4, 4}, 32), kWinograd);
  // Tiles are of outputs: 9 tiles of 10x10 without padding, of 8x8 outputs 4.
  EXPECT_EQ(choice(conv("conv", 64, 3, 0, false), {64, 10, 10}, 7), kDirect);
  EXPECT_EQ(choice(conv("conv", 64, 3, 1, false), {64, 10, 10}, 7), kWinograd);
}

TEST(ImagesPerCall, OfResNetsLayersFillTheCaches) {
  EXPECT_EQ(images_per_call(filters(64), {64, 32, 32}, 128, 1, DataType::kF32), 16);
  EXPECT_EQ(images_per_call(filters(128), {128, 16, 16}, 128, 1, DataType::kF32), 32);
  EXPECT_EQ(images_per_call(filters(256), {256, 8, 8}, 128, 1, DataType::kF32), 64);
  EXPECT_EQ(images_per_call(filters(512), {512, 4, 4}, 128, 1, DataType::kF32), 128);
  EXPECT_EQ(images_per_call(filters(64), {64, 32, 32}, 128, 4, DataType::kF32), 64);
}

TEST(ImagesPerCall, AreAllWhereTheCallsAreDirect) {
  EXPECT_EQ(images_per_call(filters(64), {64, 32, 32}, 128, 1, DataType::kBf16), 128);
  EXPECT_EQ(images_per_call(filters(64, 3, 2), {64, 32, 32}, 128, 1, DataType::kF32), 128);
  EXPECT_EQ(images_per_call(filters(512), {512, 4, 4}, 20, 1, DataType::kF32), 20);
}

TEST(ImagesPerCall, AreAllWhereNoDivisorComesNear) {
  EXPECT_EQ(images_per_call(filters(64), {64, 32, 32}, 127, 1, DataType::kF32), 127);  // a prime
  EXPECT_EQ(images_per_call(filters(64), {64, 32, 32}, 2 * 61, 1, DataType::kF32), 2 * 61);
  EXPECT_EQ(images_per_call(filters(64), {64, 32, 32}, 45, 1, DataType::kF32), 15);
}

TEST(ImagesPerCall, DivideTheImagesAndComeNearTheMostUnlessAll) {
  const ImageShape shapes[] = {{64, 32, 32}, {128, 16, 16}, {256, 8, 8}, {512, 4, 4}, {64, 224, 224}};
  for (const ImageShape& shape : shapes) {
    for (int threads = 1; threads <= 3; ++threads) {
      const int64_t most = images_per_call(filters(shape.channels), shape, 3 << 20, threads, DataType::kF32);
      for (int64_t images = 1; images <= 200; ++images) {
        const int64_t portion =
            images_per_call(filters(shape.channels), shape, images, threads, DataType::kF32);
        ASSERT_GE(portion, 1);
        ASSERT_EQ(images % portion, 0) << images;
        ASSERT_TRUE(portion == images || (portion <= most && 2 * portion > most)) << images;
      }
    }
  }
}

}  // namespace
}  // namespace annulus
