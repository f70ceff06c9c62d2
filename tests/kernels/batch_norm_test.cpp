#include "kernels/batch_norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "each_target.h"
#include "stored_tensor.h"

namespace annulus {
namespace {

constexpr float kUnwritten = std::numeric_limits<float>::quiet_NaN();

const BatchNormShape kShapes[] = {
    {.tensor_images = 3, .images = 3, .channels = 32, .pixels = 12, .block = 16},
    {.tensor_images = 4, .images = 2, .channels = 20, .pixels = 9, .block = 16},
    {.tensor_images = 2, .images = 2, .channels = 16, .pixels = 603, .block = 16},  // several stretches
    {.tensor_images = 3, .images = 2, .channels = 13, .pixels = 25, .block = 8},
    {.tensor_images = 3, .images = 3, .channels = 3, .pixels = 33, .block = 1},
    {.tensor_images = 2, .images = 1, .channels = 2, .pixels = 5, .block = 1},
    {.tensor_images = 1, .images = 1, .channels = 2, .pixels = 16 * 300 + 3, .block = 1},
    {.tensor_images = 3, .images = 2, .channels = 44, .pixels = 10, .block = 44},
    {.tensor_images = 2, .images = 2, .channels = 17, .pixels = 6, .block = 17},
    {.tensor_images = 2, .images = 1, .channels = 16, .pixels = 1, .block = 16},
};

struct Variant {
  bool relu = false, addend = false, joins = false;
};

std::vector<Variant> all_variants() {
  std::vector<Variant> all;
  for (int i = 0; i < 8; ++i) all.push_back({(i & 1) != 0, (i & 2) != 0, (i & 4) != 0});
  return all;
}

// Zeros the channels that pad the last block, as every input has them.
std::vector<float> with_padding(const BatchNormShape& shape, std::vector<float> values) {
  for (int64_t image = 0; image < shape.tensor_images; ++image) {
    for (int64_t channel = shape.channels; channel < shape.padded_channels(); ++channel) {
      for (int64_t pixel = 0; pixel < shape.pixels; ++pixel) values[shape.offset(image, channel, pixel)] = 0;
    }
  }
  return values;
}

// Inputs of forward and backward and what they make.
struct Case {
  BatchNormShape shape;
  Variant variant;
  StoredTensor x, addend, dy, dy2;
  std::vector<float> gamma, beta;

  static Case of_integers(const BatchNormShape& shape, Variant variant, unsigned seed) {
    const auto tensor = [&](int largest, unsigned salt) {
      return StoredTensor(shape.type, with_padding(shape, integers(shape.elements(), largest, seed + salt)));
    };
    return {shape,
            variant,
            tensor(1, 0),
            tensor(3, 1),
            tensor(4, 2),
            tensor(4, 3),
            integers(shape.channels, 3, seed + 4),
            integers(shape.channels, 3, seed + 5)};
  }

  static Case of_normals(const BatchNormShape& shape, Variant variant, unsigned seed, float mean = 0.5F,
                         float deviation = 2) {
    const auto tensor = [&](unsigned salt, float about, float spread) {
      return StoredTensor(shape.type,
                          with_padding(shape, normals(shape.elements(), seed + salt, about, spread)));
    };
    return {shape,
            variant,
            tensor(0, mean, deviation),
            tensor(1, 0, 1),
            tensor(2, 0.1F, 1),
            tensor(3, 0, 1),
            normals(shape.channels, seed + 4, 1, 0.3F),
            normals(shape.channels, seed + 5, 0, 0.5F)};
  }

  BatchNormForward forward_tensors(StoredTensor& y) const {
    return {.x = x.data(),
            .gamma = gamma.data(),
            .beta = beta.data(),
            .addend = variant.addend ? addend.data() : nullptr,
            .relu = variant.relu,
            .y = y.data()};
  }
};

struct Forward {
  explicit Forward(const BatchNormShape& shape)
      : y(shape.type, shape.elements()),
        mean(shape.padded_channels(), kUnwritten),
        inv_std(mean),
        batch_mean(shape.channels, kUnwritten),
        variance(batch_mean) {}
  BatchStatistics statistics() { return {mean.data(), inv_std.data(), batch_mean.data(), variance.data()}; }
  StoredTensor y;
  std::vector<float> mean, inv_std, batch_mean, variance;
};

struct Backward {
  explicit Backward(const BatchNormShape& shape)
      : dx(shape.type, shape.elements()),
        g(dx),
        dgamma(shape.channels, kUnwritten),
        dbeta(shape.channels, kUnwritten) {}
  StoredTensor dx, g;
  std::vector<float> dgamma, dbeta;
};

Forward forward_reference(const Case& c) {
  Forward result(c.shape);
  batch_norm_forward_reference(c.shape, c.forward_tensors(result.y), result.statistics());
  return result;
}

Forward forward(const Case& c, int threads = 1) {
  Forward result(c.shape);
  batch_norm_forward(c.shape, threads, c.forward_tensors(result.y), result.statistics());
  return result;
}

BatchNormBackward backward_tensors(const Case& c, const Forward& f, Backward& result) {
  return {.x = c.x.data(),
          .y = c.variant.relu ? f.y.data() : nullptr,
          .dy = c.dy.data(),
          .dy2 = c.variant.joins ? c.dy2.data() : nullptr,
          .mean = f.mean.data(),
          .inv_std = f.inv_std.data(),
          .gamma = c.gamma.data(),
          .dx = result.dx.data(),
          .diff_addend = c.variant.addend ? result.g.data() : nullptr,
          .dgamma = result.dgamma.data(),
          .dbeta = result.dbeta.data()};
}

Backward backward_reference(const Case& c, const Forward& f) {
  Backward result(c.shape);
  batch_norm_backward_reference(c.shape, backward_tensors(c, f, result));
  return result;
}

Backward backward(const Case& c, const Forward& f, int threads = 1) {
  Backward result(c.shape);
  batch_norm_backward(c.shape, threads, backward_tensors(c, f, result));
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

template <class Shapes, class Body>
void for_each_case(const Shapes& shapes, const Body& body) {
  for (BatchNormShape shape : shapes) {
    for (const DataType type : kStoredTypes) {
      shape.type = type;
      for (const Variant variant : all_variants()) {
        SCOPED_TRACE(name_of(type) + ", block " + std::to_string(shape.block) + ", channels " +
                     std::to_string(shape.channels) + ", pixels " + std::to_string(shape.pixels) +
                     (variant.relu ? ", ReLU" : "") + (variant.addend ? ", addend" : "") +
                     (variant.joins ? ", two gradients" : ""));
        body(shape, variant);
      }
    }
  }
}

void expect_equal(const Forward& got, const Forward& expected) {
  EXPECT_EQ(got.y, expected.y);
  EXPECT_EQ(got.mean, expected.mean);
  EXPECT_EQ(got.inv_std, expected.inv_std);
  EXPECT_EQ(got.batch_mean, expected.batch_mean);
  EXPECT_EQ(got.variance, expected.variance);
}

void expect_equal(const Backward& got, const Backward& expected) {
  EXPECT_EQ(got.dx, expected.dx);
  EXPECT_EQ(got.g, expected.g);
  EXPECT_EQ(got.dgamma, expected.dgamma);
  EXPECT_EQ(got.dbeta, expected.dbeta);
}

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

// ---- padding and shared buffers

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
}  // namespace annulus
