// `annulus checkpoint`, as a user meets it.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <nlohmann/json.hpp>

#include "runtime/checkpoint_directory.h"
#include "tests/end_to_end/command.h"
#include "tests/runtime/checkpoint_state.h"

namespace annulus {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

class CheckpointCommand : public testing::Test {
 protected:
  CheckpointCommand() {
    fs::create_directory(scratch_ / "run");
    for (const uint32_t step : {10U, 20U, 30U}) {
      StateOfRun state = run_.random(step);
      run_.write(scratch_ / "run", step, state);
    }
  }
  Ended checkpoint(Words words, int code = 0) {
    words.insert(words.begin(), "checkpoint");
    Ended end = run_annulus(words, scratch_.here());
    EXPECT_EQ(end.code, code) << end.out << end.err;
    return end;
  }
  // The one line that refuses the command.
  std::string refusal(const Words& words) {
    const Ended end = checkpoint(words, 2);
    EXPECT_EQ(end.out, "");
    EXPECT_EQ(std::ranges::count(end.err, '\n'), 1) << end.err;
    EXPECT_EQ(end.err.rfind("annulus: ", 0), 0U) << end.err;
    return end.err;
  }
  void damage(const std::string& name) {
    std::string bytes = read_file(scratch_ / name);
    bytes[bytes.size() / 2] ^= 1;
    write_file(scratch_ / name, bytes);
  }
  std::string weights(uint32_t step) const {
    return Checkpoint(scratch_ / ("run/" + checkpoint_name(step))).weights();
  }

