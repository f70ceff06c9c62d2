// What batch norm writes where there is no data, and results that lie in what they are made of.
#include <gtest/gtest.h>

#include "batch_norm_harness.h"

namespace annulus::batch_norm {
namespace {

TEST(BatchNorm, PaddingOfImagesAndChannelsIsWrittenAsZeros) {
  for_each_case(kShapes, [](const BatchNormShape& shape, Variant variant) {
    const Case c = Case::of_normals(shape, variant, 12);
    const Forward f = forward(c);
    const Backward b = backward(c, f);
    const std::vector<float> y = f.y.floats(), dx = b.dx.floats(), g = b.g.floats();
    for (int64_t image = 0; image < shape.tensor_images; ++image) {
      for (int64_t channel = 0; channel < shape.padded_channels(); ++channel) {
        if (image < shape.images && channel < shape.channels) continue;
        for (int64_t pixel = 0; pixel < shape.pixels; ++pixel) {
          const int64_t place = shape.offset(image, channel, pixel);
          ASSERT_EQ(y[place], 0);
          ASSERT_EQ(dx[place], 0);
          if (variant.addend) {
            ASSERT_EQ(g[place], 0);
          }
        }
      }
    }
  });
}

TEST(BatchNorm, ImagesThatHoldNoDataTakeNoPart) {
  const BatchNormShape shape = kShapes[1];
  const Case c = Case::of_normals(shape, {true, true, true}, 13);
  Case other = c;
  for (int64_t image = shape.images; image < shape.tensor_images; ++image) {
    for (int64_t pixel = 0; pixel < shape.pixels; ++pixel) {
      const int64_t place = shape.offset(image, 0, pixel);
      for (StoredTensor* tensor : {&other.x, &other.dy, &other.dy2, &other.addend}) {
        static_cast<float*>(tensor->data())[place] = kUnwritten;
      }
    }
  }
  const Forward f = forward(c);
  expect_equal(forward(other), f);
  expect_equal(backward(other, f), backward(c, f));
}

TEST(BatchNorm, ForwardMayWriteOverItsInputs) {
  for_each_case(kShapes, [](const BatchNormShape& shape, Variant variant) {
    const Case c = Case::of_normals(shape, variant, 14);
    const Forward expected = forward(c);
    for (const bool over_addend : {false, true}) {
      Case shared = c;
      StoredTensor& y = over_addend && variant.addend ? shared.addend : shared.x;
      BatchNormForward tensors = shared.forward_tensors(y);
      Forward f(shape);
      batch_norm_forward(shape, 1, tensors, f.statistics());
      EXPECT_EQ(y, expected.y);
    }
  });
}

TEST(BatchNorm, BackwardMayWriteOverTheGradientsItReads) {
  for_each_case(kShapes, [](const BatchNormShape& shape, Variant variant) {
    const Case c = Case::of_normals(shape, variant, 15);
    const Forward f = forward(c);
    const Backward expected = backward(c, f);
    for (const bool swapped : {false, true}) {
      Case shared = c;
      Backward result(shape);
      BatchNormBackward tensors = backward_tensors(shared, f, result);
      StoredTensor& dx = swapped && variant.joins ? shared.dy2 : shared.dy;
      StoredTensor& g = swapped || !variant.joins ? shared.dy : shared.dy2;
      const bool also_addend = variant.addend && &dx != &g;
      tensors.dx = dx.data();
      if (also_addend) tensors.diff_addend = g.data();
      batch_norm_backward(shape, 1, tensors);
      EXPECT_EQ(dx, expected.dx);
      if (also_addend) {
        EXPECT_EQ(g, expected.g);
      }
      EXPECT_EQ(result.dgamma, expected.dgamma);
      EXPECT_EQ(result.dbeta, expected.dbeta);
    }
  });
}

TEST(BatchNorm, TheAddendsGradientMayLieInTheGradientItIsMadeOf) {
  for (const Variant variant : {Variant{true, true, false}, Variant{false, true, false}}) {
    const Case c = Case::of_normals(kShapes[1], variant, 16);
    const Forward f = forward(c);
    const Backward expected = backward(c, f);
    Case shared = c;
    Backward result(c.shape);
    BatchNormBackward tensors = backward_tensors(shared, f, result);
    tensors.diff_addend = shared.dy.data();
    batch_norm_backward(c.shape, 1, tensors);
    EXPECT_EQ(result.dx, expected.dx);
    EXPECT_EQ(shared.dy, expected.g);
  }
}

TEST(BatchNormDeathTest, RefusesNoImagesAndOneBufferForTwoResults) {
  BatchNormShape shape = kShapes[0];
  float buffer = 0;
  EXPECT_DEATH(batch_norm_backward(shape, 1, {.dx = &buffer, .diff_addend = &buffer}), "share a buffer");
  shape.images = 0;
  EXPECT_DEATH(batch_norm_forward(shape, 1, {}, {}), "0 of 3 images");
}

}  // namespace
}  // namespace annulus::batch_norm
