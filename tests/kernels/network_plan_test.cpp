#include "kernels/network_plan.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "kernels/dnnl_compat.h"

namespace annulus {
namespace {

NetworkPlan make_plan() {
  NetworkPlan plan;
  plan.network = "net";
  plan.batch = 64;
  plan.threads = 2;
  plan.isa = "avx512_core";
  plan.library = "oneDNN 2.6.3 OpenMP";
  plan.arena_bytes = 4096;
  plan.stages = {{0, 2, 8}, {2, 1, 64}};
  plan.parameters = {
      {"conv1.weight", onednn::layout_of(onednn::make_desc({33, 17, 3, 3}, onednn::Tag::OIhw16i16o)), 0, 153},
      {"conv1.bias", TensorLayout::plain(std::vector<int64_t>{33}), 0, 153}};
  plan.kernels = {{"conv1", "forward", "jit:avx512_core", "ABcd16b16a", false},
                  {"conv1", "backward-data", "jit:avx512_core", "ABcd16a16b", true}};
  return plan;
}

TEST(NetworkPlan, SurvivesTheWayThroughJson) {
  const NetworkPlan plan = make_plan();
  const auto text = nlohmann::json(plan).dump();
  const auto back = nlohmann::json::parse(text).get<NetworkPlan>();
  EXPECT_EQ(nlohmann::json(back).dump(), text);
  EXPECT_EQ(back.hash(), plan.hash());
  EXPECT_EQ(back.batch, 64);
  EXPECT_EQ(back.stages, plan.stages);
  EXPECT_EQ(back.parameters[0].layout, plan.parameters[0].layout);
  EXPECT_EQ(back.parameters[1].fan_in, 153);
  EXPECT_TRUE(back.kernels[1].view);
}

// The hash travels between processes and into the records of runs, so a change of it is a change of format.
TEST(NetworkPlan, HashIsTheSameInEveryBuild) { EXPECT_EQ(make_plan().hash(), 10194826798087452732U); }

TEST(NetworkPlan, HashSeesEveryField) {
  const uint64_t hash = make_plan().hash();
  const auto changed = [&](auto change) {
    NetworkPlan plan = make_plan();
    change(plan);
    return plan.hash() != hash;
  };
  EXPECT_TRUE(changed([](NetworkPlan& plan) { plan.network = "other"; }));
  EXPECT_TRUE(changed([](NetworkPlan& plan) { plan.batch = 63; }));
  EXPECT_TRUE(changed([](NetworkPlan& plan) { plan.threads = 1; }));
  EXPECT_TRUE(changed([](NetworkPlan& plan) { plan.isa = "avx2"; }));
  EXPECT_TRUE(changed([](NetworkPlan& plan) { plan.library = "oneDNN 3.7.0 OpenMP"; }));
  EXPECT_TRUE(changed([](NetworkPlan& plan) { plan.arena_bytes = 64; }));
  EXPECT_TRUE(changed([](NetworkPlan& plan) { plan.stages[0].portion = 4; }));
  EXPECT_TRUE(changed([](NetworkPlan& plan) { plan.stages.pop_back(); }));
  EXPECT_TRUE(changed([](NetworkPlan& plan) { plan.type = DataType::kBf16; }));
  EXPECT_TRUE(changed([](NetworkPlan& plan) { plan.parameters[0].layout.strides[1] *= 2; }));
  EXPECT_TRUE(changed([](NetworkPlan& plan) { plan.parameters[0].role = ParameterRole::kScale; }));
  EXPECT_TRUE(changed([](NetworkPlan& plan) { plan.kernels[0].implementation = "ref"; }));
  EXPECT_TRUE(changed([](NetworkPlan& plan) { plan.kernels[1].view = false; }));
}

TEST(NetworkPlan, KnowsTheStageOfEachLayer) {
  const NetworkPlan plan = make_plan();
  EXPECT_EQ(plan.stage_count(), 2);
  EXPECT_EQ(plan.stage_of(0), 0);
  EXPECT_EQ(plan.stage_of(1), 0);
  EXPECT_EQ(plan.stage_of(2), 1);
}

TEST(NetworkPlan, RefusesALayoutWithTooManyDimensions) {
  nlohmann::json json = make_plan();
  auto& layout = json["parameters"][0]["layout"];
  for (const char* list : {"dims", "padded_dims", "strides"}) {
    layout[list] = nlohmann::json::array({1, 1, 1, 1, 1, 1, 1});
  }
  EXPECT_THROW(json.get<NetworkPlan>(), std::runtime_error);
}

}  // namespace
}  // namespace annulus
