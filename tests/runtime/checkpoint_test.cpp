#include "runtime/checkpoint.h"

#include <gtest/gtest.h>
#include <xxhash.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "runtime/checksum.h"
#include "runtime/train_config.h"
#include "tests/runtime/checkpoint_state.h"
#include "tests/runtime/data_files.h"

namespace annulus {
namespace {

std::vector<std::string> moments_of(const std::string& optimizer) {
  TrainConfig config;
  config.optimizer = optimizer;
  return moment_names(config);
}

std::string content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(CheckpointPlan, NamesTheMomentsAsPyTorchDoes) {
  EXPECT_EQ(moments_of("sgd"), std::vector<std::string>{});
  EXPECT_EQ(moments_of("momentum"), std::vector<std::string>{"momentum_buffer"});
  EXPECT_EQ(moments_of("nesterov"), std::vector<std::string>{"momentum_buffer"});
  EXPECT_EQ(moments_of("adam"), (std::vector<std::string>{"exp_avg", "exp_avg_sq"}));
  EXPECT_EQ(moments_of("adamw"), (std::vector<std::string>{"exp_avg", "exp_avg_sq"}));
}

TEST(CheckpointPlan, HoldsTheModelFirstThenMomentsOfWhatIsTrainedThenThePreviousWeights) {
  const RunToSave run(small_network(), moments_of("adam"), true);
  std::vector<std::string> names, shapes;
  for (const CheckpointTensor& tensor : run.plan.tensors) {
    names.push_back(tensor.info.name);
    shapes.push_back(text_of_shape(tensor.info.shape));
  }
  const std::vector<std::string> model = {
      "bn1.num_batches_tracked", "conv1.weight", "bn1.weight", "bn1.bias",   "bn1.running_mean",
      "bn1.running_var",         "fc1.weight",   "fc1.bias",   "fc2.weight", "fc2.bias"};
  std::vector<std::string> expected = model;
  for (const char* moment : {"exp_avg", "exp_avg_sq"}) {
    for (const std::string& name : model) {
      if (!name.starts_with("bn1.running") && !name.starts_with("bn1.num")) {
        expected.push_back(std::string("optimizer.") + moment + "." + name);
      }
    }
  }
  for (size_t i = 1; i < model.size(); ++i) expected.push_back("previous." + model[i]);
  EXPECT_EQ(names, expected);
  EXPECT_EQ(run.plan.model_tensors, 10);
  EXPECT_EQ((std::vector<std::string>(shapes.begin(), shapes.begin() + 10)),
            (std::vector<std::string>{"[]", "[5, 2, 3, 3]", "[5]", "[5]", "[5]", "[5]", "[7, 20]", "[7]",
                                      "[3, 7]", "[3]"}));
}

TEST(CheckpointPlan, RefusesNamesThatWouldMeanTwoTensors) {
  NetworkSpec spec = small_network();
  spec.layers[3].name = "previous.fc2";  // previous.fc2.weight is also fc2's weight one step earlier
  EXPECT_CONTAINS(user_error([&] { RunToSave(spec, {}, true); }), "two tensors called previous.fc2.weight");
  EXPECT_NO_THROW(RunToSave(spec, {}, false));
}

// Against what torchvision's models have: the whole list is compared in checkpoint_torch_test.
TEST(CheckpointPlan, HasTorchvisionsNamesAndNumbersOfTensors) {
  const RunToSave resnet18(make_network("resnet18", {3, 32, 32}, 10, "cifar"), {}, false);
  EXPECT_EQ(resnet18.plan.model_tensors, 122);
  std::vector<std::string> names;
  for (const CheckpointTensor& tensor : resnet18.plan.tensors) names.push_back(tensor.info.name);
  for (const char* name :
       {"conv1.weight", "bn1.running_mean", "layer2.0.downsample.0.weight",
        "layer2.0.downsample.1.num_batches_tracked", "layer4.1.bn2.running_var", "fc.bias"}) {
    EXPECT_NE(std::ranges::find(names, name), names.end()) << name;
  }
  const NetworkSpec spec = make_network("resnet50", {3, 32, 32}, 10, "cifar");
  EXPECT_EQ(RunToSave(spec, {}, false).plan.model_tensors, 320);
}

struct Saved {
  std::string network, optimizer;
  bool previous;
};
void PrintTo(const Saved& saved, std::ostream* out) {
  *out << saved.network << " " << saved.optimizer << (saved.previous ? " previous" : "");
}

class RoundTrip : public testing::TestWithParam<Saved> {};

TEST_P(RoundTrip, GivesBackEveryBit) {
  const Saved& saved = GetParam();
  const ImageShape input = saved.network == "mlp" ? ImageShape{1, 28, 28} : ImageShape{3, 32, 32};
  const RunToSave run(
      saved.network == "small" ? small_network() : make_network(saved.network, input, 10, "cifar"),
      moments_of(saved.optimizer), saved.previous);
  StateOfRun state = run.random(5);
  const TempDir directory;
  const std::string path = run.write(directory.path(), 123, state);
  EXPECT_EQ(path, directory.path("step-0000000123.safetensors"));

  const Checkpoint checkpoint(path);
  EXPECT_EQ(checkpoint.step(), 123U);
  EXPECT_EQ(checkpoint.epoch(), 3);
  EXPECT_EQ(checkpoint.seed(), run.texts.seed);
  EXPECT_EQ(checkpoint.config(), run.texts.config);
  EXPECT_EQ(checkpoint.model(), run.texts.model);
  EXPECT_EQ(checkpoint.network(), run.spec.name);
  EXPECT_EQ(checkpoint.weights(),
            format_checksum(weights_checksum(run.network, run.buckets, state.weights.data())));
  EXPECT_EQ(std::ssize(checkpoint.model_tensors()), run.plan.model_tensors);
  ASSERT_EQ(checkpoint.tensors().size(), run.plan.tensors.size());
  EXPECT_EQ(checkpoint.bytes() % 64, run.plan.data_bytes() % 64);
  const StateOfRun again = run.restored(checkpoint);
  for (const StateArray array :
       {StateArray::kWeights, StateArray::kFirstMoment, StateArray::kSecondMoment, StateArray::kPrevious}) {
    // Bits, not values: -0 and NaNs count.
    const size_t floats = array == StateArray::kWeights        ? state.weights.size()
                          : array == StateArray::kFirstMoment  ? state.moments[0].size()
                          : array == StateArray::kSecondMoment ? state.moments[1].size()
                                                               : state.previous.size();
    StateOfRun copy = again;
    EXPECT_EQ(floats == 0 ? 0 : std::memcmp(copy.array(array), state.array(array), floats * sizeof(float)),
              0);
  }
}

INSTANTIATE_TEST_SUITE_P(All, RoundTrip,
                         testing::Values(Saved{"small", "sgd", false}, Saved{"small", "adam", true},
                                         Saved{"mlp", "sgd", false}, Saved{"mlp", "momentum", false},
                                         Saved{"mlp", "adamw", true}, Saved{"simplecnn", "sgd", true},
                                         Saved{"simplecnn", "nesterov", false},
                                         Saved{"simplecnn", "adam", false}, Saved{"resnet18", "sgd", false},
                                         Saved{"resnet18", "momentum", true},
                                         Saved{"resnet18", "adam", false}));

class CheckpointFile : public testing::Test {
 protected:
  std::string refusal(const std::string& bytes) {
    std::ofstream(directory_.path("damaged"), std::ios::binary) << bytes;
    return user_error([&] { Checkpoint{directory_.path("damaged")}; });
  }
  // `bytes` with its checksum made anew.
  static std::string signed_again(std::string bytes) {
    const size_t at = bytes.find("\"checksum\":\"") + 12;
    bytes.replace(at, 16, 16, '0');
    bytes.replace(at, 16, format_checksum(XXH64(bytes.data(), bytes.size(), 0)).substr(6));
    return bytes;
  }
  static std::string replaced(std::string bytes, const std::string& from, const std::string& to) {
    EXPECT_EQ(from.size(), to.size());
    const size_t at = bytes.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return bytes.replace(at, from.size(), to);
  }

