// Batch norm beside its plain loops, beside statistics in double, and beside slopes of its definition.
#include "kernels/batch_norm.h"

#include <gtest/gtest.h>

#include <cmath>

#include "batch_norm_harness.h"
#include "each_target.h"

namespace annulus::batch_norm {
namespace {

Forward forward_reference(const Case& c) {
  Forward result(c.shape);
  batch_norm_forward_reference(c.shape, c.forward_tensors(result.y), result.statistics());
  return result;
}

Backward backward_reference(const Case& c, const Forward& f) {
  Backward result(c.shape);
  batch_norm_backward_reference(c.shape, backward_tensors(c, f, result));
  return result;
}

// |got - expected| <= bound, element by element.
void expect_near(const std::vector<float>& got, const std::vector<float>& expected, double bound,
                 const char* what) {
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    ASSERT_NEAR(got[i], expected[i], bound) << what << ", element " << i;
  }
}

// Rounding of values up to `most` when they are stored.
double rounding(DataType type, double most) { return most * (type == DataType::kF32 ? 0x1p-23 : 0x1p-8); }

// Powers of two of small integers: all sums, and all differences from means, are exact.
TEST(BatchNorm, OfIntegersHasTheBitsOfThePlainLoopsOnEveryTarget) {
  const BatchNormShape shapes[] = {
      {.tensor_images = 3, .images = 2, .channels = 40, .pixels = 16, .block = 16},
      {.tensor_images = 1, .images = 1, .channels = 16, .pixels = 512, .block = 16},
      {.tensor_images = 4, .images = 4, .channels = 13, .pixels = 4, .block = 8},
      {.tensor_images = 3, .images = 2, .channels = 3, .pixels = 8, .block = 1},
      {.tensor_images = 2, .images = 1, .channels = 2, .pixels = 64, .block = 1},
      {.tensor_images = 2, .images = 2, .channels = 44, .pixels = 8, .block = 44},
  };
  for_each_target([&] {
    for_each_case(shapes, [](const BatchNormShape& shape, Variant variant) {
      const Case c = Case::of_integers(shape, variant, 1);
      const Forward expected = forward_reference(c);
      expect_equal(forward(c), expected);
      Backward slow = backward_reference(c, expected), fast = backward(c, expected);
      // Zeros of either sign come from sums that cancel.
      EXPECT_EQ(fast.dx.floats(), slow.dx.floats());
      EXPECT_EQ(fast.dgamma, slow.dgamma);
      EXPECT_EQ(fast.dbeta, slow.dbeta);
      if (variant.addend) {
        EXPECT_EQ(fast.g, slow.g);
      }
    });
  });
}

TEST(BatchNorm, ForwardIsNearThePlainLoopsOnEveryTarget) {
  for_each_target([] {
    for_each_case(kShapes, [](const BatchNormShape& shape, Variant variant) {
      const Case c = Case::of_normals(shape, variant, 2);
      const Forward expected = forward_reference(c), got = forward(c);
      expect_near(got.mean, expected.mean, 1e-6, "mean");
      expect_near(got.batch_mean, expected.batch_mean, 1e-6, "batch mean");
      for (int64_t channel = 0; channel < shape.padded_channels(); ++channel) {
        ASSERT_NEAR(got.inv_std[channel] / expected.inv_std[channel], 1, 1e-6) << channel;
        if (channel >= shape.channels) continue;
        ASSERT_NEAR(got.variance[channel], expected.variance[channel], 1e-5) << channel;
      }
      expect_near(got.y.floats(), expected.y.floats(), 1e-5 + rounding(shape.type, 8), "y");
    });
  });
}

TEST(BatchNorm, BackwardIsNearThePlainLoopsOnEveryTarget) {
  for_each_target([] {
    for_each_case(kShapes, [](const BatchNormShape& shape, Variant variant) {
      const Case c = Case::of_normals(shape, variant, 3);
      const Forward f = forward_reference(c);
      const Backward expected = backward_reference(c, f), got = backward(c, f);
      expect_near(got.dbeta, expected.dbeta, 1e-4, "dbeta");
      expect_near(got.dgamma, expected.dgamma, 1e-4, "dgamma");
      expect_near(got.dx.floats(), expected.dx.floats(), 1e-5 + rounding(shape.type, 8), "dx");
      if (variant.addend) {
        EXPECT_EQ(got.g, expected.g);
      }
    });
  });
}

TEST(BatchNorm, InferenceHasTheBitsOfThePlainLoopsOnEveryTarget) {
  for_each_target([] {
    for_each_case(kShapes, [](const BatchNormShape& shape, Variant variant) {
      const Case c = Case::of_normals(shape, variant, 4);
      const std::vector<float> mean = normals(shape.channels, 5);
      std::vector<float> variance = normals(shape.channels, 6, 3, 0.5F);
      for (float& value : variance) value = std::abs(value);
      StoredTensor expected(shape.type, shape.elements()), y(expected);
      batch_norm_inference_reference(shape, c.forward_tensors(expected), mean.data(), variance.data());
      batch_norm_inference(shape, 1, c.forward_tensors(y), mean.data(), variance.data());
      EXPECT_EQ(y.floats(), expected.floats());
    });
  });
}

TEST(BatchNorm, BitsDependNeitherOnThreadsNorOnTheTarget) {
  for_each_case(kShapes, [](const BatchNormShape& shape, Variant variant) {
    const Case c = Case::of_normals(shape, variant, 7);
    const Forward f = forward(c);
    const Backward b = backward(c, f);
    for_each_target([&] {
      for (int threads = 1; threads <= 4; ++threads) {
        expect_equal(forward(c, threads), f);
        const Backward again = backward(c, f, threads);
        EXPECT_EQ(again.dx, b.dx);
        EXPECT_EQ(again.g, b.g);
        EXPECT_EQ(again.dgamma, b.dgamma);
        EXPECT_EQ(again.dbeta, b.dbeta);
      }
    });
  });
}

// ---- precision

// In double, from what is stored.
struct Moments {
  double mean = 0, squares = 0;
};
Moments moments_of(const BatchNormShape& shape, const std::vector<float>& x, int64_t channel) {
  Moments moments;
  const auto n = static_cast<double>(shape.images * shape.pixels);
  const auto for_each = [&](auto visit) {
    for (int64_t image = 0; image < shape.images; ++image) {
      for (int64_t pixel = 0; pixel < shape.pixels; ++pixel) visit(x[shape.offset(image, channel, pixel)]);
    }
  };
  for_each([&](double value) { moments.mean += value / n; });
  for_each([&](double value) { moments.squares += (value - moments.mean) * (value - moments.mean); });
  return moments;
}

void expect_precise_statistics(const Case& c) {
  const std::vector<float> x = c.x.floats();
  const Forward f = forward(c);
  const auto n = static_cast<double>(c.shape.images * c.shape.pixels);
  for (int64_t channel = 0; channel < c.shape.channels; ++channel) {
    const Moments exact = moments_of(c.shape, x, channel);
    EXPECT_NEAR(f.mean[channel], exact.mean,
                1e-6 * std::sqrt(exact.squares / n) + 0x1.1p-24 * std::abs(exact.mean));
    EXPECT_NEAR(f.variance[channel] / (exact.squares / (n - 1)), 1, 2e-6);
    EXPECT_NEAR(f.inv_std[channel] * std::sqrt(exact.squares / n + kBatchNormEpsilon), 1, 1e-6);
  }
}

TEST(BatchNorm, StatisticsArePreciseWhereTheMeanIsLargeBesideTheDeviation) {
  for (const int block : {16, 8, 1}) {
    const BatchNormShape shape{
        .tensor_images = 8, .images = 8, .channels = 16, .pixels = 1024, .block = block};
    for (const float mean : {-3000.0F, 3e4F})
      expect_precise_statistics(Case::of_normals(shape, {}, 8, mean, 0.1F));
  }
}

TEST(BatchNorm, StatisticsArePreciseWhereTheFirstPixelsAreUnlikeTheRest) {
  const BatchNormShape shape{.tensor_images = 8, .images = 8, .channels = 16, .pixels = 300, .block = 16};
  Case c = Case::of_normals(shape, {}, 9, 1000, 0.1F);
  std::fill_n(static_cast<float*>(c.x.data()), 256 * 16, -1e4F);
  expect_precise_statistics(c);
}

TEST(BatchNorm, OneValuePerChannelHasNoVariance) {
  const BatchNormShape shape{.tensor_images = 1, .images = 1, .channels = 16, .pixels = 1, .block = 16};
  const Case c = Case::of_normals(shape, {}, 10);
  const Forward f = forward(c);
  EXPECT_EQ(f.variance, std::vector<float>(16, 0));
  EXPECT_EQ(f.y.floats(), c.beta);
}

// ---- gradients against central differences in double

struct Inputs {
  std::vector<double> x, addend, gamma, beta;
};

// Sum of y times the gradients that backward is given; written down from the definition.
double loss_of(const Case& c, const Inputs& in) {
  const BatchNormShape& shape = c.shape;
  const std::vector<float> dy = c.dy.floats(), dy2 = c.dy2.floats();
  const auto n = static_cast<double>(shape.images * shape.pixels);
  double loss = 0;
  for (int64_t channel = 0; channel < shape.channels; ++channel) {
    const auto for_each = [&](auto visit) {
      for (int64_t image = 0; image < shape.images; ++image) {
        for (int64_t pixel = 0; pixel < shape.pixels; ++pixel) visit(shape.offset(image, channel, pixel));
      }
    };
    double mean = 0, variance = 0;
    for_each([&](int64_t place) { mean += in.x[place] / n; });
    for_each([&](int64_t place) { variance += (in.x[place] - mean) * (in.x[place] - mean) / n; });
    for_each([&](int64_t place) {
      double y = (in.x[place] - mean) / std::sqrt(variance + kBatchNormEpsilon) * in.gamma[channel] +
                 in.beta[channel];
      if (c.variant.addend) y += in.addend[place];
      if (c.variant.relu) y = std::max(y, 0.0);
      loss += y * (c.variant.joins ? double{dy[place]} + double{dy2[place]} : double{dy[place]});
    });
  }
  return loss;
}

double slope(const Case& c, Inputs& in, double& variable) {
  constexpr double kStep = 1e-5;
  const double at = variable;
  variable = at + kStep;
  const double above = loss_of(c, in);
  variable = at - kStep;
  const double below = loss_of(c, in);
  variable = at;
  return (above - below) / (2 * kStep);
}

TEST(BatchNorm, BackwardIsTheSlopeOfForward) {
  const auto doubles = [](const std::vector<float>& values) {
    return std::vector<double>(values.begin(), values.end());
  };
  for (const int block : {8, 1, 3}) {
    for (const Variant variant : all_variants()) {
      const BatchNormShape shape{.tensor_images = 3, .images = 2, .channels = 3, .pixels = 7, .block = block};
      const Case c = Case::of_normals(shape, variant, 11);
      Inputs in{doubles(c.x.floats()), doubles(c.addend.floats()), doubles(c.gamma), doubles(c.beta)};
      const Backward b = backward(c, forward(c));
      const std::vector<float> dx = b.dx.floats(), g = b.g.floats();
      for (int64_t channel = 0; channel < shape.channels; ++channel) {
        EXPECT_NEAR(b.dgamma[channel], slope(c, in, in.gamma[channel]), 2e-5);
        EXPECT_NEAR(b.dbeta[channel], slope(c, in, in.beta[channel]), 2e-5);
        for (int64_t image = 0; image < shape.images; ++image) {
          for (int64_t pixel = 0; pixel < shape.pixels; ++pixel) {
            const int64_t place = shape.offset(image, channel, pixel);
            EXPECT_NEAR(dx[place], slope(c, in, in.x[place]), 2e-5);
            if (variant.addend) {
              EXPECT_NEAR(g[place], slope(c, in, in.addend[place]), 2e-5);
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace annulus::batch_norm
