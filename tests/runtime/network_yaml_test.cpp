#include "runtime/network_yaml.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "runtime/models.h"
#include "runtime/network_cost.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

NetworkSpec read(const std::string& yaml, const ImageShape& input = {3, 32, 32}, int classes = 10) {
  return resolve_network(parse_network(yaml, "net.yaml"), input, classes);
}

std::string layers(const std::string& lines) { return "layers:\n" + lines + "  - linear: {out: classes}\n"; }

// The message of reading it; it must name file and line.
std::string error_of(const std::string& yaml, int line, const ImageShape& input = {3, 32, 32}) {
  try {
    read(yaml, input);
  } catch (const UserError& error) {
    const std::string text = error.what();
    EXPECT_TRUE(text.starts_with("net.yaml:" + std::to_string(line) + ":")) << text;
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
    return text;
  }
  ADD_FAILURE() << "accepted:\n" << yaml;
  return "";
}

#define EXPECT_IN(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

TEST(NetworkYaml, ReadsEveryKindOfLayer) {
  const NetworkSpec spec = read(R"(
name: mine
layers:
  - conv: {out: 16, kernel: 5, stride: 2, padding: 2, bias: false, name: stem}
  - batch_norm: {relu: true}
  - max_pool: {kernel: 3, stride: 2, padding: 1}
  - conv:
      out: 16
      kernel: 1
      relu: on
  - average_pool
  - linear: {out: 20, relu: true, bias: no}
  - linear: {out: classes}
)");
  EXPECT_EQ(spec.name, "mine");
  EXPECT_EQ(spec.input, (ImageShape{3, 32, 32}));
  EXPECT_EQ(spec.classes, 10);
  const std::vector<LayerSpec> expected{
      {.kind = LayerKind::kConvolution,
       .name = "stem",
       .out = 16,
       .kernel = 5,
       .stride = 2,
       .padding = 2,
       .bias = false},
      {.kind = LayerKind::kBatchNorm, .name = "bn1", .relu = true},
      {.kind = LayerKind::kMaxPool, .name = "pool1", .kernel = 3, .stride = 2, .padding = 1},
      {.kind = LayerKind::kConvolution, .name = "conv2", .out = 16, .kernel = 1, .relu = true},
      {.kind = LayerKind::kAveragePool, .name = "avgpool1"},
      {.kind = LayerKind::kLinear, .name = "fc1", .out = 20, .bias = false, .relu = true},
      {.kind = LayerKind::kLinear, .name = "fc2", .out = 10}};
  EXPECT_EQ(spec.layers, expected);
}

TEST(NetworkYaml, ReadsResidualBlocks) {
  const std::vector<LayerSpec> found = read(R"(layers:
  - residual:
      name: a
      relu: true
      layers: [conv: {out: 8, kernel: 3, padding: 1}, batch_norm]
      shortcut: [conv: {out: 8, kernel: 1}]
  - residual: {layers: [batch_norm: {relu: true}]}
  - linear: {out: classes}
)")
                                           .layers;
  ASSERT_EQ(found.size(), 6U);
  EXPECT_EQ(
      found[2],
      (LayerSpec{.kind = LayerKind::kBatchNorm, .name = "a.bn1", .relu = true, .input = 1, .addend = 2}));
  EXPECT_EQ(found[1].name, "a.downsample.0");
  EXPECT_EQ(found[1].input, 0);
  EXPECT_EQ(found[4], (LayerSpec{.kind = LayerKind::kAdd, .name = "block2.add", .addend = 3}));
}

TEST(NetworkYaml, BuiltInNetworksAreReadBackAsTheyWereWritten) {
  for (const std::string& model : model_names()) {
    for (const std::string& stem : stem_names()) {
      const NetworkSpec spec = make_network(model, {3, 64, 64}, 17, stem);
      EXPECT_EQ(read(to_yaml(spec), {3, 64, 64}, 17), spec) << to_yaml(spec);
    }
  }
}

TEST(NetworkYaml, AWrittenNetworkFitsOtherDataToo) {
  const std::string yaml = to_yaml(make_network("resnet18", {3, 32, 32}, 10));
  EXPECT_EQ(read(yaml, {1, 28, 28}, 47), make_network("resnet18", {1, 28, 28}, 47));
}

TEST(NetworkYaml, WritesWhatAPersonWould) {
  EXPECT_EQ(to_yaml(make_network("simplecnn", {1, 28, 28}, 10)), R"(name: simplecnn
layers:
  - conv: {out: 32, kernel: 3, relu: true}
  - max_pool: {kernel: 2}
  - conv: {out: 64, kernel: 3, relu: true}
  - max_pool: {kernel: 2}
  - linear: {out: 128, relu: true}
  - linear: {out: classes}
)");
  const std::string yaml = to_yaml(make_network("resnet18", {3, 32, 32}, 10));
  EXPECT_IN(yaml, R"(  - residual:
      name: layer2.0
      relu: true
      layers:
        - conv: {out: 128, kernel: 3, stride: 2, padding: 1, bias: false}
        - batch_norm: {relu: true}
        - conv: {out: 128, kernel: 3, padding: 1, bias: false}
        - batch_norm
      shortcut:
        - conv: {out: 128, kernel: 1, stride: 2, bias: false}
        - batch_norm
)");
}