  TempDir directory_;
  RunToSave run_{small_network(), moments_of("adam"), true};
  StateOfRun state_ = run_.random(1);
  std::string path_ = run_.write(directory_.path(), 70, state_);
};

TEST_F(CheckpointFile, TensorsLieAsPyTorchWantsThem) {
  const Checkpoint checkpoint(path_);
  for (const CheckpointTensor& tensor : run_.plan.tensors) {
    if (tensor.array == StateArray::kCount) {
      int64_t count = 0;
      std::memcpy(&count, checkpoint.bytes_of(tensor.info).data(), sizeof count);
      EXPECT_EQ(count, 70);
      continue;
    }
    // Element by element, by the layout's own rule.
    const std::span<const float> values = checkpoint.values(tensor.info.name);
    size_t i = 0;
    std::array<int64_t, 4> at{};
    const auto& dims = tensor.layout.dims;
    const int64_t size[4] = {dims[0], tensor.layout.dims_count > 1 ? dims[1] : 1,
                             tensor.layout.dims_count > 2 ? dims[2] : 1,
                             tensor.layout.dims_count > 3 ? dims[3] : 1};
    for (at[0] = 0; at[0] < size[0]; ++at[0]) {
      for (at[1] = 0; at[1] < size[1]; ++at[1]) {
        for (at[2] = 0; at[2] < size[2]; ++at[2]) {
          for (at[3] = 0; at[3] < size[3]; ++at[3]) {
            const int64_t place =
                tensor.layout.offset(std::span(at).first(static_cast<size_t>(tensor.layout.dims_count)));
            ASSERT_EQ(values[i++], state_.array(tensor.array)[tensor.offset + place]) << tensor.info.name;
          }
        }
      }
    }
    EXPECT_EQ(i, values.size());
  }
}

TEST_F(CheckpointFile, AllItsBytesAreCoveredByItsChecksum) {
  // As anybody would check it: xxh64 of the file with zeros for the digits, which begin at byte 37.
  std::string bytes = content(path_);
  const std::string digits = bytes.substr(37, 16);
  EXPECT_EQ(bytes, signed_again(bytes));
  bytes.replace(37, 16, 16, '0');
  EXPECT_EQ("xxh64=" + digits, format_checksum(XXH64(bytes.data(), bytes.size(), 0)));
}

TEST_F(CheckpointFile, EqualStatesGiveEqualFiles) {
  const std::string first = content(path_);
  run_.write(directory_.path(), 70, state_);
  EXPECT_EQ(content(path_), first);
}

TEST_F(CheckpointFile, EveryFlippedBitIsFound) {
  const std::string whole = content(path_);
  const size_t data = whole.size() - static_cast<size_t>(run_.plan.data_bytes());
  std::vector<size_t> places;
  for (size_t at = 0; at < data; ++at) places.push_back(at);  // length, JSON with all its fields, padding
  for (const CheckpointTensor& tensor : run_.plan.tensors) {
    const auto begin = data + static_cast<size_t>(tensor.info.begin);
    const auto end = data + static_cast<size_t>(tensor.info.end);
    for (const size_t at : {begin, begin + (end - begin) / 2, end - 1}) places.push_back(at);
  }
  for (const size_t at : places) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ (1 << (at % 8)));
    const std::string text = refusal(damaged);
    EXPECT_EQ(text.rfind(directory_.path("damaged") + ": ", 0), 0U) << at << ": " << text;
  }
  EXPECT_CONTAINS(refusal(replaced(whole, "\"step\":\"70\"", "\"step\":\"71\"")),
                  "it is damaged: its checksum is");
}

