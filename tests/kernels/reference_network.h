// A network as plain loops in double precision: forward pass, loss and statistics only. Gradients to compare
// with come from central differences, so no formula of a backward pass is written down twice.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/network_spec.h"

namespace annulus {

using Doubles = std::vector<double>;

class ReferenceNetwork {
 public:
  static constexpr double kBatchNormEpsilon = 1e-5;

  explicit ReferenceNetwork(const NetworkSpec& spec) : spec_(spec), shapes_(activation_shapes(spec)) {}

  // Parameters as NetworkPlan lists them, in row-major order: of each layer weight, then bias if it has one;
  // of a batch norm also running_mean and running_var, which training does not read: mean and variance are
  // those of the given images. `input`: images x channels x height x width.
  Doubles logits(const std::vector<Doubles>& parameters, const Doubles& input, int images) const {
    return activations(parameters, input, images, true).back();
  }
  // The same with the running statistics in place of the images' own.
  Doubles inference_logits(const std::vector<Doubles>& parameters, const Doubles& input, int images) const {
    return activations(parameters, input, images, false).back();
  }

  // Mean and variance of each channel of what batch norm `layer` reads; the variance is the sum of squares
  // over n - 1, or 0 where n = 1.
  struct Statistics {
    Doubles mean, unbiased_variance;
  };
  Statistics statistics(int layer, const std::vector<Doubles>& parameters, const Doubles& input,
                        int images) const {
    const int read = input_of(spec_, layer);
    const Doubles x = activations(parameters, input, images, true)[read];
    const int channels = shapes_[read].channels, pixels = shapes_[read].height * shapes_[read].width;
    const double count = double(images) * pixels;
    Statistics result{Doubles(channels), Doubles(channels)};
    for (int c = 0; c < channels; ++c) {
      each_of_channel(c, shapes_[read], images, [&](size_t i) { result.mean[c] += x[i] / count; });
      each_of_channel(c, shapes_[read], images, [&](size_t i) {
        const double away = x[i] - result.mean[c];
        if (count > 1) result.unbiased_variance[c] += away * away / (count - 1);
      });
    }
    return result;
  }

  // Sum over images of softmax cross-entropy, times `scale`.
  double loss(const std::vector<Doubles>& parameters, const Doubles& input,
              const std::vector<uint8_t>& labels, double scale) const {
    return cross_entropy(logits(parameters, input, static_cast<int>(labels.size())), labels, scale);
  }
  double cross_entropy(const Doubles& z, const std::vector<uint8_t>& labels, double scale) const {
    double sum = 0;
    for (size_t image = 0; image < labels.size(); ++image) {
      const double* row = z.data() + image * spec_.classes;
      const double largest = *std::max_element(row, row + spec_.classes);
      double total = 0;
      for (int c = 0; c < spec_.classes; ++c) total += std::exp(row[c] - largest);
      sum += std::log(total) + largest - row[labels[image]];
    }
    return scale * sum;
  }

 private:
  std::vector<Doubles> activations(const std::vector<Doubles>& parameters, const Doubles& input, int images,
                                   bool training) const {
    std::vector<Doubles> activations{input};
    const Doubles* next = parameters.data();
    for (int index = 0; index < static_cast<int>(spec_.layers.size()); ++index) {
      const LayerSpec& layer = spec_.layers[index];
      const Doubles& x = activations[input_of(spec_, index)];
      const ImageShape &in = shapes_[input_of(spec_, index)], &out = shapes_[index + 1];
      Doubles y;
      switch (layer.kind) {
        case LayerKind::kConvolution:
        case LayerKind::kLinear:
          y = convolution(layer, x, next, in, out, images);
          next += layer.bias ? 2 : 1;
          break;
        case LayerKind::kBatchNorm:
          y = training ? batch_norm(x, next, in, images) : running_norm(x, next, in, images);
          next += 4;
          break;
        case LayerKind::kMaxPool:
          y = max_pool(layer, x, in, out, images);
          break;
        case LayerKind::kAveragePool:
          y = average_pool(x, in, images);
          break;
        case LayerKind::kAdd:
          y = x;
          break;
      }
      if (layer.addend != kNoActivation) {
        for (size_t i = 0; i < y.size(); ++i) y[i] += activations[layer.addend][i];
      }
      if (layer.relu) {
        for (double& value : y) value = std::max(value, 0.0);
      }
      activations.push_back(std::move(y));
    }
    return activations;
  }

