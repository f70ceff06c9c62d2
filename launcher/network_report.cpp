#include "launcher/network_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "runtime/network_cost.h"
#include "runtime/network_yaml.h"
#include "telemetry/progress.h"

namespace annulus {
namespace {

// A sum that no batch norm does has no word in the file.
std::string kind_text(LayerKind kind) { return kind == LayerKind::kAdd ? "add" : kind_word(kind); }

NetworkCost times(NetworkCost cost, int64_t images) {
  cost.flops *= images;
  cost.activation_bytes *= images;
  return cost;
}

using Row = std::array<std::string, 6>;

Row row(const std::string& name, const std::string& kind, const std::string& output,
        const NetworkCost& cost) {
  return {name,
          kind,
          output,
          with_thousands(cost.parameters),
          with_thousands(cost.flops),
          with_thousands(cost.activation_bytes)};
}

}  // namespace

std::string describe_network(const NetworkSpec& spec, int64_t batch) {
  const std::vector<NetworkCost> costs = layer_costs(spec);
  const std::vector<ImageShape> shapes = activation_shapes(spec);
  std::vector<Row> rows = {{"layer", "kind", "output", "parameters", "FLOPs", "activation bytes"}};
  for (size_t i = 0; i < costs.size(); ++i) {
    const LayerSpec& layer = spec.layers[i];
    rows.push_back(row(layer.name, kind_text(layer.kind), text_of(shapes[i + 1]), times(costs[i], batch)));
  }
  rows.push_back(row("total", "", "", times(total_cost(spec), batch)));

  std::array<size_t, 6> width{};
  for (const Row& one : rows) {
    for (size_t column = 0; column < one.size(); ++column) {
      width[column] = std::max(width[column], one[column].size());
    }
  }
  std::string text = to_yaml(spec);
  text += fmt::format("\n# Forward of {} image{} of {} (channels x height x width), {} classes.\n",
                      with_thousands(batch), batch == 1 ? "" : "s", text_of(spec.input), spec.classes);
  text +=
      "# A multiply-add is 2 FLOPs; backward takes about twice as many. Activations are fp32 outputs, none "
      "of "
      "them\n# sharing memory; a run needs less.\n#\n";
  for (const Row& one : rows) {
    text += "#";
    for (size_t column = 0; column < one.size(); ++column) {
      text += column < 2 ? fmt::format(" {:<{}} ", one[column], width[column])
                         : fmt::format(" {:>{}} ", one[column], width[column]);
    }
    text.erase(text.find_last_not_of(' ') + 1);
    text += "\n";
  }
  return text;
}

std::string network_json(const NetworkSpec& spec, int64_t batch) {
  const auto shape_json = [](const ImageShape& shape) {
    return nlohmann::json{shape.channels, shape.height, shape.width};
  };
  const auto with_cost = [&](nlohmann::ordered_json json, const NetworkCost& cost) {
    const NetworkCost all = times(cost, batch);
    json["parameters"] = all.parameters;
    json["flops"] = all.flops;
    json["activation_bytes"] = all.activation_bytes;
    return json;
  };
  const std::vector<NetworkCost> costs = layer_costs(spec);
  const std::vector<ImageShape> shapes = activation_shapes(spec);
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
  for (size_t i = 0; i < costs.size(); ++i) {
    const LayerSpec& layer = spec.layers[i];
    layers.push_back(with_cost(
        {{"name", layer.name}, {"kind", kind_text(layer.kind)}, {"output", shape_json(shapes[i + 1])}},
        costs[i]));
  }
  nlohmann::ordered_json json = with_cost(
      {{"name", spec.name}, {"input", shape_json(spec.input)}, {"classes", spec.classes}, {"batch", batch}},
      total_cost(spec));
  json["layers"] = std::move(layers);
  return json.dump() + "\n";
}

}  // namespace annulus