TEST(NetworkYaml, ANameThatYamlWouldTakeForNothingIsReadBack) {
  const NetworkSpec spec = read("name: \"null\"\n" + layers("  - batch_norm: {name: \"Null\"}\n"));
  EXPECT_EQ(spec.name, "null");
  EXPECT_EQ(read(to_yaml(spec)), spec) << to_yaml(spec);
}

TEST(NetworkYaml, TheFilesNameIsTheNetworksWhereItGivesNone) {
  const std::string yaml = layers("");
  EXPECT_EQ(parse_network(yaml, "some/where/my net.v2.yaml").name, "my_net_v2");
  EXPECT_EQ(parse_network(yaml, "/dev/fd/63").name, "63");
}

TEST(NetworkYaml, WhatTheFileSaysOfTheDataMustHold) {
  const std::string yaml = "input: [1, 28, 28]\nclasses: 10\n" + layers("");
  EXPECT_EQ(read(yaml, {1, 28, 28}).input, (ImageShape{1, 28, 28}));
  const std::string error = error_of(yaml, 1);
  EXPECT_IN(error, "1x28x28");
  EXPECT_IN(error, "3x32x32");
  EXPECT_IN(error_of("name: a\nclasses: 7\n" + layers(""), 2), "7 classes, the data has 10");
}

TEST(NetworkYaml, UnknownWordsGetTheNearestName) {
  EXPECT_IN(error_of(layers("  - convv: {out: 4, kernel: 3}\n"), 2), "did you mean conv?");
  EXPECT_IN(error_of(layers("  - maxpool: {kernel: 2}\n"), 2), "did you mean max_pool?");
  EXPECT_IN(error_of(layers("  - lstm\n"), 2), "there are conv, batch_norm");
  EXPECT_IN(error_of(layers("  - relu\n"), 2), "relu: true");
  EXPECT_IN(error_of(layers("  - conv: {out: 4, kernell: 3}\n"), 2), "did you mean kernel?");
  EXPECT_IN(error_of("layer:\n  - batch_norm\n", 1), "did you mean layers?");
  EXPECT_IN(error_of(layers("  - residual:\n      layers: [batch_norm]\n      shortcuts: [batch_norm]\n"), 4),
            "did you mean shortcut?");
  EXPECT_IN(error_of(layers("  - average_pool: {kernel: 2}\n"), 2), "there are name");
}

TEST(NetworkYaml, WrongValuesAreRefusedWithWhatIsRight) {
  EXPECT_IN(error_of(layers("  - conv: {kernel: 3}\n"), 2), "out is missing");
  EXPECT_IN(error_of(layers("  - conv: {out: 4}\n"), 2), "kernel is missing");
  EXPECT_IN(error_of(layers("  - max_pool\n"), 2), "kernel is missing");
  EXPECT_IN(error_of(layers("  - residual: {relu: true}\n"), 2), "layers is missing");
  EXPECT_IN(error_of(layers("  - conv: {out: 4, kernel: 3.5}\n"), 2), "kernel: 3.5: not a whole number");
  EXPECT_IN(error_of(layers("  - conv: {out: many, kernel: 3}\n"), 2), "out: many: not a whole number");
  EXPECT_IN(error_of(layers("  - conv: {out: 0, kernel: 3}\n"), 2), "out of range");
  EXPECT_IN(error_of(layers("  - conv: {out: -1, kernel: 3}\n"), 2), "out of range");
  EXPECT_IN(error_of(layers("  - conv: {out: 99999999999, kernel: 3}\n"), 2), "out of range");
  EXPECT_IN(error_of(layers("  - conv: {out: 4, kernel: 3, padding: 3}\n"), 2), "padding 3");
  EXPECT_IN(error_of(layers("  - max_pool: {kernel: 16}\n"), 2), "from 1 to 15");
  EXPECT_IN(error_of(layers("  - max_pool: {kernel: 3, padding: 2}\n"), 2), "padding 2");
  EXPECT_IN(error_of(layers("  - batch_norm: {relu: maybe}\n"), 2), "true or false");
  EXPECT_IN(error_of(layers("  - conv: {out: [4], kernel: 3}\n"), 2), "single value");
  EXPECT_IN(error_of(layers("  - conv: {out: 4, out: 5, kernel: 3}\n"), 2), "given twice");
  EXPECT_IN(error_of(layers("  - conv: {out: , kernel: 3}\n"), 2), "no value");
  EXPECT_IN(error_of(layers("  - conv: 64\n"), 2), "no map");
  EXPECT_IN(error_of(layers("  - [conv]\n"), 2), "not a layer");
  EXPECT_IN(error_of(layers("  - conv:\n    out: 4\n    kernel: 3\n"), 2), "a layer with 3 keys");
  EXPECT_IN(error_of(layers("  - batch_norm: {name: my layer}\n"), 2), "my layer");
  EXPECT_IN(error_of(layers("  - residual: {layers: [batch_norm: {name: a.b}]}\n"), 2), "a.b");
  EXPECT_IN(error_of("layers: 3\n", 1), "not a list of one layer");
  EXPECT_IN(error_of(layers("  -\n"), 3), "a dash without a layer");
  EXPECT_IN(error_of("layers: []\n", 1), "not a list of one layer");
  EXPECT_IN(error_of("name: a\n", 1), "no layers");
  EXPECT_IN(error_of("input: [3, 32]\n" + layers(""), 1), "[channels, height, width]");
}

