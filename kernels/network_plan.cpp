#include "kernels/network_plan.h"

#include <xxhash.h>

#include <nlohmann/json.hpp>
#include <stdexcept>

namespace annulus {
namespace {

using nlohmann::json;

template <typename Array>
json first_of(const Array& values, int count) {
  json list = json::array();
  for (int k = 0; k < count; ++k) list.push_back(values[k]);
  return list;
}

template <typename Array>
void read_list(const json& list, int count, Array& values) {
  if (static_cast<int>(list.size()) != count || count > TensorLayout::kMaxDims) {
    throw std::runtime_error("layout in a network plan has lists of different or too great lengths");
  }
  for (int k = 0; k < count; ++k) list.at(k).get_to(values[k]);
}

json layout_to_json(const TensorLayout& layout) {
  return {{"tag", layout.tag()},
          {"dims", first_of(layout.dims, layout.dims_count)},
          {"padded_dims", first_of(layout.padded_dims, layout.dims_count)},
          {"strides", first_of(layout.strides, layout.dims_count)},
          {"inner_blocks", first_of(layout.inner_blocks, layout.inner_count)},
          {"inner_dims", first_of(layout.inner_dims, layout.inner_count)}};
}

TensorLayout layout_from_json(const json& source) {
  TensorLayout layout;
  layout.dims_count = static_cast<int>(source.at("dims").size());
  layout.inner_count = static_cast<int>(source.at("inner_blocks").size());
  read_list(source.at("dims"), layout.dims_count, layout.dims);
  read_list(source.at("padded_dims"), layout.dims_count, layout.padded_dims);
  read_list(source.at("strides"), layout.dims_count, layout.strides);
  read_list(source.at("inner_blocks"), layout.inner_count, layout.inner_blocks);
  read_list(source.at("inner_dims"), layout.inner_count, layout.inner_dims);
  return layout;
}

}  // namespace

int NetworkPlan::stage_of(int layer) const {
  int stage = 0;
  while (layer >= stages.at(stage).first_layer + stages[stage].layers) ++stage;
  return stage;
}

uint64_t NetworkPlan::hash() const {
  // json keeps the keys of objects sorted, so equal plans have equal texts.
  const std::string text = json(*this).dump();
  return XXH64(text.data(), text.size(), 0);
}

void to_json(json& json, const NetworkPlan& plan) {
  json = {{"network", plan.network},
          {"type", plan.type},
          {"batch", plan.batch},
          {"threads", plan.threads},
          {"isa", plan.isa},
          {"library", plan.library},
          {"arena_bytes", plan.arena_bytes},
          {"stages", nlohmann::json::array()},
          {"parameters", nlohmann::json::array()},
          {"kernels", nlohmann::json::array()}};
  for (const StagePlan& stage : plan.stages) {
    json["stages"].push_back(
        {{"first_layer", stage.first_layer}, {"layers", stage.layers}, {"portion", stage.portion}});
  }
  for (const ParameterPlan& parameter : plan.parameters) {
    json["parameters"].push_back({{"name", parameter.name},
                                  {"layout", layout_to_json(parameter.layout)},
                                  {"layer", parameter.layer},
                                  {"fan_in", parameter.fan_in},
                                  {"role", parameter.role}});
  }
  for (const KernelPlan& kernel : plan.kernels) {
    json["kernels"].push_back({{"layer", kernel.layer},
                               {"pass", kernel.pass},
                               {"implementation", kernel.implementation},
                               {"weights", kernel.weights},
                               {"view", kernel.view}});
  }
}

void from_json(const json& json, NetworkPlan& plan) {
  plan = {};
  json.at("network").get_to(plan.network);
  json.at("type").get_to(plan.type);
  json.at("batch").get_to(plan.batch);
  json.at("threads").get_to(plan.threads);
  json.at("isa").get_to(plan.isa);
  json.at("library").get_to(plan.library);
  json.at("arena_bytes").get_to(plan.arena_bytes);
  for (const auto& source : json.at("stages")) {
    plan.stages.push_back({source.at("first_layer").get<int>(), source.at("layers").get<int>(),
                           source.at("portion").get<int64_t>()});
  }
  for (const auto& source : json.at("parameters")) {
    plan.parameters.push_back({source.at("name").get<std::string>(), layout_from_json(source.at("layout")),
                               source.at("layer").get<int>(), source.at("fan_in").get<int64_t>(),
                               source.at("role").get<ParameterRole>()});
  }
  for (const auto& source : json.at("kernels")) {
    plan.kernels.push_back({source.at("layer").get<std::string>(), source.at("pass").get<std::string>(),
                            source.at("implementation").get<std::string>(),
                            source.at("weights").get<std::string>(), source.at("view").get<bool>()});
  }
}

}  // namespace annulus
