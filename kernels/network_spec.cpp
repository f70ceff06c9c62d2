#include "kernels/network_spec.h"

#include "kernels/max_pool.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

[[noreturn]] void too_small(const LayerSpec& layer, const ImageShape& input) {
  const int least = layer.kernel - 2 * layer.padding;
  throw UserError::format(
      "layer {} needs an input of at least {}, but gets {} (channels x height x width); use larger images or "
      "a smaller network",
      layer.name, text_of({input.channels, least, least}), text_of(input));
}

// Of a window of side layer.kernel that goes over `input`.
ImageShape windows(const LayerSpec& layer, const ImageShape& input, int channels) {
  const int room_below = input.height + 2 * layer.padding - layer.kernel;
  const int room_beside = input.width + 2 * layer.padding - layer.kernel;
  if (room_below < 0 || room_beside < 0) too_small(layer, input);
  return {channels, room_below / stride_of(layer) + 1, room_beside / stride_of(layer) + 1};
}

void check_references(const LayerSpec& layer, int index) {
  if (layer.input < kPreviousActivation || layer.input > index) {
    throw UserError::format("layer {} reads activation {}, which is not there yet", layer.name, layer.input);
  }
  const bool adds = layer.kind == LayerKind::kBatchNorm || layer.kind == LayerKind::kAdd;
  if (layer.addend < kNoActivation || layer.addend > index || (layer.addend != kNoActivation && !adds)) {
    throw UserError::format("layer {} cannot add activation {}", layer.name, layer.addend);
  }
  if (layer.kind == LayerKind::kAdd && layer.addend == kNoActivation) {
    throw UserError::format("layer {} has nothing to add", layer.name);
  }
}

}  // namespace

std::string text_of(const ImageShape& shape) {
  return fmt::format("{}x{}x{}", shape.channels, shape.height, shape.width);
}

bool has_parameters(LayerKind kind) {
  return kind == LayerKind::kConvolution || kind == LayerKind::kBatchNorm || kind == LayerKind::kLinear;
}

int stride_of(const LayerSpec& layer) {
  if (layer.stride != 0) return layer.stride;
  return layer.kind == LayerKind::kMaxPool ? layer.kernel : 1;
}

int input_of(const NetworkSpec& spec, int index) {
  const int input = spec.layers[index].input;
  return input == kPreviousActivation ? index : input;
}

std::vector<std::vector<int>> readers_of(const NetworkSpec& spec) {
  std::vector<std::vector<int>> readers(spec.layers.size() + 1);
  for (int index = 0; index < static_cast<int>(spec.layers.size()); ++index) {
    readers[input_of(spec, index)].push_back(index);
    const int addend = spec.layers[index].addend;
    if (addend != kNoActivation) readers[addend].push_back(index);
  }
  return readers;
}

std::vector<bool> needs_gradient(const NetworkSpec& spec) {
  std::vector<bool> needed{false};
  for (int index = 0; index < static_cast<int>(spec.layers.size()); ++index) {
    const LayerSpec& layer = spec.layers[index];
    needed.push_back(has_parameters(layer.kind) || needed[input_of(spec, index)] ||
                     (layer.addend != kNoActivation && needed[layer.addend]));
  }
  return needed;
}

ImageShape output_shape(const LayerSpec& layer, const ImageShape& input) {
  if (input.channels < 1 || input.height < 1 || input.width < 1) {
    throw UserError::format(
        "layer {} gets an input of {} (channels x height x width); all three must be positive", layer.name,
        text_of(input));
  }
  switch (layer.kind) {
    case LayerKind::kConvolution:
      if (layer.out < 1 || layer.kernel < 1 || layer.padding < 0 || layer.stride < 0) {
        throw UserError::format("convolution {} has {} filters of side {} with padding {} and stride {}",
                                layer.name, layer.out, layer.kernel, layer.padding, stride_of(layer));
      }
      return windows(layer, input, layer.out);
    case LayerKind::kMaxPool:
      if (layer.kernel < 1 || layer.padding < 0 || layer.stride < 0) {
        throw UserError::format("max pooling {} has a window of side {} with padding {} and stride {}",
                                layer.name, layer.kernel, layer.padding, stride_of(layer));
      }
      if (layer.kernel > kLargestWindow) {
        throw UserError::format("max pooling {} has a window of side {}; the largest is {}", layer.name,
                                layer.kernel, kLargestWindow);
      }
      if (2 * layer.padding > layer.kernel) {
        throw UserError::format(
            "max pooling {} has padding {} and a window of side {}; the padding is at most half the window",
            layer.name, layer.padding, layer.kernel);
      }
      if (layer.relu) {
        throw UserError::format("max pooling {} has a ReLU; put it on the layer before", layer.name);
      }
      return windows(layer, input, input.channels);
    case LayerKind::kAveragePool:
      if (layer.relu) {
        throw UserError::format("average pooling {} has a ReLU; put it on the layer before", layer.name);
      }
      return {input.channels, 1, 1};
    case LayerKind::kBatchNorm:
    case LayerKind::kAdd:
      return input;
    case LayerKind::kLinear:
      if (layer.out < 1) throw UserError::format("linear layer {} has {} outputs", layer.name, layer.out);
      return {layer.out, 1, 1};
  }
  throw UserError::format("layer {} is of an unknown kind", layer.name);
}

std::vector<ImageShape> activation_shapes(const NetworkSpec& spec) {
  if (spec.layers.empty()) throw UserError::format("network {} has no layers", spec.name);
  const LayerSpec& last = spec.layers.back();
  if (last.kind != LayerKind::kLinear || last.out != spec.classes) {
    throw UserError::format("network {} ends with layer {}; it must end with a linear layer of {} outputs",
                            spec.name, last.name, spec.classes);
  }
  std::vector<ImageShape> shapes{spec.input};
  std::vector<bool> features{false};  // per activation: whether linear layers made it
  std::vector<bool> read(spec.layers.size() + 1, false);
  for (int index = 0; index < static_cast<int>(spec.layers.size()); ++index) {
    const LayerSpec& layer = spec.layers[index];
    check_references(layer, index);
    const int input = input_of(spec, index);
    const bool behind_linear = input > 0 && features[input];
    if (behind_linear && layer.kind != LayerKind::kLinear && layer.kind != LayerKind::kAdd) {
      throw UserError::format(
          "layer {} reads what linear layer {} makes, which is no image; only linear layers and sums can",
          layer.name, spec.layers[input - 1].name);
    }
    features.push_back(layer.kind == LayerKind::kLinear || behind_linear);
    read[input_of(spec, index)] = true;
    if (layer.addend != kNoActivation) read[layer.addend] = true;
    const ImageShape out = output_shape(layer, shapes[input_of(spec, index)]);
    if (layer.addend != kNoActivation && shapes[layer.addend] != out) {
      throw UserError::format("layer {} adds {} to {} (channels x height x width); both must be the same",
                              layer.name, text_of(shapes[layer.addend]), text_of(out));
    }
    shapes.push_back(out);
  }
  for (std::size_t index = 0; index + 1 < spec.layers.size(); ++index) {
    if (!read[index + 1]) {
      throw UserError::format("network {}: no layer reads what layer {} makes", spec.name,
                              spec.layers[index].name);
    }
  }
  return shapes;
}

}  // namespace annulus
