#include "runtime/tune.h"

#include <algorithm>
#include <tuple>

#include "runtime/arena.h"

namespace annulus {
namespace {

constexpr int kRepetitions = 3;
constexpr const char* kPasses[] = {kForward, kBackwardWeights, kBackwardData};

// Layers that are equal in this are equally fast.
using Shape = std::tuple<int, int, int, int, int, bool, bool, bool>;

Shape shape_of(const NetworkSpec& spec, const std::vector<ImageShape>& shapes, int layer) {
  const ImageShape& input = shapes[input_of(spec, layer)];
  const LayerSpec& of = spec.layers[layer];
  return {input.channels, input.height, input.width, of.out,
          of.padding,     of.relu,      of.bias,     needs_gradient(spec)[input_of(spec, layer)]};
}

using PassTimes =
    std::map<std::pair<std::string, std::string>, int64_t>;  // by layer and pass, views included

// The shortest times of the passes of `layers` when all of them use one algorithm.
PassTimes measure(const NetworkSpec& spec, NetworkOptions options, const std::vector<int>& layers,
                  ConvolutionAlgorithm algorithm) {
  options.measure = true;
  for (const int layer : layers) {
    for (const char* pass : kPasses) options.algorithms[{spec.layers[layer].name, pass}] = algorithm;
  }
  Network network(spec, options);
  const NetworkPlan& plan = network.plan();
  std::vector<int64_t> offsets;
  int64_t elements = 0;
  for (const ParameterPlan& parameter : plan.parameters) {
    offsets.push_back(elements);
    elements += (parameter.layout.padded_elements() + 15) / 16 * 16;
  }
  Arena arena(plan.arena_bytes), parameters(2 * elements * static_cast<int64_t>(sizeof(float)));
  const auto fill = [](std::span<std::byte> bytes) {
    std::fill_n(reinterpret_cast<float*>(bytes.data()), bytes.size() / sizeof(float), 0.5f);
  };
  fill(arena.bytes());
  fill(parameters.bytes());
  auto* const weights = reinterpret_cast<float*>(parameters.bytes().data());
  network.bind_arena(arena.bytes());
  network.set_parameter_offsets(offsets);
  network.begin({.training = true, .images = options.images, .share = 1});

  PassTimes times;
  for (int repetition = 0; repetition <= kRepetitions; ++repetition) {
    std::fill(network.times().begin(), network.times().end(), KernelTime{});
    for (const int layer : layers) {
      const int portions = network.portions(plan.stage_of(layer));
      for (int k = 0; k < portions; ++k) network.forward_layer(layer, k, weights);
      for (int k = 0; k < portions; ++k) network.backward_layer(layer, k, weights, weights + elements);
    }
    if (repetition == 0) continue;  // it warms up
    for (std::size_t k = 0; k < plan.kernels.size(); ++k) {
      const KernelTime& time = network.times()[k];
      int64_t& best =
          times.try_emplace({plan.kernels[k].layer, plan.kernels[k].pass}, INT64_MAX).first->second;
      best = std::min(best, time.kernel_ns + time.view_ns);
    }
  }
  return times;
}

}  // namespace

ChosenAlgorithms fastest_algorithms(const NetworkSpec& spec, const NetworkOptions& options) {
  const std::vector<ImageShape> shapes = activation_shapes(spec);
  std::map<Shape, int> first_of_shape;
  std::vector<int> layers;
  for (int layer = 0; layer < static_cast<int>(spec.layers.size()); ++layer) {
    if (!winograd_fits(spec.layers[layer], options.type)) continue;
    if (first_of_shape.emplace(shape_of(spec, shapes, layer), layer).second) layers.push_back(layer);
  }
  ChosenAlgorithms chosen;
  if (layers.empty()) return chosen;
  const PassTimes direct = measure(spec, options, layers, ConvolutionAlgorithm::kDirect);
  const PassTimes winograd = measure(spec, options, layers, ConvolutionAlgorithm::kWinograd);
  for (int layer = 0; layer < static_cast<int>(spec.layers.size()); ++layer) {
    if (!winograd_fits(spec.layers[layer], options.type)) continue;
    const std::string& measured = spec.layers[first_of_shape.at(shape_of(spec, shapes, layer))].name;
    for (const char* pass : kPasses) {
      // The first layer has no backward-data, and no time for it.
      const auto is_faster = [&] {
        const auto time = winograd.find({measured, pass});
        return time != winograd.end() && time->second < direct.at({measured, pass});
      };
      chosen[{spec.layers[layer].name, pass}] =
          is_faster() ? ConvolutionAlgorithm::kWinograd : ConvolutionAlgorithm::kDirect;
    }
  }
  return chosen;
}

}  // namespace annulus
