#include "kernels/network_spec.h"

#include "telemetry/error.h"

namespace annulus {
namespace {

std::string text_of(const ImageShape& shape) {
  return fmt::format("{}x{}x{}", shape.channels, shape.height, shape.width);
}

[[noreturn]] void too_small(const LayerSpec& layer, const ImageShape& input) {
  throw UserError::format(
      "layer {} needs an input of at least {}x{}x{}, but gets {} (channels x height x width); use larger "
      "images "
      "or a smaller network",
      layer.name, input.channels, layer.kernel - 2 * layer.padding, layer.kernel - 2 * layer.padding,
      text_of(input));
}

}  // namespace

ImageShape output_shape(const LayerSpec& layer, const ImageShape& input) {
  if (input.channels < 1 || input.height < 1 || input.width < 1) {
    throw UserError::format(
        "layer {} gets an input of {} (channels x height x width); all three must be positive", layer.name,
        text_of(input));
  }
  switch (layer.kind) {
    case LayerKind::kConvolution: {
      if (layer.out < 1 || layer.kernel < 1 || layer.padding < 0) {
        throw UserError::format("convolution {} has {} filters of side {} with padding {}", layer.name,
                                layer.out, layer.kernel, layer.padding);
      }
      const int shrink = layer.kernel - 1 - 2 * layer.padding;
      if (input.height <= shrink || input.width <= shrink) too_small(layer, input);
      return {layer.out, input.height - shrink, input.width - shrink};
    }
    case LayerKind::kMaxPool:
      if (layer.kernel < 1) {
        throw UserError::format("max pooling {} has a window of side {}", layer.name, layer.kernel);
      }
      if (input.height < layer.kernel || input.width < layer.kernel) too_small(layer, input);
      return {input.channels, input.height / layer.kernel, input.width / layer.kernel};
    case LayerKind::kLinear:
      if (layer.out < 1) throw UserError::format("linear layer {} has {} outputs", layer.name, layer.out);
      return {layer.out, 1, 1};
  }
  throw UserError::format("layer {} is of an unknown kind", layer.name);
}

}  // namespace annulus
