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
    {.tensor_images = 3, .images = 3, .channels = 3, .pixels = 37, .block = 1},
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
            tensor(8, 0),
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

template <class Body>
void for_each_case(const Body& body) {
  for (BatchNormShape shape : kShapes) {
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

// Means of integers are seldom numbers of fp32: elements differ in their last bits.
TEST(BatchNorm, ForwardIsNearThePlainLoopsOnEveryTarget) {
  for_each_target([] {
    for_each_case([](const BatchNormShape& shape, Variant variant) {
      const Case c = Case::of_normals(shape, variant, 1);
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
    for_each_case([](const BatchNormShape& shape, Variant variant) {
      const Case c = Case::of_normals(shape, variant, 2);
      const Forward f = forward_reference(c);
      const Backward expected = backward_reference(c, f), got = backward(c, f);
      expect_near(got.dbeta, expected.dbeta, 1e-3, "dbeta");
      expect_near(got.dgamma, expected.dgamma, 1e-3, "dgamma");
      expect_near(got.dx.floats(), expected.dx.floats(), 1e-5 + rounding(shape.type, 8), "dx");
      if (variant.addend) {
        EXPECT_EQ(got.g, expected.g);
      }
    });
  });
}

}  // namespace
}  // namespace annulus