TEST(NetworkYaml, LayersThatDoNotFitTogetherAreRefused) {
  const std::string sum = error_of(layers(R"(  - conv: {out: 8, kernel: 3, padding: 1}
  - residual:
      name: first
      layers:
        - conv: {out: 16, kernel: 3, stride: 2, padding: 1}
        - batch_norm
)"),
                                   7);
  EXPECT_IN(sum, "first.bn1");
  EXPECT_IN(sum, "16x16x16");
  EXPECT_IN(sum, "8x32x32");
  const std::string small = error_of(layers("  - conv: {out: 8, kernel: 7}\n"), 2, {3, 5, 5});
  EXPECT_IN(small, "conv1");
  EXPECT_IN(small, "3x5x5");
  const std::string twice =
      error_of(layers("  - batch_norm: {name: a}\n  - batch_norm\n  - batch_norm: {name: a}\n"), 4);
  EXPECT_IN(twice, "layer a");
  EXPECT_IN(twice, "line 2");
  EXPECT_IN(error_of("layers:\n  - batch_norm\n", 2), "the last layer is not linear");
  EXPECT_IN(error_of("layers:\n  - linear: {out: 7}\n", 2), "7 outputs");
}

TEST(NetworkYaml, TextThatIsNoNetworkIsRefused) {
  EXPECT_IN(error_of("- conv\n", 1), "not a map");
  EXPECT_IN(error_of("just words\n", 1), "not a map");
  EXPECT_IN(error_of("layers: [\n", 2), "does not parse");
  EXPECT_IN(error_of("layers:\n\t- conv\n", 2), "does not parse");
  EXPECT_IN(error_of(layers("") + "---\n" + layers(""), 4), "second YAML document");
  for (const char* nothing : {"", "\n", "# only a comment\n", "---\n"}) {
    try {
      read(nothing);
      ADD_FAILURE() << nothing;
    } catch (const UserError& error) {
      EXPECT_IN(std::string(error.what()), "net.yaml: empty");
    }
  }
}

TEST(NetworkYaml, TextThatGrowsByRepeatingItselfIsRefused) {
  // Ten times ten times ten ... layers.
  std::string yaml = "layers:\n  - residual: {layers: &a0 [batch_norm, batch_norm]}\n";
  for (int i = 1; i < 8; ++i) {
    yaml += "  - residual: {layers: &a" + std::to_string(i) + " [";
    for (int k = 0; k < 10; ++k) yaml += "residual: {layers: *a" + std::to_string(i - 1) + "}, ";
    yaml += "]}\n";
  }
  EXPECT_THROW(parse_network(yaml, "net.yaml"), UserError);
  EXPECT_THROW(parse_network("layers: &a [residual: {layers: *a}]\n", "net.yaml"), UserError);
  EXPECT_THROW(parse_network("layers: " + std::string(100'000, '['), "net.yaml"), UserError);
}

// Whatever is read is written back; whatever is not is the user's error, never another one.
TEST(NetworkYaml, DamagedTextIsReadOrRefused) {
  const std::string whole = to_yaml(make_network("resnet18", {3, 32, 32}, 10));
  const std::string letters = "{}[]:,-&*!|>'\"%@`#? \n\t013azé";
  std::mt19937 random(1);
  int accepted = 0;
  for (int round = 0; round < 2000; ++round) {
    std::string yaml = whole;
    for (unsigned slips = 1 + random() % 3; slips > 0; --slips) {
      const size_t at = random() % yaml.size();
      if (random() % 2 == 0) yaml.erase(at, 1 + random() % 20);
      if (random() % 2 == 0) yaml.insert(std::min(at, yaml.size()), 1, letters[random() % letters.size()]);
    }
    try {
      const NetworkSpec spec = read(yaml);
      ++accepted;
      ASSERT_EQ(read(to_yaml(spec)), spec) << yaml;
    } catch (const UserError&) {
    }
  }
  EXPECT_GT(accepted, 50);
  EXPECT_LT(accepted, 1950);
}

TEST(NetworkYaml, TooLargeANetworkIsRefused) {
  const std::string yaml =
      "layers:\n  - conv: {out: 65536, kernel: 255, padding: 254}\n"
      "  - conv: {out: 65536, kernel: 255, padding: 254}\n  - linear: {out: classes}\n";
  try {
    read(yaml);
    FAIL();
  } catch (const UserError& error) {
    EXPECT_IN(std::string(error.what()), "net.yaml: layer conv1 is too large");
  }
}

}  // namespace
}  // namespace annulus
