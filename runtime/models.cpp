#include "runtime/models.h"

#include "telemetry/error.h"

namespace annulus {
namespace {

LayerSpec convolution(const char* name, int filters) {
  return {.kind = LayerKind::kConvolution, .name = name, .out = filters, .kernel = 3, .relu = true};
}

LayerSpec max_pool(const char* name) { return {.kind = LayerKind::kMaxPool, .name = name, .kernel = 2}; }

LayerSpec linear(const char* name, int outputs, bool relu) {
  return {.kind = LayerKind::kLinear, .name = name, .out = outputs, .relu = relu};
}

std::vector<LayerSpec> layers_of(const std::string& model, int classes) {
  if (model == "mlp")
    return {linear("fc1", 256, true), linear("fc2", 128, true), linear("fc3", classes, false)};
  if (model == "simplecnn") {
    return {convolution("conv1", 32), max_pool("pool1"),        convolution("conv2", 64),
            max_pool("pool2"),        linear("fc1", 128, true), linear("fc2", classes, false)};
  }
  throw UserError::format("there is no model \"{}\"; there are mlp and simplecnn", model);
}

}  // namespace

NetworkSpec make_network(const std::string& model, const ImageShape& input, int classes) {
  NetworkSpec spec{.name = model, .input = input, .classes = classes, .layers = layers_of(model, classes)};
  (void)activation_shapes(spec);
  return spec;
}

}  // namespace annulus
