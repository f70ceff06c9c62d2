#include "runtime/network_cost.h"

#include "telemetry/error.h"

namespace annulus {
namespace {

// Far beyond any machine, and sums over all layers stay inside 64 bits.
constexpr double kMost = 1e15;

int64_t product(const LayerSpec& layer, double value) {
  if (value > kMost) {
    throw UserError::format(
        "layer {} is too large: {:.1e} parameters or operations per image; the most is "
        "{:.0e}",
        layer.name, value, kMost);
  }
  return static_cast<int64_t>(value);
}

NetworkCost cost(const LayerSpec& layer, const ImageShape& in, const ImageShape& out) {
  // In doubles, which do not overflow and are exact up to 9e15.
  const double outputs = static_cast<double>(out.channels) * out.height * out.width;
  NetworkCost cost;
  switch (layer.kind) {
    case LayerKind::kConvolution:
    case LayerKind::kLinear: {
      const double sum = layer.kind == LayerKind::kLinear
                             ? static_cast<double>(in.channels) * in.height * in.width
                             : static_cast<double>(in.channels) * layer.kernel * layer.kernel;
      cost.parameters = product(layer, (sum + (layer.bias ? 1 : 0)) * layer.out);
      cost.flops = product(layer, 2 * sum * outputs);
      break;
    }
    case LayerKind::kBatchNorm:
      cost.parameters = int64_t{2} * in.channels;
      cost.flops = product(layer, 2 * outputs);
      break;
    case LayerKind::kAveragePool:
      cost.flops = product(layer, static_cast<double>(in.channels) * in.height * in.width);
      break;
    case LayerKind::kMaxPool:
    case LayerKind::kAdd:
      break;
  }
  if (layer.addend != kNoActivation) cost.flops += product(layer, outputs);
  cost.activation_bytes = product(layer, 4 * outputs);
  return cost;
}

}  // namespace

NetworkCost& NetworkCost::operator+=(const NetworkCost& other) {
  parameters += other.parameters;
  flops += other.flops;
  activation_bytes += other.activation_bytes;
  return *this;
}

std::vector<NetworkCost> layer_costs(const NetworkSpec& spec) {
  const std::vector<ImageShape> shapes = activation_shapes(spec);
  std::vector<NetworkCost> costs;
  for (int index = 0; index < static_cast<int>(spec.layers.size()); ++index) {
    costs.push_back(cost(spec.layers[index], shapes[input_of(spec, index)], shapes[index + 1]));
  }
  return costs;
}

NetworkCost total_cost(const NetworkSpec& spec) {
  NetworkCost total;
  for (const NetworkCost& cost : layer_costs(spec)) total += cost;
  return total;
}

}  // namespace annulus