TEST_F(CheckpointFile, EveryCutIsFound) {
  const std::string whole = content(path_);
  const size_t data = whole.size() - static_cast<size_t>(run_.plan.data_bytes());
  std::vector<size_t> sizes = {0, 1, 7, 8, 9, 36, 40, 60, data / 2, data - 1, data, whole.size() - 1};
  for (const CheckpointTensor& tensor : run_.plan.tensors) {
    sizes.push_back(data + static_cast<size_t>(tensor.info.begin));
    sizes.push_back(data + static_cast<size_t>(tensor.info.begin + tensor.info.end) / 2);
  }
  for (const size_t size : sizes) EXPECT_CONTAINS(refusal(whole.substr(0, size)), "the file is cut short");
  EXPECT_CONTAINS(refusal(whole + '\0'), "1 bytes too many");
  EXPECT_CONTAINS(refusal(whole + whole), "too many");
  std::string zeros = whole;  // what a crash of the machine may leave of a file that was not synced
  std::fill(zeros.begin() + static_cast<int64_t>(data), zeros.end(), '\0');
  EXPECT_CONTAINS(refusal(zeros), "it is damaged");
  EXPECT_CONTAINS(refusal(std::string(whole.size(), '\0')), "does not begin with {");
}

TEST_F(CheckpointFile, AnotherProgramsFileIsRefused) {
  const std::string whole = content(path_);
  EXPECT_CONTAINS(refusal(safetensors_head({{"format", "pt"}}, {})), "was not written by annulus train");
  EXPECT_CONTAINS(refusal(signed_again(replaced(whole, "checkpoint\":\"1\"", "checkpoint\":\"2\""))),
                  "a checkpoint of format 2, and this build reads format 1");
  EXPECT_CONTAINS(refusal(signed_again(replaced(whole, "\"step\"", "\"stop\""))), "has no step");
  EXPECT_CONTAINS(refusal(signed_again(replaced(whole, "\"step\":\"70\"", "\"step\":\"7x\""))),
                  "its step is 7x, no whole number");
  EXPECT_CONTAINS(refusal(signed_again(replaced(whole, "\"step\":\"70\"", "\"step\":\"-7\""))),
                  "its step is -7");
  EXPECT_CONTAINS(
      refusal(signed_again(replaced(whole, "\"model_tensors\":\"10\"", "\"model_tensors\":\"99\""))),
      "its model_tensors is 99");
  EXPECT_CONTAINS(refusal(signed_again(replaced(whole, "\"weights\":\"xxh64=", "\"weights\":\"xxh65="))),
                  "whoever wrote it made a mistake");
}

