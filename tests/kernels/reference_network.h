// A network as plain loops in double precision: forward pass and loss only. Gradients to compare with come
// from central differences, so no formula of a backward pass is written down twice.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/network_spec.h"

namespace annulus {

using Doubles = std::vector<double>;

class ReferenceNetwork {
 public:
  explicit ReferenceNetwork(const NetworkSpec& spec) : spec_(spec) {}

  // Parameters as NetworkPlan lists them, in row-major order. `input`: images x channels x height x width.
  Doubles logits(const std::vector<Doubles>& parameters, const Doubles& input, int images) const {
    Doubles x = input;
    ImageShape shape = spec_.input;
    size_t next = 0;
    for (const LayerSpec& layer : spec_.layers) {
      const ImageShape out = output_shape(layer, shape);
      if (layer.kind == LayerKind::kMaxPool) {
        x = max_pool(layer, x, shape, out, images);
      } else {
        // A linear layer is a convolution whose filter covers the image.
        const bool linear = layer.kind == LayerKind::kLinear;
        const int height = linear ? shape.height : layer.kernel, width = linear ? shape.width : layer.kernel;
        x = convolution(layer, height, width, x, parameters[next], parameters[next + 1], shape, out, images);
        next += 2;
      }
      shape = out;
    }
    return x;
  }

  // Sum over images of softmax cross-entropy, times `scale`.
  double loss(const std::vector<Doubles>& parameters, const Doubles& input,
              const std::vector<uint8_t>& labels, double scale) const {
    const Doubles z = logits(parameters, input, static_cast<int>(labels.size()));
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
  static Doubles convolution(const LayerSpec& layer, int filter_height, int filter_width, const Doubles& x,
                             const Doubles& weights, const Doubles& bias, const ImageShape& in,
                             const ImageShape& out, int images) {
    Doubles y(images * out.pixels());
    size_t place = 0;
    for (int n = 0; n < images; ++n) {
      for (int o = 0; o < out.channels; ++o) {
        for (int row = 0; row < out.height; ++row) {
          for (int column = 0; column < out.width; ++column) {
            double sum = bias[o];
            for (int c = 0; c < in.channels; ++c) {
              for (int i = 0; i < filter_height; ++i) {
                const int from_row = row + i - layer.padding;
                if (from_row < 0 || from_row >= in.height) continue;
                for (int j = 0; j < filter_width; ++j) {
                  const int from_column = column + j - layer.padding;
                  if (from_column < 0 || from_column >= in.width) continue;
                  sum += x[((n * in.channels + c) * in.height + from_row) * in.width + from_column] *
                         weights[((o * in.channels + c) * filter_height + i) * filter_width + j];
                }
              }
            }
            y[place++] = layer.relu ? std::max(sum, 0.0) : sum;
          }
        }
      }
    }
    return y;
  }

  static Doubles max_pool(const LayerSpec& layer, const Doubles& x, const ImageShape& in,
                          const ImageShape& out, int images) {
    Doubles y(images * out.pixels());
    size_t place = 0;
    for (int plane = 0; plane < images * in.channels; ++plane) {
      for (int row = 0; row < out.height; ++row) {
        for (int column = 0; column < out.width; ++column) {
          double largest = -INFINITY;
          for (int i = 0; i < layer.kernel; ++i) {
            for (int j = 0; j < layer.kernel; ++j) {
              const int from_row = row * layer.kernel + i, from_column = column * layer.kernel + j;
              largest = std::max(largest, x[(plane * in.height + from_row) * in.width + from_column]);
            }
          }
          y[place++] = largest;
        }
      }
    }
    return y;
  }

  NetworkSpec spec_;
};

}  // namespace annulus
