// Batch norm as its tests run it: shapes, inputs, and what the kernels and the plain loops make of them.
#pragma once

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "kernels/batch_norm.h"
#include "stored_tensor.h"

namespace annulus::batch_norm {

inline constexpr float kUnwritten = std::numeric_limits<float>::quiet_NaN();

inline const BatchNormShape kShapes[] = {
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

inline std::vector<Variant> all_variants() {
  std::vector<Variant> all;
  for (int i = 0; i < 8; ++i) all.push_back({(i & 1) != 0, (i & 2) != 0, (i & 4) != 0});
  return all;
}

// Zeros the channels that pad the last block, as every input has them.
inline std::vector<float> with_padding(const BatchNormShape& shape, std::vector<float> values) {
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

inline Forward forward(const Case& c, int threads = 1) {
  Forward result(c.shape);
  batch_norm_forward(c.shape, threads, c.forward_tensors(result.y), result.statistics());
  return result;
}

inline BatchNormBackward backward_tensors(const Case& c, const Forward& f, Backward& result) {
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

inline Backward backward(const Case& c, const Forward& f, int threads = 1) {
  Backward result(c.shape);
  batch_norm_backward(c.shape, threads, backward_tensors(c, f, result));
  return result;
}

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

inline void expect_equal(const Forward& got, const Forward& expected) {
  EXPECT_EQ(got.y, expected.y);
  EXPECT_EQ(got.mean, expected.mean);
  EXPECT_EQ(got.inv_std, expected.inv_std);
  EXPECT_EQ(got.batch_mean, expected.batch_mean);
  EXPECT_EQ(got.variance, expected.variance);
}

inline void expect_equal(const Backward& got, const Backward& expected) {
  EXPECT_EQ(got.dx, expected.dx);
  EXPECT_EQ(got.g, expected.g);
  EXPECT_EQ(got.dgamma, expected.dgamma);
  EXPECT_EQ(got.dbeta, expected.dbeta);
}

}  // namespace annulus::batch_norm
