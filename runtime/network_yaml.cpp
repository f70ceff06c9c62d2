#include "runtime/network_yaml.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <map>
#include <utility>

#include "kernels/max_pool.h"
#include "telemetry/error.h"
#include "telemetry/nearest_name.h"
#include "telemetry/text_file.h"

namespace annulus {
namespace {

// Limits that keep products inside 64 bits, and a file that repeats itself by aliases from filling memory.
constexpr int kMostOutputs = 65'536;
constexpr int kLargestKernel = 255;
constexpr int kLargestSide = 65'536;
constexpr int kMostLayers = 4'096;
constexpr int kDeepestBlock = 8;
constexpr size_t kLongestName = 64;

// What each kind of layer is called, which settings it has, and which of them it must have.
struct Kind {
  LayerKind kind;
  std::string word;
  std::vector<std::string> settings;
  std::vector<std::string> needed;
};
const std::vector<Kind>& kinds() {
  static const std::vector<Kind> all = {
      {LayerKind::kConvolution,
       "conv",
       {"name", "out", "kernel", "stride", "padding", "bias", "relu"},
       {"out", "kernel"}},
      {LayerKind::kBatchNorm, "batch_norm", {"name", "relu"}, {}},
      {LayerKind::kMaxPool, "max_pool", {"name", "kernel", "stride", "padding"}, {"kernel"}},
      {LayerKind::kAveragePool, "average_pool", {"name"}, {}},
      {LayerKind::kAdd, "residual", {"name", "relu", "layers", "shortcut"}, {"layers"}},
      {LayerKind::kLinear, "linear", {"name", "out", "bias", "relu"}, {"out"}}};
  return all;
}
const Kind& kind_of(LayerKind kind) { return *std::ranges::find(kinds(), kind, &Kind::kind); }

// What other systems have as layers of their own.
std::string hint_for(const std::string& word, const std::vector<std::string>& words) {
  static const std::map<std::string, std::string> elsewhere = {
      {"relu", "write relu: true among the settings of the layer before it"},
      {"flatten", "leave it out: a linear layer takes images of any shape"},
      {"softmax", "leave it out: it is part of the loss"}};
  if (const auto found = elsewhere.find(word); found != elsewhere.end()) return found->second;
  const std::string near = nearest_name(word, words);
  return near.empty() ? fmt::format("there are {}", fmt::join(words, ", ")) : "did you mean " + near + "?";
}

// Parts of letters, digits, _ and -, joined by dots.
bool is_name(const std::string& text) {
  const auto is_word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; };
  bool begins = true;
  for (const char c : text) {
    if (begins ? !is_word(c) : !(is_word(c) || c == '-' || c == '.')) return false;
    begins = c == '.';
  }
  return !begins && text.size() <= kLongestName;
}

// The file's name without its ending, as a name.
std::string name_of_file(const std::string& path) {
  std::string name = std::filesystem::path(path).stem().string().substr(0, kLongestName);
  for (char& c : name) {
    if (!is_name(std::string(1, c))) c = '_';
  }
  return name.empty() ? "network" : name;
}

class Reader {
 public:
  explicit Reader(std::string path) : path_(std::move(path)) {}

  NetworkFile read(const std::string& yaml) {
    const YAML::Node root = load(yaml);
    NetworkFile file{.path = path_, .name = name_of_file(path_)};
    for (const auto& [key, value] : settings(root, "a network", {"name", "input", "classes", "layers"})) {
      const int line = value.Mark().line + 1;
      if (key == "name") file.name = name(value, key);
      if (key == "input") std::tie(file.input, file.input_line) = std::pair(shape(value), line);
      if (key == "classes") {
        std::tie(file.classes, file.classes_line) = std::pair(whole(value, key, 2, kMostOutputs), line);
      }
      if (key == "layers") file.layers = layers(value, key, 0);
    }
    if (file.layers.empty()) fail(root, "no layers; list them under the key layers");
    return file;
  }

