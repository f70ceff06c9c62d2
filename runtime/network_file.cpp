#include "runtime/network_file.h"

#include <map>

#include "runtime/network_cost.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

[[noreturn]] void fail(const NetworkFile& file, int line, const std::string& what) {
  throw UserError::format("{}:{}: {}", file.path, line, what);
}

void check_names(const NetworkFile& file, const FlatNetwork& flat) {
  std::map<std::string, int> lines;
  for (size_t i = 0; i < flat.layers.size(); ++i) {
    const std::string& name = flat.layers[i].name;
    const auto [first, is_new] = lines.emplace(name, flat.lines[i]);
    if (is_new) continue;
    fail(file, flat.lines[i],
         fmt::format("layer {}: the layer in line {} has this name, too; give one of them another, or their "
                     "residual blocks",
                     name, first->second));
  }
}

void check_shapes(const NetworkFile& file, const FlatNetwork& flat, const NetworkSpec& spec) {
  std::vector<ImageShape> shapes{spec.input};
  for (int i = 0; i < static_cast<int>(spec.layers.size()); ++i) {
    const LayerSpec& layer = spec.layers[i];
    try {
      shapes.push_back(output_shape(layer, shapes[input_of(spec, i)]));
    } catch (const UserError& error) {
      fail(file, flat.lines[i], error.what());
    }
    if (layer.addend != kNoActivation && shapes[layer.addend] != shapes.back()) {
      fail(file, flat.lines[i],
           fmt::format(
               "layer {}: the block's layers yield {} and its shortcut {} (channels x height x width); both "
               "must be the same, for instance by a convolution in the shortcut with as many filters and "
               "the same stride",
               layer.name, text_of(shapes.back()), text_of(shapes[layer.addend])));
    }
  }
}

void check_end(const NetworkFile& file, const FlatNetwork& flat, int classes) {
  const LayerSpec& last = flat.layers.back();
  const std::string remedy = fmt::format("end with `- linear: {{out: classes}}` ({} of them)", classes);
  if (last.kind != LayerKind::kLinear) {
    fail(file, flat.lines.back(),
         fmt::format("layer {}: the last layer is not linear; {}", last.name, remedy));
  }
  if (last.out != classes) {
    fail(file, flat.lines.back(),
         fmt::format("layer {}: the last layer has {} outputs; {}", last.name, last.out, remedy));
  }
}

}  // namespace

NetworkSpec resolve_network(const NetworkFile& file, const ImageShape& input, int classes) {
  if (file.input && *file.input != input) {
    fail(file, file.input_line,
         fmt::format(
             "input: the network is for images of {} (channels x height x width), the data has {}; take "
             "other data, or leave the key out",
             text_of(*file.input), text_of(input)));
  }
  if (file.classes && *file.classes != classes) {
    fail(file, file.classes_line,
         fmt::format(
             "classes: the network is for {} classes, the data has {}; take other data, or leave the key "
             "out",
             *file.classes, classes));
  }
  FlatNetwork flat = flatten(file.layers);
  for (LayerSpec& layer : flat.layers) {
    if (layer.out == kClasses) layer.out = classes;
  }
  check_names(file, flat);
  check_end(file, flat, classes);
  NetworkSpec spec{.name = file.name, .input = input, .classes = classes, .layers = flat.layers};
  check_shapes(file, flat, spec);
  try {
    (void)total_cost(spec);
  } catch (const UserError& error) {
    throw UserError::format("{}: {}", file.path, error.what());
  }
  return spec;
}

}  // namespace annulus
