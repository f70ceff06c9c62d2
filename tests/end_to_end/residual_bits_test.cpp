// The promise about bits for networks with batch norm and shortcuts, in fp32 and in bf16. The checksum is
// that of all weights, the running statistics among them.
#include <cstdlib>

#include "tests/end_to_end/bits_of_runs.h"
#include "tests/runtime/data_files.h"

namespace annulus {
namespace {

// Two residual blocks, the second one with a stride and a convolution in its shortcut; channels that fill
// blocks by half.
constexpr const char* kNetwork = R"(layers:
  - conv: {out: 8, kernel: 3, stride: 2, padding: 1, bias: false}
  - batch_norm: {relu: true}
  - residual:
      relu: true
      layers:
        - conv: {out: 8, kernel: 3, padding: 1, bias: false}
        - batch_norm: {relu: true}
        - conv: {out: 8, kernel: 3, padding: 1, bias: false}
        - batch_norm
  - residual:
      relu: true
      layers:
        - conv: {out: 16, kernel: 3, stride: 2, padding: 1, bias: false}
        - batch_norm: {relu: true}
        - conv: {out: 16, kernel: 3, padding: 1, bias: false}
        - batch_norm
      shortcut:
        - conv: {out: 16, kernel: 1, stride: 2, bias: false}
        - batch_norm
  - linear: {out: classes}
)";

const Words kRun = {"train",   "--dataset", "synthetic",    "--model", "net.yaml", "--shards",   "12",
                    "--lr",    "0.02",      "--seed",       "7",       "--quiet",  "--deadline", "100",
                    "--steps", "8",         "--batch-size", "96"};

Words without(Words words, const std::string& flag) {
  const auto found = std::find(words.begin(), words.end(), flag);
  words.erase(found, found + 2);
  return words;
}

// In both precisions; bf16 is left out, loudly, where the processor lacks it.
class ResidualBits : public BitsOfRuns, public ::testing::WithParamInterface<const char*> {
 protected:
  ResidualBits() : BitsOfRuns(with(kRun, {"--precision", GetParam()})) {
    write_file(scratch_ / "net.yaml", kNetwork);
  }
  void SetUp() override {
    if (GetParam() == std::string("bf16") && lacks_bf16()) {
      GTEST_SKIP() << "SKIPPED: this processor has no AVX-512";
    }
  }
  Words base() const { return with(kRun, {"--precision", GetParam()}); }
};

INSTANTIATE_TEST_SUITE_P(Precisions, ResidualBits, ::testing::Values("fp32", "bf16"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(ResidualBits, OneToFourWorkersTrainTheSameNetwork) {
  const std::string checksum = weights_of_any_number({});
  // The other way round: what should make a difference does.
  EXPECT_NE(weights({"--workers", "2", "--seed", "8"}), checksum);
  EXPECT_NE(weights({"--workers", "2", "--shards", "6"}), checksum) << "statistics are not those of a shard";
}

TEST_P(ResidualBits, EveryRunIsTheSameAndTheSavedConfigurationRepeatsIt) {
  const Words run = {"--workers", "3", "--optimizer", "adamw", "--augment", "on"};
  const std::string checksum = weights(run);
  const std::string saved = last_run() + "/config.yaml";
  EXPECT_NE(read_file(scratch_.path() / saved).find(std::string("precision: ") + GetParam()),
            std::string::npos);
  EXPECT_EQ(weights(run), checksum);
  EXPECT_EQ(weights({}, {"train", "--config", saved}), checksum);
  const Words ring = with(run, {"--algorithm", "ring"});
  EXPECT_EQ(weights(ring), weights(ring));
}

TEST_P(ResidualBits, AccumulateIsAsManyShards) {
  const std::string checksum = weights({"--workers", "2"});
  const Words base = without(this->base(), "--shards");
  EXPECT_EQ(weights({"--workers", "2", "--accumulate", "6"}, base), checksum);
  EXPECT_EQ(weights({"--workers", "4", "--accumulate", "3"}, base), checksum);
}

TEST_P(ResidualBits, UnevenShardsAndASmallLastBatchAreTheSameOnAnyNumberOfWorkers) {
  // 50 images in 12 shards: two shards have 5 images, the others 4.
  weights_of_any_number({"--batch-size", "50"});
  // 8,192 images: the batch after the second one of 4,093 has 6, so half of its 12 shards are empty.
  const Words kept = {"--batch-size", "4093", "--steps", "4", "--last-batch", "keep"};
  const std::string checksum = weights_of_all({"1", "3"}, kept, base());
  EXPECT_NE(weights(with(kept, {"--workers", "2", "--last-batch", "drop"})), checksum);
}

TEST_P(ResidualBits, DelayedAndClippedUpdatesAreTheSameOnAnyNumberOfWorkers) {
  const std::string checksum = weights_of_any_number({"--staleness", "1", "--clip", "0.5"});
  EXPECT_NE(weights({"--workers", "2", "--staleness", "0", "--clip", "0.5"}), checksum);
  EXPECT_NE(weights({"--workers", "2", "--staleness", "1"}), checksum);
}

TEST_P(ResidualBits, CommunicationThreadsAddNothingToTheBits) {
  for (const char* staleness : {"0", "1"}) {
    const Words run = {"--staleness", staleness};
    const std::string checksum = weights(with(run, {"--workers", "2", "--comm-thread", "inline"}));
    for (const char* workers : {"1", "2"}) {
      EXPECT_EQ(weights(with(run, {"--workers", workers, "--comm-thread", "0"})), checksum) << workers;
    }
  }
}

TEST_P(ResidualBits, FourTimesAsManyWorkersAsCoresAddNothingToTheBits) {
  const std::string cores = std::to_string(4 * std::min<int64_t>(sysconf(_SC_NPROCESSORS_ONLN), 8));
  const Words run = {"--shards", "32", "--steps", "4"};
  EXPECT_EQ(weights(with(run, {"--workers", cores})), weights(with(run, {"--workers", "1"})));
}

TEST_P(ResidualBits, TrainingLearnsAndIsMeasuredWithTheRunningStatistics) {
  const Words run = {"--workers",    "2",  "--shards", "4",   "--steps", "64",
                     "--batch-size", "64", "--lr",     "0.05"};
  const Ended end = run_annulus(with(with(base(), run), {"--run-dir", "run"}), scratch_.here());
  ASSERT_EQ(end.code, 0) << end.err;
  // Ten classes: 10 % by chance. Seen: 100 %.
  EXPECT_GT(std::atof(end.line("accuracy").c_str()), 90) << end.out;
}

// On a small data set, so that evaluation is quick.
TEST_P(ResidualBits, ResNet18IsTheSameOnOneTwoAndFourWorkers) {
  const auto write = [&](const std::string& name, const Bytes& bytes) {
    write_file(scratch_ / ("data/" + name), std::string(bytes.begin(), bytes.end()));
  };
  std::filesystem::create_directory(scratch_ / "data");
  write("train-images-idx3-ubyte", idx_bytes({64, 28, 28}, noise_bytes(64 * 784)));
  write("train-labels-idx1-ubyte", idx_bytes({64}, noise_bytes(64, 10)));
  write("t10k-images-idx3-ubyte", idx_bytes({16, 28, 28}, noise_bytes(16 * 784)));
  write("t10k-labels-idx1-ubyte", idx_bytes({16}, noise_bytes(16, 10)));
  weights_of_all({"1", "2", "4"}, {},
                 with(base(), {"--dataset", "fashion-mnist", "--data", "data", "--model", "resnet18",
                               "--shards", "4", "--batch-size", "12", "--steps", "2"}));
}

}  // namespace
}  // namespace annulus