 private:
  [[noreturn]] void fail(const YAML::Node& node, const std::string& what) const {
    fail(node.Mark().line + 1, what);
  }
  [[noreturn]] void fail(int line, const std::string& what) const {
    throw UserError::format("{}:{}: {}", path_, std::max(line, 1), what);
  }

  YAML::Node load(const std::string& yaml) const {
    std::vector<YAML::Node> documents;
    try {
      documents = YAML::LoadAll(yaml);
    } catch (const YAML::Exception& error) {
      throw UserError::format(
          "{}:{}:{}: does not parse as YAML ({}); annulus model simplecnn shows the format", path_,
          error.mark.line + 1, error.mark.column + 1, error.msg);
    }
    if (documents.size() > 1) fail(documents[1], "a second YAML document; keep one");
    if (documents.empty() || documents[0].IsNull()) {
      throw UserError::format("{}: empty; annulus model simplecnn shows the format", path_);
    }
    if (!documents[0].IsMap()) {
      fail(documents[0], "not a map with the key layers; annulus model simplecnn shows the format");
    }
    return documents[0];
  }

  // Key and value of each entry: known keys, each once, with a value. `what` has them.
  std::vector<std::pair<std::string, YAML::Node>> settings(const YAML::Node& map, const std::string& what,
                                                           const std::vector<std::string>& known) const {
    std::vector<std::pair<std::string, YAML::Node>> all;
    for (const auto& entry : map) {
      if (!entry.first.IsScalar()) fail(entry.first, "a key that is no word");
      const std::string key = entry.first.Scalar();
      if (std::ranges::find(known, key) == known.end()) {
        fail(entry.first, fmt::format("{}: unknown key of {}; {}", key, what, hint_for(key, known)));
      }
      const auto before = std::ranges::find(all, key, &std::pair<std::string, YAML::Node>::first);
      if (before != all.end()) fail(entry.first, key + ": given twice; keep one");
      if (entry.second.IsNull()) fail(entry.first, key + ": no value; give one or leave the key out");
      all.emplace_back(key, entry.second);
    }
    return all;
  }

  std::string scalar(const YAML::Node& node, const std::string& key) const {
    if (!node.IsScalar()) fail(node, key + ": a list or a map; give a single value");
    return node.Scalar();
  }

  int whole(const YAML::Node& node, const std::string& key, int low, int high) const {
    const std::string text = scalar(node, key);
    int value = 0;
    const char* const end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    const auto fails = [&](const char* what) {
      fail(node, fmt::format("{}: {}: {}; give a whole number from {} to {}", key, text, what, low, high));
    };
    if (stop != end || error == std::errc::invalid_argument) fails("not a whole number");
    if (error != std::errc() || value < low || value > high) fails("out of range");
    return value;
  }

  bool truth(const YAML::Node& node, const std::string& key) const {
    const std::string text = scalar(node, key);
    bool value = false;
    if (!YAML::convert<bool>::decode(node, value)) {
      fail(node, fmt::format("{}: {}: give true or false", key, text));
    }
    return value;
  }

  std::string name(const YAML::Node& node, const std::string& key) const {
    const std::string text = scalar(node, key);
    if (!is_name(text)) {
      fail(node,
           fmt::format("{}: \"{}\": no name; give up to {} letters, digits, _ and -, parts joined by dots",
                       key, text.substr(0, kLongestName), kLongestName));
    }
    return text;
  }

  ImageShape shape(const YAML::Node& node) const {
    if (!node.IsSequence() || node.size() != 3) {
      fail(node, "input: not three numbers; give [channels, height, width]");
    }
    const auto side = [&](int i) { return whole(node[i], "input", 1, kLargestSide); };
    return {side(0), side(1), side(2)};
  }