  // A linear layer is a convolution whose filter covers the image.
  static Doubles convolution(const LayerSpec& layer, const Doubles& x, const Doubles* parameters,
                             const ImageShape& in, const ImageShape& out, int images) {
    const bool linear = layer.kind == LayerKind::kLinear;
    const int filter_height = linear ? in.height : layer.kernel;
    const int filter_width = linear ? in.width : layer.kernel;
    const int stride = stride_of(layer);
    const Doubles& weights = parameters[0];
    Doubles y(images * out.pixels());
    size_t place = 0;
    for (int n = 0; n < images; ++n) {
      for (int o = 0; o < out.channels; ++o) {
        for (int row = 0; row < out.height; ++row) {
          for (int column = 0; column < out.width; ++column) {
            double sum = layer.bias ? parameters[1][o] : 0;
            for (int c = 0; c < in.channels; ++c) {
              for (int i = 0; i < filter_height; ++i) {
                const int from_row = row * stride + i - layer.padding;
                if (from_row < 0 || from_row >= in.height) continue;
                for (int j = 0; j < filter_width; ++j) {
                  const int from_column = column * stride + j - layer.padding;
                  if (from_column < 0 || from_column >= in.width) continue;
                  sum += x[((n * in.channels + c) * in.height + from_row) * in.width + from_column] *
                         weights[((o * in.channels + c) * filter_height + i) * filter_width + j];
                }
              }
            }
            y[place++] = sum;
          }
        }
      }
    }
    return y;
  }

  // Places of a channel's elements.
  template <typename Visit>
  static void each_of_channel(int channel, const ImageShape& shape, int images, const Visit& visit) {
    const int pixels = shape.height * shape.width;
    for (int n = 0; n < images; ++n) {
      for (int i = 0; i < pixels; ++i) visit((n * shape.channels + channel) * pixels + i);
    }
  }

  // The variance is the biased one, over all images and pixels of a channel.
  static Doubles batch_norm(const Doubles& x, const Doubles* parameters, const ImageShape& in, int images) {
    const double count = double(images) * in.height * in.width;
    Doubles y(x.size());
    for (int c = 0; c < in.channels; ++c) {
      double sum = 0, squares = 0;
      each_of_channel(c, in, images, [&](size_t i) { sum += x[i]; });
      const double mean = sum / count;
      each_of_channel(c, in, images, [&](size_t i) { squares += (x[i] - mean) * (x[i] - mean); });
      const double factor = parameters[0][c] / std::sqrt(squares / count + kBatchNormEpsilon);
      each_of_channel(c, in, images, [&](size_t i) { y[i] = (x[i] - mean) * factor + parameters[1][c]; });
    }
    return y;
  }

  static Doubles running_norm(const Doubles& x, const Doubles* parameters, const ImageShape& in, int images) {
    const Doubles &weight = parameters[0], &bias = parameters[1];
    const Doubles &mean = parameters[2], &variance = parameters[3];
    Doubles y(x.size());
    for (int c = 0; c < in.channels; ++c) {
      const double factor = weight[c] / std::sqrt(variance[c] + kBatchNormEpsilon);
      each_of_channel(c, in, images, [&](size_t i) { y[i] = (x[i] - mean[c]) * factor + bias[c]; });
    }
    return y;
  }

  // Padding is left out of the windows.
  static Doubles max_pool(const LayerSpec& layer, const Doubles& x, const ImageShape& in,
                          const ImageShape& out, int images) {
    const int stride = stride_of(layer);
    Doubles y(images * out.pixels());
    size_t place = 0;
    for (int plane = 0; plane < images * in.channels; ++plane) {
      for (int row = 0; row < out.height; ++row) {
        for (int column = 0; column < out.width; ++column) {
          double largest = -INFINITY;
          for (int i = 0; i < layer.kernel; ++i) {
            const int from_row = row * stride + i - layer.padding;
            if (from_row < 0 || from_row >= in.height) continue;
            for (int j = 0; j < layer.kernel; ++j) {
              const int from_column = column * stride + j - layer.padding;
              if (from_column < 0 || from_column >= in.width) continue;
              largest = std::max(largest, x[(plane * in.height + from_row) * in.width + from_column]);
            }
          }
          y[place++] = largest;
        }
      }
    }
    return y;
  }

  static Doubles average_pool(const Doubles& x, const ImageShape& in, int images) {
    const int pixels = in.height * in.width;
    Doubles y(images * in.channels);
    for (size_t plane = 0; plane < y.size(); ++plane) {
      for (int i = 0; i < pixels; ++i) y[plane] += x[plane * pixels + i];
      y[plane] /= pixels;
    }
    return y;
  }

  NetworkSpec spec_;
  std::vector<ImageShape> shapes_;  // of all activations
};

}  // namespace annulus