  ScratchDirectory scratch_;
  RunToSave run_{small_network(), {"exp_avg", "exp_avg_sq"}, true};
};

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST_F(CheckpointCommand, ShowsWhatAFileHolds) {
  const std::string text = checkpoint({"show", "run/step-0000000020.safetensors"}).out;
  for (const std::string& part :
       {std::string("run/step-0000000020.safetensors\n"), std::string("network  small, 271 parameters\n"),
        std::string("step     20, in epoch 3\n"), std::string("seed     18000000000000000000\n"),
        "weights  " + weights(20) + "\n", std::string("conv1.weight             F32   [5, 2, 3, 3]\n"),
        std::string("bn1.num_batches_tracked  I64   []\n"),
        std::string("fc1.weight               F32   [7, 20]\n"),
        std::string("and 7 more called optimizer.exp_avg.*"),
        std::string("and 7 more called optimizer.exp_avg_sq.*"),
        std::string("and 9 more called previous.*")}) {
    EXPECT_TRUE(has(text, part)) << part << "\n" << text;
  }
}

TEST_F(CheckpointCommand, ShowsTheSameAsJson) {
  const nlohmann::json json = nlohmann::json::parse(checkpoint({"show", "--json", "run"}).out);
  EXPECT_EQ(json.at("path"), "run/step-0000000030.safetensors");
  EXPECT_EQ(json.at("step"), 30);
  EXPECT_EQ(json.at("epoch"), 3);
  EXPECT_EQ(json.at("seed"), 18'000'000'000'000'000'000U);
  EXPECT_EQ(json.at("network"), "small");
  EXPECT_EQ(json.at("parameters"), 271);
  EXPECT_EQ(json.at("weights"), weights(30));
  EXPECT_EQ(json.at("config"), run_.texts.config);
  EXPECT_EQ(json.at("model"), run_.texts.model);
  EXPECT_EQ(json.at("model_tensors"), 10);
  ASSERT_EQ(json.at("tensors").size(), run_.plan.tensors.size());
  EXPECT_EQ(json.at("tensors")[1],
            nlohmann::json::parse(R"({"name":"conv1.weight","dtype":"F32","shape":[5,2,3,3]})"));
}

TEST_F(CheckpointCommand, VerifiesFilesAndDirectories) {
  const Ended end = checkpoint({"verify", "run", "run/step-0000000010.safetensors"});
  std::string expected;
  for (const uint32_t step : {30U, 20U, 10U, 10U}) {
    expected += "run/" + checkpoint_name(step) + ": ok, step " + std::to_string(step) + ", weights " +
                weights(step) + "\n";
  }
  EXPECT_EQ(end.out, expected);
  EXPECT_EQ(end.err, "");
}

TEST_F(CheckpointCommand, NamesTheDamagedOnesAndWhy) {
  damage("run/step-0000000020.safetensors");
  const Ended end = checkpoint({"verify", "run", "missing"}, 1);
  EXPECT_TRUE(has(end.out, "run/step-0000000030.safetensors: ok")) << end.out;
  EXPECT_TRUE(has(end.out, "run/step-0000000020.safetensors: it is damaged: its checksum is ")) << end.out;
  EXPECT_TRUE(has(end.out, "run/step-0000000010.safetensors: ok")) << end.out;
  EXPECT_TRUE(has(end.out, "cannot open missing: No such file")) << end.out;
  EXPECT_EQ(end.err, "annulus: 2 of 4 checkpoints cannot be used\n");
  EXPECT_TRUE(has(refusal({"show", "run/step-0000000020.safetensors"}), "it is damaged"));
  EXPECT_TRUE(has(refusal({"export", "run/step-0000000020.safetensors", "out"}), "it is damaged"));
}

TEST_F(CheckpointCommand, OfADirectoryTheLatestIntactOneIsShown) {
  damage("run/step-0000000030.safetensors");
  const Ended end = checkpoint({"show", "run"});
  EXPECT_EQ(end.out.rfind("run/step-0000000020.safetensors\n", 0), 0U) << end.out;
  EXPECT_EQ(end.err.rfind("warning: skipped: run/step-0000000030.safetensors: it is damaged", 0), 0U)
      << end.err;
}

TEST_F(CheckpointCommand, ExportsTheModelAloneAndOverwritesNothing) {
  const Ended end = checkpoint({"export", "run/step-0000000020.safetensors", "model.safetensors"});
  EXPECT_EQ(end.out, "model.safetensors: 10 tensors of small after step 20, weights " + weights(20) + "\n");
  const SafetensorsFile file(scratch_ / "model.safetensors");
  EXPECT_EQ(file.tensors().size(), 10U);
  const std::string before = read_file(scratch_ / "model.safetensors");
  EXPECT_TRUE(has(refusal({"export", "run", "model.safetensors"}), "model.safetensors: it is there already"));
  EXPECT_EQ(read_file(scratch_ / "model.safetensors"), before);
  EXPECT_TRUE(has(refusal({"show", "model.safetensors"}), "was not written by annulus train"));
}

TEST_F(CheckpointCommand, AnExportThatCannotBeWrittenLeavesNothing) {
  EXPECT_TRUE(has(refusal({"export", "run", "none/out"}),
                  "cannot write none/out: open: No such file or directory; make"));
  const Words before = scratch_.content();
  CommandOptions small = scratch_.here();
  small.limits = {{RLIMIT_FSIZE, 1000}};
  const Ended end = run_annulus({"checkpoint", "export", "run", "out"}, small);
  EXPECT_EQ(end.code, 2);
  EXPECT_TRUE(has(end.err, "cannot write out: write: File too large; raise the limit")) << end.err;
  EXPECT_EQ(scratch_.content(), before);
}

TEST_F(CheckpointCommand, WhatIsNoCheckpointIsRefusedWithARemedy) {
  write_file(scratch_ / "text", std::string(5000, 'x'));
  fs::create_directory(scratch_ / "empty");
  EXPECT_TRUE(has(refusal({"show", "text"}), "text: its first 8 bytes announce a header"));
  EXPECT_TRUE(
      has(refusal({"show", "empty"}), "empty: there is no checkpoint (step-*.safetensors) in it; give"));
  EXPECT_TRUE(has(refusal({"verify", "empty"}), "empty: there is no checkpoint"));
  EXPECT_TRUE(has(refusal({"show", "missing"}), "cannot open missing: No such file"));
  EXPECT_TRUE(has(refusal({"show", "/dev/zero"}), "a device, pipe or socket, not a file"));
  EXPECT_TRUE(has(refusal({"verfy", "run"}), "checkpoint verfy: unknown action; did you mean verify?"));
  const Ended help = run_annulus({"checkpoint", "--help"});
  EXPECT_EQ(help.code, 0);
  EXPECT_TRUE(has(help.out, "usage: annulus checkpoint ACTION")) << help.out;
  EXPECT_TRUE(has(run_annulus({"--help"}).out, "\n  annulus checkpoint show|verify|export "));
}

}  // namespace
}  // namespace annulus
