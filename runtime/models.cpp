#include "runtime/models.h"

#include <algorithm>
#include <array>

#include "runtime/network_tree.h"
#include "runtime/network_yaml.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

using Nodes = std::vector<NetworkNode>;

NetworkNode convolution(int filters, int kernel, int stride = 1) {
  return {{.kind = LayerKind::kConvolution,
           .out = filters,
           .kernel = kernel,
           .stride = stride == 1 ? 0 : stride,
           .padding = kernel / 2,
           .bias = false}};
}
NetworkNode batch_norm(bool relu) { return {{.kind = LayerKind::kBatchNorm, .relu = relu}}; }
NetworkNode linear(int outputs, bool relu) {
  return {{.kind = LayerKind::kLinear, .out = outputs, .relu = relu}};
}
NetworkNode named(const char* name, NetworkNode node) {
  node.layer.name = name;
  return node;
}

Nodes mlp(int classes) { return {linear(256, true), linear(128, true), linear(classes, false)}; }

Nodes simple_cnn(int classes) {
  const auto filters = [](int count) {
    return NetworkNode{{.kind = LayerKind::kConvolution, .out = count, .kernel = 3, .relu = true}};
  };
  const NetworkNode pool{{.kind = LayerKind::kMaxPool, .kernel = 2}};
  return {filters(32), pool, filters(64), pool, linear(128, true), linear(classes, false)};
}

// Two 3x3 convolutions, the first with the stride.
Nodes basic_block(int width, int stride) {
  return {convolution(width, 3, stride), batch_norm(true), convolution(width, 3), batch_norm(false)};
}

// 1x1 down, 3x3 with the stride, 1x1 up to four times the width.
Nodes bottleneck(int width, int stride) {
  return {convolution(width, 1), batch_norm(true),          convolution(width, 3, stride),
          batch_norm(true),      convolution(4 * width, 1), batch_norm(false)};
}

struct ResNet {
  Nodes (*block)(int width, int stride);
  int expansion;              // a block's output channels, in units of its width
  std::array<int, 4> blocks;  // of each of the four groups
};

Nodes resnet(const ResNet& net, const std::string& stem, int classes) {
  Nodes nodes;
  if (stem == "imagenet") {
    nodes = {convolution(64, 7, 2), batch_norm(true),
             named("maxpool", {{.kind = LayerKind::kMaxPool, .kernel = 3, .stride = 2, .padding = 1}})};
  } else {
    nodes = {convolution(64, 3), batch_norm(true)};
  }
  int channels = 64;
  for (int group = 0; group < 4; ++group) {
    const int width = 64 << group;
    for (int k = 0; k < net.blocks[group]; ++k) {
      const int stride = group > 0 && k == 0 ? 2 : 1;
      NetworkNode block{{.kind = LayerKind::kAdd,
                         .name = "layer" + std::to_string(group + 1) + "." + std::to_string(k),
                         .relu = true}};
      block.layers = net.block(width, stride);
      if (stride != 1 || channels != net.expansion * width) {
        block.shortcut = {convolution(net.expansion * width, 1, stride), batch_norm(false)};
      }
      channels = net.expansion * width;
      nodes.push_back(std::move(block));
    }
  }
  nodes.push_back(named("avgpool", {{.kind = LayerKind::kAveragePool}}));
  nodes.push_back(named("fc", linear(classes, false)));
  return nodes;
}

Nodes nodes_of(const std::string& model, const std::string& stem, int classes) {
  if (model == "mlp") return mlp(classes);
  if (model == "simplecnn") return simple_cnn(classes);
  if (model == "resnet18") return resnet({basic_block, 1, {2, 2, 2, 2}}, stem, classes);
  if (model == "resnet50") return resnet({bottleneck, 4, {3, 4, 6, 3}}, stem, classes);
  throw UserError::format("there is no model \"{}\"; there are {}", model, fmt::join(model_names(), ", "));
}

}  // namespace

const std::vector<std::string>& model_names() {
  static const std::vector<std::string> names = {"mlp", "simplecnn", "resnet18", "resnet50"};
  return names;
}

const std::vector<std::string>& stem_names() {
  static const std::vector<std::string> names = {"cifar", "imagenet"};
  return names;
}

bool has_stem(const std::string& model) { return model.starts_with("resnet"); }

NetworkSpec make_network(const std::string& model, const ImageShape& input, int classes,
                         const std::string& stem) {
  if (has_stem(model) && std::ranges::find(stem_names(), stem) == stem_names().end()) {
    throw UserError::format("there is no stem \"{}\"; there are {}", stem, fmt::join(stem_names(), ", "));
  }
  NetworkSpec spec{.name = model,
                   .input = input,
                   .classes = classes,
                   .layers = flatten(nodes_of(model, stem, classes)).layers};
  (void)activation_shapes(spec);
  return spec;
}

bool is_network_file(const std::string& model) {
  return model.find('/') != std::string::npos || model.ends_with(".yaml") || model.ends_with(".yml");
}

NetworkSpec choose_network(const std::string& model, const std::string& stem, const ImageShape& input,
                           int classes) {
  return is_network_file(model) ? resolve_network(read_network(model), input, classes)
                                : make_network(model, input, classes, stem);
}

}  // namespace annulus