  std::vector<NetworkNode> layers(const YAML::Node& list, const std::string& key, int depth) {
    if (!list.IsSequence() || list.size() == 0) {
      fail(list, key + ": not a list of one layer or more; write each in a line of its own, after a dash");
    }
    if (depth > kDeepestBlock) {
      fail(list, fmt::format("{} residual blocks inside each other; the most is {}", depth, kDeepestBlock));
    }
    std::vector<NetworkNode> nodes;
    for (const YAML::Node& item : list) {
      if (++count_ > kMostLayers) fail(item, fmt::format("more than {} layers", kMostLayers));
      nodes.push_back(layer(item, depth));
    }
    return nodes;
  }

  NetworkNode layer(const YAML::Node& item, int depth) {
    if (item.IsNull()) fail(item, "a dash without a layer, here or in the line before");
    if (!item.IsScalar() && !item.IsMap()) {
      fail(item, "not a layer; write like `- conv: {out: 64, kernel: 3}` or `- batch_norm`");
    }
    if (item.IsMap() && item.size() != 1) {
      std::vector<std::string> keys;
      for (const auto& entry : item) keys.push_back(entry.first.IsScalar() ? entry.first.Scalar() : "?");
      fail(item,
           fmt::format("a layer with {} keys ({}); write one kind with its settings inside, like `- conv: "
                       "{{out: 64, kernel: 3}}`",
                       keys.size(), fmt::join(keys, ", ")));
    }
    const YAML::Node word = item.IsMap() ? item.begin()->first : item;
    const Kind& kind = kind_named(word);
    NetworkNode node{.layer = {.kind = kind.kind}, .line = word.Mark().line + 1};
    if (item.IsMap()) read_settings(item.begin()->second, kind, node, depth);
    const auto has = [&](const std::string& key) {
      return key == "out"      ? node.layer.out != 0
             : key == "kernel" ? node.layer.kernel != 0
                               : !node.layers.empty();
    };
    for (const std::string& key : kind.needed) {
      if (!has(key)) fail(node.line, fmt::format("{}: {} is missing", kind.word, key));
    }
    if (node.layer.stride == stride_of({.kind = kind.kind, .kernel = node.layer.kernel}))
      node.layer.stride = 0;
    const int most = kind.kind == LayerKind::kConvolution ? node.layer.kernel - 1 : node.layer.kernel / 2;
    if (node.layer.padding > most) {
      fail(node.line, fmt::format("{}: padding {} with a kernel of {}; the most is {}", kind.word,
                                  node.layer.padding, node.layer.kernel, most));
    }
    return node;
  }

  const Kind& kind_named(const YAML::Node& node) const {
    const std::string word = scalar(node, "layer");
    const auto kind = std::ranges::find(kinds(), word, &Kind::word);
    if (kind == kinds().end()) {
      std::vector<std::string> words;
      for (const Kind& one : kinds()) words.push_back(one.word);
      fail(node, fmt::format("{}: unknown kind of layer; {}", word, hint_for(word, words)));
    }
    return *kind;
  }

  void read_settings(const YAML::Node& map, const Kind& kind, NetworkNode& node, int depth) {
    if (map.IsNull()) return;
    if (!map.IsMap()) {
      fail(map, fmt::format("{}: its settings are no map; write like `- conv: {{out: 64, kernel: 3}}`",
                            kind.word));
    }
    LayerSpec& layer = node.layer;
    const bool pools = kind.kind == LayerKind::kMaxPool;
    for (const auto& [key, value] : settings(map, kind.word, kind.settings)) {
      if (key == "name") layer.name = layer_name(value, kind.kind, depth);
      if (key == "out") layer.out = outputs(value);
      if (key == "kernel") layer.kernel = whole(value, key, 1, pools ? kLargestWindow : kLargestKernel);
      if (key == "stride") layer.stride = whole(value, key, 1, kLargestKernel);
      if (key == "padding") layer.padding = whole(value, key, 0, kLargestKernel);
      if (key == "bias") layer.bias = truth(value, key);
      if (key == "relu") layer.relu = truth(value, key);
      if (key == "layers") node.layers = layers(value, key, depth + 1);
      if (key == "shortcut") node.shortcut = layers(value, key, depth + 1);
    }
  }

