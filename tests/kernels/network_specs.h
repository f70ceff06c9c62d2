// Small networks that tests of Network run: every kind of layer first, in the middle and behind every other;
// sizes that fill blocks and sizes that do not.
#pragma once

#include <ostream>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "kernels/network_spec.h"
#include "runtime/models.h"

namespace annulus {

inline void PrintTo(const NetworkSpec& spec, std::ostream* out) { *out << spec.name; }

inline LayerSpec conv(const char* name, int out, int kernel, int padding, bool relu) {
  return {.kind = LayerKind::kConvolution,
          .name = name,
          .out = out,
          .kernel = kernel,
          .padding = padding,
          .relu = relu};
}
inline LayerSpec pool(const char* name, int window, int stride = 0, int padding = 0) {
  return {.kind = LayerKind::kMaxPool, .name = name, .kernel = window, .stride = stride, .padding = padding};
}
inline LayerSpec fc(const char* name, int out, bool relu) {
  return {.kind = LayerKind::kLinear, .name = name, .out = out, .relu = relu};
}

inline LayerSpec bare_conv(const char* name, int out, int kernel, int stride,
                           int input = kPreviousActivation) {
  LayerSpec layer = conv(name, out, kernel, kernel / 2, false);
  layer.stride = stride;
  layer.bias = false;
  layer.input = input;
  return layer;
}
inline LayerSpec norm(const char* name, bool relu, int addend = kNoActivation) {
  return {.kind = LayerKind::kBatchNorm, .name = name, .relu = relu, .addend = addend};
}
inline LayerSpec sum(const char* name, bool relu, int addend) {
  return {.kind = LayerKind::kAdd, .name = name, .relu = relu, .addend = addend};
}
inline LayerSpec average(const char* name) { return {.kind = LayerKind::kAveragePool, .name = name}; }

inline NetworkSpec net(const char* name, ImageShape input, std::vector<LayerSpec> layers) {
  const int classes = layers.back().out;
  return {name, input, classes, std::move(layers)};
}

inline std::vector<NetworkSpec> small_networks() {
  return {
      net("linear", {2, 4, 4}, {fc("fc1", 5, false)}),
      net("linear_relu", {1, 5, 5}, {fc("fc1", 33, true), fc("fc2", 7, true), fc("fc3", 3, false)}),
      net("last_relu", {1, 5, 5}, {fc("fc1", 16, false), fc("fc2", 4, true)}),
      net("conv_padded", {3, 6, 6}, {conv("conv1", 16, 3, 1, true), fc("fc1", 4, false)}),
      net("conv_conv", {16, 7, 7},
          {conv("conv1", 32, 3, 1, true), conv("conv2", 16, 1, 0, false), conv("conv3", 48, 3, 0, true),
           fc("fc1", 10, false)}),
      net("conv_pool", {1, 9, 9}, {conv("conv1", 32, 3, 0, false), pool("pool1", 2), fc("fc1", 10, false)}),
      net("conv_relu_pool", {3, 12, 11},
          {conv("conv1", 32, 5, 2, true), pool("pool1", 3), conv("conv2", 64, 3, 1, true), pool("pool2", 2),
           fc("fc1", 20, true), fc("fc2", 10, false)}),
      net("odd_channels", {3, 8, 8},
          {conv("conv1", 20, 3, 1, true), pool("pool1", 2), conv("conv2", 10, 3, 1, true), fc("fc1", 9, true),
           fc("fc2", 3, false)}),
      net("odd_behind", {3, 8, 8},
          {conv("conv1", 16, 3, 1, true), bare_conv("conv2", 20, 3, 1), norm("bn1", true), pool("pool1", 2),
           conv("conv3", 10, 3, 1, true), fc("fc1", 9, true), fc("fc2", 3, false)}),
      // Blocks of channels that are mostly padding.
      net("few_channels", {1, 8, 8},
          {conv("conv1", 6, 3, 1, true), pool("pool1", 2), conv("conv2", 3, 3, 1, false),
           conv("conv3", 17, 3, 0, true), fc("fc1", 3, false)}),
      net("few_channels_bn", {3, 6, 6},
          {bare_conv("conv1", 5, 3, 1), norm("bn1", true), bare_conv("conv2", 5, 3, 1), norm("bn2", true, 2),
           average("pool"), fc("fc1", 4, false)}),
      net("pool_first", {3, 8, 8}, {pool("pool1", 2), conv("conv1", 16, 3, 0, true), fc("fc1", 3, false)}),
      net("bn", {3, 7, 7},
          {bare_conv("conv1", 16, 3, 1), norm("bn1", true), average("pool"), fc("fc1", 5, false)}),
      net("bn_without_relu", {1, 6, 6},
          {bare_conv("conv1", 20, 3, 1), norm("bn1", false), fc("fc1", 5, false)}),
      // Activation 2 forks: bn2 adds it, conv2 reads it.
      net("residual", {3, 6, 6},
          {bare_conv("conv1", 16, 3, 1), norm("bn1", true), bare_conv("conv2", 16, 3, 1),
           norm("bn2", true, 2), average("pool"), fc("fc1", 4, false)}),
      // Activation 2 forks into two convolutions, whose outputs are added; activation 6 forks again.
      net("downsample", {3, 8, 8},
          {bare_conv("conv1", 16, 3, 1), norm("bn1", true), bare_conv("down", 32, 1, 2),
           norm("bn_down", false), bare_conv("conv2", 32, 3, 2, 2), norm("bn2", true, 4),
           bare_conv("conv3", 32, 3, 1), norm("bn3", true, 6), average("pool"), fc("fc1", 4, false)}),
      // No ReLU and no maximum: bf16 has nothing to choose otherwise than fp32 does.
      net("smooth", {3, 8, 8},
          {bare_conv("conv1", 16, 3, 1), norm("bn1", false), bare_conv("conv2", 16, 3, 1),
           norm("bn2", false, 2), bare_conv("conv3", 24, 3, 2), conv("conv4", 24, 1, 0, false),
           sum("add1", false, 5), fc("fc1", 12, false), fc("fc2", 5, false)}),
      // Sums without batch norm, of an activation that three layers read.
      net("sums", {16, 5, 5},
          {conv("conv1", 16, 3, 1, true), conv("conv2", 16, 3, 1, false), sum("add1", true, 1),
           conv("conv3", 16, 1, 0, false), sum("add2", false, 1), fc("fc1", 4, false)}),
      // The first convolution's ReLU is masked where two gradients meet.
      net("wide", {3, 6, 6},
          {bare_conv("conv1", 64, 3, 1), norm("bn1", true), bare_conv("conv2", 64, 3, 1), norm("bn2", true),
           bare_conv("conv3", 64, 3, 1), norm("bn3", true, 2), average("pool"), fc("fc1", 10, false)}),
      // The stem of ImageNet's networks, with windows that overlap and reach over the edge.
      net("stem", {3, 21, 21},
          {bare_conv("conv1", 16, 7, 2), norm("bn1", true), pool("maxpool", 3, 2, 1),
           bare_conv("conv2", 16, 3, 1), norm("bn2", true, 3), average("pool"), fc("fc1", 4, false)}),
      net("overlapping_pool", {2, 9, 8},
          {conv("conv1", 20, 3, 1, true), pool("pool1", 3, 1, 1), pool("pool2", 3, 2, 0),
           conv("conv2", 16, 3, 1, true), fc("fc1", 3, false)}),
      // Pooling leaves images of one pixel. (On AVX2 oneDNN has no fast 3x3 kernels for those.)
      net("one_pixel", {3, 4, 4},
          {conv("conv1", 16, 3, 1, true), pool("pool1", 4), conv("conv2", 32, 1, 0, true),
           bare_conv("conv3", 24, 1, 1), norm("bn1", true), average("pool"), fc("fc1", 5, false)}),
      make_network("mlp", {1, 12, 12}, 10),
      make_network("simplecnn", {1, 12, 12}, 10),
      make_network("simplecnn", {3, 13, 11}, 10),
  };
}

// A convolution, then more of them, norms with and without shortcuts, and sums, each of any earlier
// activations.
inline NetworkSpec random_graph(std::mt19937& random, int channels) {
  NetworkSpec spec{.name = "random", .input = {3, 4, 4}, .classes = 3, .layers = {}};
  std::set<int> unread;
  const auto push = [&](LayerSpec layer) {
    layer.name = "layer" + std::to_string(spec.layers.size());
    layer.relu = random() % 2 == 0;
    unread.erase(layer.input);
    unread.erase(layer.addend);
    spec.layers.push_back(layer);
    unread.insert(static_cast<int>(spec.layers.size()));
  };
  push(bare_conv("", channels, 3, 1, 0));
  const auto pick = [&] { return 1 + static_cast<int>(random() % spec.layers.size()); };
  const int layers = 1 + static_cast<int>(random() % 12);
  for (int k = 0; k < layers; ++k) {
    const int input = random() % 3 == 0 ? pick() : static_cast<int>(spec.layers.size());
    const int kind = static_cast<int>(random() % 4);
    if (kind < 2) push(bare_conv("", channels, 3, 1, input));
    if (kind == 2) {
      push({.kind = LayerKind::kBatchNorm,
            .input = input,
            .addend = random() % 2 == 0 ? pick() : kNoActivation});
    }
    if (kind == 3) push({.kind = LayerKind::kAdd, .input = input, .addend = pick()});
  }
  while (unread.size() > 1) {
    push({.kind = LayerKind::kAdd, .input = *unread.begin(), .addend = *unread.rbegin()});
  }
  spec.layers.push_back(fc("fc", spec.classes, false));
  return spec;
}

// For whoever has to look into a failure.
inline std::string text_of(const NetworkSpec& spec) {
  std::string text;
  for (const LayerSpec& layer : spec.layers) {
    text += layer.name + ": kind " + std::to_string(static_cast<int>(layer.kind)) + " reads " +
            std::to_string(layer.input) + " adds " + std::to_string(layer.addend) +
            (layer.relu ? " relu\n" : "\n");
  }
  return text;
}

}  // namespace annulus
