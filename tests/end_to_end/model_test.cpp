// `annulus model`, and networks of a user's own, as a user meets them.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/end_to_end/command.h"

namespace annulus {
namespace {

using Json = nlohmann::json;
using Words = std::vector<std::string>;

class Model : public testing::Test {
 protected:
  std::string model(Words words, int code = 0) {
    words.insert(words.begin(), "model");
    const Ended end = run_annulus(words, scratch_.here());
    EXPECT_EQ(end.code, code) << end.out << end.err;
    return code == 0 ? end.out : end.err;
  }
  // Trains for a few steps; returns the checksum of the weights.
  std::string train(const Words& flags) {
    const Ended end = run_annulus(with({"train"}, flags), scratch_.here());
    EXPECT_EQ(end.code, 0) << end.out << end.err;
    EXPECT_EQ(end.weights().size(), 16U) << end.out;
    return end.weights();
  }

  ScratchDirectory scratch_;
};

TEST_F(Model, ItsOutputIsAFileThatYieldsItAgain) {
  for (const char* name : {"mlp", "simplecnn", "resnet18", "resnet50"}) {
    const std::string text = model({name});
    write_file(scratch_ / "again.yaml", text);
    EXPECT_EQ(model({"again.yaml"}), text) << name;
  }
}

TEST_F(Model, TheExampleOfTheDocumentation) {
  const std::string example = std::string(ANNULUS_SOURCE) + "/docs/example_network.yaml";
  const std::string text = model({example, "--input", "1x28x28", "--batch", "2"});
  EXPECT_NE(text.find("name: small_resnet\n"), std::string::npos) << text;
  EXPECT_NE(text.find("Forward of 2 images of 1x28x28"), std::string::npos) << text;
  const Json json = Json::parse(model({example, "--input", "1x28x28", "--json"}));
  EXPECT_EQ(json.at("parameters"), 77'290);
  EXPECT_EQ(json.at("flops"), 52'109'056);
  EXPECT_EQ(json.at("layers").size(), 14U);
}

TEST_F(Model, TakesShapeAndClassesFromTheFile) {
  write_file(scratch_ / "net.yaml", "input: [1, 5, 4]\nclasses: 3\nlayers: [linear: {out: classes}]\n");
  const Json json = Json::parse(model({"net.yaml", "--json"}));
  EXPECT_EQ(json.at("name"), "net");
  EXPECT_EQ(json.at("input"), (Json{1, 5, 4}));
  EXPECT_EQ(json.at("parameters"), 63);
  EXPECT_NE(model({"net.yaml", "--input", "3x5x4"}, 2).find("net.yaml:1: input"), std::string::npos);
  const Json large = Json::parse(model({"resnet18", "--stem", "imagenet", "--json"}));
  EXPECT_EQ(large.at("input"), (Json{3, 224, 224}));
  EXPECT_EQ(large.at("parameters"), 11'689'512);
}

const Words kShort = {"--dataset", "synthetic", "--workers", "2", "--steps", "6"};
constexpr const char* kOwn =
    "name: own\n"
    "layers:\n"
    "  - conv: {out: 16, kernel: 3, relu: true}\n"
    "  - max_pool: {kernel: 2}\n"
    "  - linear: {out: classes}\n";

TEST_F(Model, ARunOfAUsersNetworkIsRepeatedFromItsOwnCopy) {
  write_file(scratch_ / "own.yaml", kOwn);
  const std::string weights = train(with(kShort, {"--model", "own.yaml", "--run-dir", "first"}));
  write_file(scratch_ / "own.yaml", "something else by now");
  EXPECT_EQ(train({"--config", "first/config.yaml", "--run-dir", "second"}), weights);
  EXPECT_EQ(read_file(scratch_ / "first/model.yaml"), read_file(scratch_ / "second/model.yaml"));
  EXPECT_EQ(read_file(scratch_ / "first/model.yaml").rfind("name: own\n", 0), 0U);
}

TEST_F(Model, ABuiltInNetworkTrainsAlikeByNameAndFromAFile) {
  write_file(scratch_ / "cnn.yaml", model({"simplecnn"}));
  EXPECT_EQ(train(with(kShort, {"--model", "cnn.yaml", "--run-dir", "file"})),
            train(with(kShort, {"--model", "simplecnn", "--run-dir", "name"})));
}

TEST_F(Model, ARunIsNamedAfterTheNetworkNotTheFile) {
  write_file(scratch_ / "file.yaml", kOwn);
  train(with(kShort, {"--model", "file.yaml"}));
  bool found = false;
  for (const std::string& path : scratch_.content()) found |= path.ends_with("-own/model.yaml");
  EXPECT_TRUE(found) << ::testing::PrintToString(scratch_.content());
}

}  // namespace
}  // namespace annulus