  // Inside a block a layer's name has no dots, so that the block's own can be told from it.
  std::string layer_name(const YAML::Node& node, LayerKind kind, int depth) const {
    const std::string text = name(node, "name");
    if (depth > 0 && kind != LayerKind::kAdd && text.find('.') != std::string::npos) {
      fail(node,
           fmt::format("name: {}: a dot in the name of a layer inside a residual block; the block's name is "
                       "put before it anyway",
                       text));
    }
    return text;
  }

  int outputs(const YAML::Node& node) const {
    return scalar(node, "out") == "classes" ? kClasses : whole(node, "out", 1, kMostOutputs);
  }

  std::string path_;
  int count_ = 0;
};

void write(YAML::Emitter& out, const NetworkNode& node, int classes);

void write(YAML::Emitter& out, const std::vector<NetworkNode>& nodes, int classes) {
  out << YAML::Block << YAML::BeginSeq;
  for (const NetworkNode& node : nodes) write(out, node, classes);
  out << YAML::EndSeq;
}

// Only what differs from the default. `classes`: 0, or the outputs that are one for each class.
void write(YAML::Emitter& out, const NetworkNode& node, int classes) {
  const LayerSpec& layer = node.layer;
  const Kind& kind = kind_of(layer.kind);
  const bool convolves = layer.kind == LayerKind::kConvolution, pools = layer.kind == LayerKind::kMaxPool;
  const bool weighs = convolves || layer.kind == LayerKind::kLinear;
  if (!node.is_block() && layer.name.empty() && !layer.relu && !weighs && !pools) {
    out << kind.word;
    return;
  }
  const auto setting = [&](const char* key, const auto& value, bool differs) {
    if (differs) out << YAML::Key << key << YAML::Value << value;
  };
  out << YAML::Block << YAML::BeginMap << YAML::Key << kind.word << YAML::Value;
  out << (node.is_block() ? YAML::Block : YAML::Flow) << YAML::BeginMap;
  setting("name", layer.name, !layer.name.empty());
  if (classes != 0 && layer.out == classes) {
    setting("out", "classes", true);
  } else {
    setting("out", layer.out, weighs);
  }
  setting("kernel", layer.kernel, convolves || pools);
  setting("stride", layer.stride, layer.stride != 0);
  setting("padding", layer.padding, layer.padding != 0);
  setting("bias", layer.bias, weighs && !layer.bias);
  setting("relu", layer.relu, layer.relu);
  if (node.is_block()) {
    out << YAML::Key << "layers" << YAML::Value;
    write(out, node.layers, 0);
    if (!node.shortcut.empty()) {
      out << YAML::Key << "shortcut" << YAML::Value;
      write(out, node.shortcut, 0);
    }
  }
  out << YAML::EndMap << YAML::EndMap;
}

}  // namespace

const std::string& kind_word(LayerKind kind) { return kind_of(kind).word; }

NetworkFile read_network(const std::string& path) { return parse_network(read_text_file(path, path), path); }

NetworkFile parse_network(const std::string& yaml, const std::string& path) {
  return Reader(path).read(yaml);
}

std::string to_yaml(const NetworkSpec& spec) {
  const std::vector<NetworkNode> nodes = nest(spec.layers);
  YAML::Emitter out;
  out << YAML::BeginMap << YAML::Key << "name" << YAML::Value << spec.name;
  out << YAML::Key << "layers" << YAML::Value << YAML::BeginSeq;
  for (const NetworkNode& node : nodes) write(out, node, &node == &nodes.back() ? spec.classes : 0);
  out << YAML::EndSeq << YAML::EndMap;
  return std::string(out.c_str(), out.size()) + "\n";
}

}  // namespace annulus