TEST_F(CheckpointFile, FitsItsOwnNetworkAlone) {
  const Checkpoint checkpoint(path_);
  EXPECT_NO_THROW(checkpoint.check_fits(run_.plan));
  const auto refused = [&](const NetworkSpec& spec, const std::string& optimizer) {
    const RunToSave other(spec, moments_of(optimizer), true);
    return user_error([&] { checkpoint.check_fits(other.plan); });
  };
  const std::string shapes = refused(small_network(6), "adam");
  EXPECT_CONTAINS(shapes, "tensor conv1.weight is F32 [5, 2, 3, 3] in it, and F32 [6, 2, 3, 3] in this run");
  EXPECT_CONTAINS(shapes, path_);
  NetworkSpec spec = small_network();
  spec.layers[3].name = "head";
  EXPECT_CONTAINS(refused(spec, "adam"),
                  "it has no tensor head.weight, which is [7, 20] in this run of small");
  EXPECT_CONTAINS(refused(small_network(), "momentum"), "no tensor optimizer.momentum_buffer.conv1.weight");
  EXPECT_CONTAINS(refused(small_network(), "sgd"),
                  "its tensor optimizer.exp_avg.conv1.weight [5, 2, 3, 3] is not part of this run");
  // Weights of the step before may be left over, but not be missing.
  EXPECT_NO_THROW(checkpoint.check_fits(RunToSave(small_network(), moments_of("adam"), false).plan));
  const RunToSave without(small_network(), moments_of("adam"), false);
  StateOfRun state = without.random(2);
  const Checkpoint fresh(without.write(directory_.path(), 71, state));
  EXPECT_CONTAINS(user_error([&] { fresh.check_fits(run_.plan); }), "it has no tensor previous.conv1.weight");
}

TEST_F(CheckpointFile, ValuesAreThereByName) {
  const Checkpoint checkpoint(path_);
  EXPECT_EQ(checkpoint.values("fc2.bias").size(), 3U);
  EXPECT_CONTAINS(user_error([&] { (void)checkpoint.values("fc3.bias"); }), "no tensor fc3.bias of type F32");
  EXPECT_CONTAINS(user_error([&] { (void)checkpoint.values("bn1.num_batches_tracked"); }), "of type F32");
}

TEST_F(CheckpointFile, ExportHoldsTheModelAlone) {
  const Checkpoint checkpoint(path_);
  const std::string out = directory_.path("model.safetensors");
  checkpoint.export_model(out);
  const SafetensorsFile file(out);
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.metadata().at("step"), "70");
  EXPECT_EQ(file.metadata().at("weights"), checkpoint.weights());
  ASSERT_EQ(file.tensors().size(), 10U);
  for (const TensorInfo& tensor : checkpoint.model_tensors()) {
    const TensorInfo* const found = file.find(tensor.name);
    ASSERT_NE(found, nullptr);
    EXPECT_EQ(found->shape, tensor.shape);
    EXPECT_TRUE(std::ranges::equal(file.bytes(*found), checkpoint.bytes_of(tensor)));
  }
  EXPECT_CONTAINS(user_error([&] { checkpoint.export_model(out); }),
                  "it is there already; give another name");
  // An exported model is not a checkpoint: a run cannot go on from it.
  EXPECT_CONTAINS(user_error([&] { Checkpoint{out}; }), "not written by annulus train");
}

}  // namespace
}  // namespace annulus
