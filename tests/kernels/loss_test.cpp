#include "kernels/loss.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "each_target.h"

namespace annulus {
namespace {

struct Batch {
  std::vector<float> logits;
  std::vector<uint8_t> labels;
};

Batch random_batch(int images, int classes, float spread) {
  std::mt19937 random(images * 1000 + classes);
  std::normal_distribution<float> normal(0, spread);
  Batch batch{std::vector<float>(images * classes), std::vector<uint8_t>(images)};
  for (float& logit : batch.logits) logit = normal(random);
  for (uint8_t& label : batch.labels) label = static_cast<uint8_t>(random() % classes);
  return batch;
}

// A few units in the last place of exp, and rounding to units of the loss: 1e-6 of the gradient's largest
// possible element, 1e-6 nats an image.
TEST(SoftmaxCrossEntropy, StaysNearTheDoubleReferenceOnEveryTarget) {
  for_each_target([] {
    for (const int classes : {1, 2, 10, 16, 100, 256}) {
      for (const float spread : {0.1F, 3.0F, 100.0F}) {
        const Batch batch = random_batch(33, classes, spread);
        std::vector<float> gradient(batch.logits.size(), -1), expected(batch.logits.size(), -1);
        const float scale = 0.25F;
        const LossSum sum = softmax_cross_entropy(batch.logits, classes, batch.labels, scale, gradient);
        const LossSum reference =
            softmax_cross_entropy_reference(batch.logits, classes, batch.labels, scale, expected);
        for (size_t i = 0; i < gradient.size(); ++i) ASSERT_NEAR(gradient[i], expected[i], 1e-6 * scale);
        EXPECT_NEAR(sum.mean_loss(), reference.mean_loss(), 1e-6);
        EXPECT_EQ(sum.correct, reference.correct);
        EXPECT_EQ(sum.images, 33);
        EXPECT_EQ(sum.not_finite, 0);
      }
    }
  });
}

TEST(SoftmaxCrossEntropy, OfEqualLogitsIsTheLogarithmOfTheClasses) {
  const std::vector<float> logits(10, 1000.0F);
  std::vector<float> gradient(10);
  const uint8_t labels[] = {0};
  const LossSum sum = softmax_cross_entropy(logits, 10, labels, 1, gradient);
  EXPECT_NEAR(sum.mean_loss(), std::log(10.0), 1e-7);
  EXPECT_EQ(sum.correct, 1) << "the lowest index wins a tie";
  EXPECT_NEAR(gradient[0], -0.9, 1e-6);
  EXPECT_NEAR(gradient[9], 0.1, 1e-6);
}

TEST(SoftmaxCrossEntropy, ImagesWithoutALabelGetAZeroGradient) {
  const Batch batch = random_batch(8, 10, 1);
  std::vector<float> whole(80, -1), part(80, -1);
  softmax_cross_entropy(batch.logits, 10, batch.labels, 1, whole);
  const LossSum sum = softmax_cross_entropy(batch.logits, 10, std::span(batch.labels).first(5), 1, part);
  EXPECT_EQ(sum.images, 5);
  EXPECT_TRUE(std::equal(whole.begin(), whole.begin() + 50, part.begin()));
  EXPECT_EQ(std::vector<float>(part.begin() + 50, part.end()), std::vector<float>(30, 0.0F));
}

TEST(SoftmaxCrossEntropy, SumDoesNotDependOnHowImagesAreDealtOut) {
  const Batch batch = random_batch(24, 10, 2);
  std::vector<float> gradient(240);
  const LossSum whole = softmax_cross_entropy(batch.logits, 10, batch.labels, 1, gradient);
  LossSum parts;
  for (const int first : {16, 0, 8}) {
    parts +=
        softmax_cross_entropy(std::span(batch.logits).subspan(first * 10, 80), 10,
                              std::span(batch.labels).subspan(first, 8), 1, std::span(gradient).first(80));
  }
  EXPECT_EQ(parts.loss_units, whole.loss_units);
  EXPECT_EQ(parts.correct, whole.correct);
}

TEST(SoftmaxCrossEntropy, CountsImagesWhoseLossIsNotFinite) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> logits{nan, 0, 0, nan, inf, 0, -inf, 0, 0, -inf, 3e38F, -3e38F, 1, 0};
  const std::vector<uint8_t> labels{0, 0, 0, 0, 0, 1, 0};
  std::vector<float> gradient(logits.size());
  const LossSum sum = softmax_cross_entropy(logits, 2, labels, 1, gradient);
  // A NaN anywhere, an infinite logit on top, an infinitely improbable label, a loss that the units cannot
  // hold.
  EXPECT_EQ(sum.not_finite, 5);
  EXPECT_EQ(sum.images, 7);
  EXPECT_TRUE(std::isnan(sum.mean_loss()));
  EXPECT_TRUE(std::isnan(gradient[1]));
  // Image 4 is fine: the label is certain.
  EXPECT_EQ(gradient[8], 0.0F);
  EXPECT_NEAR(static_cast<double>(sum.loss_units) * LossSum::kUnit, std::log1p(std::exp(-1.0)), 1e-6);
}

TEST(LossSum, MeanOfNoImagesIsNaN) { EXPECT_TRUE(std::isnan(LossSum().mean_loss())); }

}  // namespace
}  // namespace annulus
