#include "runtime/network_tree.h"

#include <fmt/format.h>

#include <array>
#include <span>
#include <stdexcept>

#include "telemetry/check.h"

namespace annulus {
namespace {

const char* usual_word(LayerKind kind) {
  switch (kind) {
    case LayerKind::kConvolution:
      return "conv";
    case LayerKind::kBatchNorm:
      return "bn";
    case LayerKind::kMaxPool:
      return "pool";
    case LayerKind::kAveragePool:
      return "avgpool";
    case LayerKind::kAdd:
      return "block";
    case LayerKind::kLinear:
      return "fc";
  }
  return "";
}

enum class Place { kMain, kShortcut };

std::vector<std::string> usual_names(const std::vector<NetworkNode>& nodes, Place place) {
  std::vector<std::string> names;
  std::array<int, 6> seen{};
  for (size_t i = 0; i < nodes.size(); ++i) {
    const LayerKind kind = nodes[i].layer.kind;
    const int number = ++seen[static_cast<size_t>(kind)];
    names.push_back(place == Place::kShortcut ? fmt::format("downsample.{}", i)
                                              : fmt::format("{}{}", usual_word(kind), number));
  }
  return names;
}

// Whether the block's last layer does the block's sum.
bool is_fused(const NetworkNode& block) {
  const NetworkNode& last = block.layers.back();
  return last.layer.kind == LayerKind::kBatchNorm && !last.layer.relu;
}

class Flattener {
 public:
  // Appends `nodes`, which begin at activation `at`; returns the activation that they end with.
  int append(const std::vector<NetworkNode>& nodes, const std::string& prefix, Place place, int at) {
    const std::vector<std::string> usual = usual_names(nodes, place);
    for (size_t i = 0; i < nodes.size(); ++i) at = append(nodes[i], prefix, usual[i], at);
    return at;
  }
  FlatNetwork take() { return std::move(flat_); }

 private:
  int append(const NetworkNode& node, const std::string& prefix, const std::string& usual, int at) {
    const std::string name = prefix + (node.layer.name.empty() ? usual : node.layer.name);
    return node.is_block() ? append_block(node, name, at) : append_layer(node.layer, name, node.line, at);
  }

  int append_block(const NetworkNode& block, const std::string& name, int at) {
    CHECK(!block.layers.empty());
    const std::string prefix = name + ".";
    const bool fused = is_fused(block);
    const std::vector<std::string> usual = usual_names(block.layers, Place::kMain);
    int end = at;
    for (size_t i = 0; i + (fused ? 1 : 0) < block.layers.size(); ++i) {
      end = append(block.layers[i], prefix, usual[i], end);
    }
    const int addend = append(block.shortcut, prefix, Place::kShortcut, at);
    LayerSpec join = fused ? block.layers.back().layer : LayerSpec{.kind = LayerKind::kAdd, .name = "add"};
    if (join.name.empty()) join.name = usual.back();
    join.relu = block.layer.relu;
    join.addend = addend;
    return append_layer(join, prefix + join.name, fused ? block.layers.back().line : block.line, end);
  }

  int append_layer(LayerSpec layer, const std::string& name, int line, int at) {
    const int previous = static_cast<int>(flat_.layers.size());
    layer.name = name;
    layer.input = at == previous ? kPreviousActivation : at;
    flat_.layers.push_back(std::move(layer));
    flat_.lines.push_back(line);
    return previous + 1;
  }

  FlatNetwork flat_;
};

[[noreturn]] void not_nested(const LayerSpec& layer) {
  throw std::invalid_argument("layer " + layer.name + " is not part of a row of layers or residual blocks");
}

class Nester {
 public:
  explicit Nester(const std::vector<LayerSpec>& layers) : layers_(layers) {}

  // Layers [begin, end), the first of which reads activation `at`.
  std::vector<NetworkNode> nest(int begin, int end, int at, const std::string& prefix, Place place) const {
    std::vector<NetworkNode> nodes;
    for (int i = begin; i < end; ++i) {
      const int join = outermost_join(i, end, at);
      if (join < 0) {
        nodes.push_back(plain(i, prefix));
      } else {
        nodes.push_back(block(i, join, at, prefix));
        i = join;
      }
      at = i + 1;
    }
    leave_out_usual(nodes, place);
    return nodes;
  }

 private:
  int input(int index) const {
    return layers_[index].input == kPreviousActivation ? index : layers_[index].input;
  }
  // Without a shortcut of its own a block adds what it began with.
  bool has_shortcut(int join) const { return layers_[join].addend == join && input(join) != join; }

  // The last layer of [first, end) that does the sum of a block which begins at activation `at`; -1: none.
  int outermost_join(int first, int end, int at) const {
    for (int join = end - 1; join >= first; --join) {
      if (layers_[join].addend == kNoActivation) continue;
      // The first layer of the shortcut reads what the block reads.
      if ((has_shortcut(join) ? input(input(join)) : layers_[join].addend) == at) return join;
    }
    return -1;
  }

  NetworkNode plain(int index, const std::string& prefix) const {
    NetworkNode node{.layer = layers_[index]};
    if (node.layer.kind == LayerKind::kAdd || !node.layer.name.starts_with(prefix)) not_nested(node.layer);
    node.layer.name.erase(0, prefix.size());
    node.layer.input = kPreviousActivation;
    node.layer.addend = kNoActivation;
    return node;
  }

  NetworkNode block(int first, int join, int at, const std::string& prefix) const {
    const LayerSpec& sum = layers_[join];
    const size_t dot = sum.name.rfind('.');
    if (dot == std::string::npos || dot <= prefix.size() || !sum.name.starts_with(prefix)) not_nested(sum);
    const std::string inner = sum.name.substr(0, dot + 1);
    NetworkNode node{.layer = {.kind = LayerKind::kAdd,
                               .name = inner.substr(prefix.size(), dot - prefix.size()),
                               .relu = sum.relu}};
    const bool fused = sum.kind == LayerKind::kBatchNorm;
    // A block whose only layer does the sum has nothing before its shortcut.
    const int split = !has_shortcut(join) ? join : input(join) == at ? first : input(join);
    if (split < first || split > join) not_nested(sum);
    node.layers = nest(first, split, at, inner, Place::kMain);
    if (fused) {
      node.layers.push_back(plain(join, inner));
      node.layers.back().layer.relu = false;
      leave_out_usual(node.layers, Place::kMain);
    }
    if (node.layers.empty()) not_nested(sum);
    node.shortcut = nest(split, join, at, inner, Place::kShortcut);
    return node;
  }

  static void leave_out_usual(std::vector<NetworkNode>& nodes, Place place) {
    const std::vector<std::string> usual = usual_names(nodes, place);
    for (size_t i = 0; i < nodes.size(); ++i) {
      if (nodes[i].layer.name == usual[i]) nodes[i].layer.name.clear();
    }
  }

  const std::vector<LayerSpec>& layers_;
};

}  // namespace

FlatNetwork flatten(const std::vector<NetworkNode>& nodes) {
  Flattener flattener;
  flattener.append(nodes, "", Place::kMain, 0);
  return flattener.take();
}

std::vector<NetworkNode> nest(const std::vector<LayerSpec>& layers) {
  std::vector<NetworkNode> nodes =
      Nester(layers).nest(0, static_cast<int>(layers.size()), 0, "", Place::kMain);
  const FlatNetwork again = flatten(nodes);
  for (size_t i = 0; i < layers.size(); ++i) {
    if (i >= again.layers.size() || again.layers[i] != layers[i]) not_nested(layers[i]);
  }
  return nodes;
}

}  // namespace annulus
