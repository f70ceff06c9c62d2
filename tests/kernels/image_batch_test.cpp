#include "kernels/image_batch.h"

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <cmath>
#include <cstring>
#include <vector>

namespace annulus {
namespace {

const Normalization kCifarLike{{0.4914f, 0.4822f, 0.4465f}, {0.2470f, 0.2435f, 0.2616f}};

// Exactly image-sized buffers, so that AddressSanitizer sees every byte read or written outside.
std::vector<uint8_t> some_image(const ImageShape& shape) {
  std::vector<uint8_t> image(static_cast<size_t>(shape.pixels()));
  for (size_t i = 0; i < image.size(); ++i) image[i] = static_cast<uint8_t>(i * 37 + i / 251);
  return image;
}

void expect_equals_reference(const ImageShape& shape, const ImageShift& shift) {
  const std::vector<uint8_t> image = some_image(shape);
  std::vector<float> fast(image.size(), NAN), plain(image.size(), NAN);
  convert_image(shape, kCifarLike, shift, image.data(), fast.data());
  convert_image_reference(shape, kCifarLike, shift, image.data(), plain.data());
  ASSERT_EQ(std::memcmp(fast.data(), plain.data(), fast.size() * sizeof(float)), 0)
      << shape.channels << " x " << shape.height << " x " << shape.width << ", shift " << shift.dy << ", "
      << shift.dx << (shift.flip ? ", flipped" : "");
}

TEST(ImageBatch, EqualsTheReferenceBitByBitOnEveryInstructionSet) {
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    for (const ImageShape& shape : {ImageShape{1, 28, 28}, ImageShape{3, 32, 32}, ImageShape{1, 1, 1},
                                    ImageShape{2, 5, 3}, ImageShape{3, 7, 17}, ImageShape{1, 2, 33}}) {
      for (const bool flip : {false, true}) {
        for (int dy = -5; dy <= 5; ++dy) {
          for (int dx = -5; dx <= 5; ++dx) expect_equals_reference(shape, {dy, dx, flip});
        }
        expect_equals_reference(shape, {100, -100, flip});
      }
    }
  }
  hwy::SetSupportedTargetsForTest(0);
}

TEST(ImageBatch, NormalisesAsTheHeaderSays) {
  const ImageShape shape{3, 32, 32};
  const std::vector<uint8_t> image = some_image(shape);
  std::vector<float> out(image.size());
  convert_image(shape, kCifarLike, {}, image.data(), out.data());
  for (size_t i = 0; i < image.size(); ++i) {
    const size_t c = i / 1024;
    const double expected = (image[i] / 255.0 - double{kCifarLike.mean[c]}) / double{kCifarLike.stddev[c]};
    // Two roundings of values up to about 4, and those of scale and shift.
    ASSERT_NEAR(out[i], expected, 1e-6);
  }
}

TEST(ImageBatch, ShiftsDownAndRightWithBlackMovingIn) {
  const std::vector<uint8_t> image = {1, 2, 3,  //
                                      4, 5, 6};
  const Normalization bytes{{0, 0, 0}, {1 / 255.0f, 1, 1}};
  std::vector<float> out(6);
  const auto convert = [&](const ImageShift& shift) {
    convert_image({1, 2, 3}, bytes, shift, image.data(), out.data());
    std::vector<int> rounded;
    for (const float value : out) rounded.push_back(static_cast<int>(std::lround(value)));
    return rounded;
  };
  EXPECT_EQ(convert({0, 0, false}), (std::vector<int>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(convert({1, 0, false}), (std::vector<int>{0, 0, 0, 1, 2, 3}));
  EXPECT_EQ(convert({0, 1, false}), (std::vector<int>{0, 1, 2, 0, 4, 5}));
  EXPECT_EQ(convert({-1, -1, false}), (std::vector<int>{5, 6, 0, 0, 0, 0}));
  EXPECT_EQ(convert({0, 0, true}), (std::vector<int>{3, 2, 1, 6, 5, 4}));
  EXPECT_EQ(convert({0, 1, true}), (std::vector<int>{2, 1, 0, 5, 4, 0}));  // shifted first, then mirrored
}

// As training on CIFAR usually does it: four black pixels on each side, a 32x32 piece of that, then a mirror.
TEST(ImageBatch, IsPaddingCroppingAndFlipping) {
  constexpr int kSize = 32, kPadding = 4, kPadded = kSize + 2 * kPadding;
  const ImageShape shape{3, kSize, kSize};
  const std::vector<uint8_t> image = some_image(shape);
  std::vector<uint8_t> padded(size_t{3} * kPadded * kPadded);
  for (int c = 0; c < 3; ++c) {
    for (int y = 0; y < kSize; ++y) {
      std::memcpy(&padded[(c * kPadded + y + kPadding) * kPadded + kPadding], &image[(c * kSize + y) * kSize],
                  kSize);
    }
  }
  std::vector<uint8_t> piece(image.size());
  std::vector<float> expected(image.size()), out(image.size());
  for (const bool flip : {false, true}) {
    for (int top = 0; top <= 2 * kPadding; ++top) {
      for (int left = 0; left <= 2 * kPadding; ++left) {
        for (int i = 0; i < static_cast<int>(piece.size()); ++i) {
          const int c = i / (kSize * kSize), y = i / kSize % kSize, x = i % kSize;
          piece[i] = padded[(c * kPadded + top + y) * kPadded + left + (flip ? kSize - 1 - x : x)];
        }
        convert_image(shape, kCifarLike, {}, piece.data(), expected.data());
        convert_image(shape, kCifarLike, {kPadding - top, kPadding - left, flip}, image.data(), out.data());
        ASSERT_EQ(out, expected) << top << ", " << left << (flip ? ", flipped" : "");
      }
    }
  }
}

}  // namespace
}  // namespace annulus
