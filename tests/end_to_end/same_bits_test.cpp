// The promise about bits, kept by the real command: at equal shards the weights are the same from run to run
// and from 1 worker to N.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/end_to_end/bits_of_runs.h"

namespace annulus {
namespace {

const Words kRun = {"train", "--dataset", "synthetic", "--shards", "12",      "--batch-size", "96",
                    "--lr",  "0.02",      "--seed",    "7",        "--quiet", "--deadline",   "100"};

class SameBits : public BitsOfRuns {
 protected:
  SameBits() : BitsOfRuns(kRun) {}
};

TEST_F(SameBits, OneToFourWorkersTrainTheSameSimpleCnn) {
  weights_of_any_number({"--model", "simplecnn", "--steps", "20"});
}

TEST_F(SameBits, OneToFourWorkersTrainTheSameMlp) {
  const Words mlp = {"--model", "mlp", "--steps", "20"};
  const std::string checksum = weights_of_any_number(mlp);
  // The other way round: what should make a difference does.
  EXPECT_NE(weights(with(mlp, {"--workers", "2", "--seed", "8"})), checksum);
  EXPECT_NE(weights({"--model", "mlp", "--workers", "2", "--steps", "21"}), checksum);
}

TEST_F(SameBits, EveryRunWithTheSameWorkersIsTheSame) {
  const Words run = {"--model", "simplecnn", "--steps", "10", "--workers", "3"};
  EXPECT_EQ(weights(run), weights(run));
}

TEST_F(SameBits, ATunedRunIsRepeatedByItsConfiguration) {
  const std::string tuned = weights({"--model", "simplecnn", "--steps", "5", "--workers", "2", "--tune"});
  const std::string config = last_run() + "/config.yaml";
  EXPECT_EQ(weights({}, {"train", "--config", config}), tuned);
}

TEST_F(SameBits, EveryRunWithTheRingIsTheSame) {
  const Words ring = {"--model", "simplecnn", "--steps", "10", "--workers", "3", "--algorithm", "ring"};
  const std::string first = weights(ring);
  EXPECT_EQ(weights(ring), first);
  EXPECT_EQ(weights(ring), first);
}

TEST_F(SameBits, TheRingOfTwoAddsWhatDirectAdds) {
  const Words two = {"--model", "simplecnn", "--steps", "10", "--workers", "2", "--shards", "2"};
  EXPECT_EQ(weights(with(two, {"--algorithm", "ring"})), weights(with(two, {"--algorithm", "direct"})));
}

TEST_F(SameBits, UnevenShardsAreTheSameOnAnyNumberOfWorkers) {
  // 50 images in 12 shards: two shards have 5 images, the others 4.
  weights_of_any_number({"--model", "mlp", "--batch-size", "50", "--steps", "8"});
}

TEST_F(SameBits, ALastBatchSmallerThanTheShardsIsTheSameOnAnyNumberOfWorkers) {
  // 8,192 synthetic images: the batch after the second one of 4,093 has 6, so half of its 12 shards are
  // empty.
  const Words kept = {"--model", "mlp", "--batch-size", "4093", "--steps", "4", "--last-batch", "keep"};
  const std::string checksum = weights_of_any_number(kept);
  EXPECT_NE(weights(with(kept, {"--workers", "2", "--last-batch", "drop"})), checksum);
}

TEST_F(SameBits, EveryOptimizerAugmentationAndCompressionIsTheSameOnAnyNumberOfWorkers) {
  const std::vector<Words> ways = {
      {"--optimizer", "sgd"},
      {"--optimizer", "momentum", "--weight-decay", "0.01"},
      {"--optimizer", "nesterov", "--momentum", "0.8"},
      {"--optimizer", "sgd", "--augment", "on"},
      {"--optimizer", "adam"},
      {"--optimizer", "adamw", "--beta2", "0.99"},
      {"--optimizer", "momentum", "--bucket-mb", "0.25"},
      {"--compress", "fp16", "--compress-where", "all"},
      {"--compress", "bf16", "--compress-where", "all"},
      {"--compress", "topk", "--compress-where", "all"},
      {"--compress", "topk", "--compress-where", "all", "--ratio", "0.1"},
      {"--compress", "topk", "--compress-where", "all", "--momentum-correction", "on"},
  };
  std::set<std::string> checksums;
  for (const Words& way : ways) {
    SCOPED_TRACE(::testing::PrintToString(way));
    checksums.insert(weights_of_any_number(with({"--model", "mlp", "--steps", "6"}, way)));
  }
  EXPECT_EQ(checksums.size(), ways.size()) << "a flag has no effect";
}

TEST_F(SameBits, AccumulateIsAsManyShards) {
  const Words base = {"train", "--dataset", "synthetic", "--model", "mlp", "--batch-size", "96", "--lr",
                      "0.02",  "--seed",    "7",         "--steps", "6",   "--quiet"};
  const std::string shards = weights({"--workers", "2", "--shards", "12"}, base);
  EXPECT_EQ(weights({"--workers", "2", "--accumulate", "6"}, base), shards);
  const std::string saved = last_run() + "/config.yaml";
  EXPECT_EQ(weights({"--workers", "3", "--accumulate", "4"}, base), shards);
  EXPECT_EQ(weights({"--workers", "1", "--accumulate", "12"}, base), shards);
  EXPECT_NE(weights({"--workers", "1", "--accumulate", "3"}, base), shards);
  EXPECT_EQ(weights({}, {"train", "--config", saved}), shards);
}

TEST_F(SameBits, ClippingWithEveryOtherOptionIsTheSameOnAnyNumberOfWorkers) {
  const Words all = {"--model", "simplecnn", "--steps", "8",      "--optimizer", "adamw",     "--lr",
                     "0.001",   "--warmup",  "4",       "--clip", "0.5",         "--augment", "on"};
  Words base = kRun;
  base.erase(std::find(base.begin(), base.end(), "--lr"), std::find(base.begin(), base.end(), "--lr") + 2);
  const std::string checksum = weights_of_any_number(all, base);
  const std::string metrics = read_file(scratch_.path() / last_run() / "metrics.jsonl");
  EXPECT_NE(metrics.find("\"gradient_norm\":"), std::string::npos) << metrics;
  Words accumulated = base;
  const auto shards = std::find(accumulated.begin(), accumulated.end(), "--shards");
  accumulated.erase(shards, shards + 2);
  EXPECT_EQ(weights(with(all, {"--workers", "2", "--accumulate", "6"}), accumulated), checksum);
  EXPECT_EQ(weights(with(all, {"--workers", "2", "--comm-thread", "0"}), base), checksum);
  EXPECT_NE(weights(with(all, {"--workers", "2", "--staleness", "1"}), base), checksum);
}

TEST_F(SameBits, DelayedUpdatesAreTheSameOnAnyNumberOfWorkers) {
  const Words mlp = {"--model", "mlp", "--steps", "20"};
  const Words delayed = {"--staleness", "1"};
  const std::string checksum = weights_of_any_number(with(mlp, delayed));
  EXPECT_NE(weights(with(mlp, {"--workers", "2", "--staleness", "0"})), checksum);
  // 8 batches make an epoch: two evaluations, for which updates are waited for.
  weights_of_any_number(with({"--model", "mlp", "--batch-size", "1024", "--steps", "10"}, delayed));
}

TEST_F(SameBits, CommunicationThreadsAddNothingToTheBits) {
  for (const char* staleness : {"0", "1"}) {
    const Words mlp = {"--model", "mlp", "--steps", "10", "--staleness", staleness};
    const std::string checksum = weights(with(mlp, {"--workers", "2", "--comm-thread", "inline"}));
    // One CPU for all, which computes as well.
    for (const char* workers : {"1", "2", "3"}) {
      EXPECT_EQ(weights(with(mlp, {"--workers", workers, "--comm-thread", "0"})), checksum) << workers;
    }
  }
}

TEST_F(SameBits, TheSavedConfigurationAloneRepeatsTheRun) {
  const std::string checksum =
      weights({"--model", "simplecnn", "--steps", "9", "--workers", "2", "--optimizer", "nesterov",
               "--weight-decay", "0.001", "--augment", "on", "--batch-size", "50"});
  const std::string saved = last_run() + "/config.yaml";
  EXPECT_EQ(weights({}, {"train", "--config", saved}), checksum);
  const std::string first = read_file(scratch_.path() / saved);
  EXPECT_EQ(read_file(scratch_.path() / last_run() / "config.yaml"), first);
}

TEST_F(SameBits, ARunWithAutomaticWorkersIsRepeatedByItsSavedConfigurationOnFewerCores) {
  const Words automatic = {"train", "--dataset", "synthetic", "--model", "mlp", "--steps", "5"};
  const std::string checksum = weights({}, automatic);
  const std::string saved = last_run() + "/config.yaml";
  CommandOptions one_core = scratch_.here();
  one_core.cpus = {0};
  const Ended end = run_annulus({"train", "--config", saved}, one_core);
  EXPECT_EQ(end.code, 0) << end.err;
  EXPECT_EQ(end.weights(), checksum);
}

TEST_F(SameBits, TheCommandLineWinsOverTheFile) {
  const Words mlp = {"--model", "mlp", "--steps", "5", "--workers", "2"};
  const std::string seven = weights(mlp);
  const std::string saved = last_run() + "/config.yaml";
  const std::string eight = weights(with(mlp, {"--seed", "8"}));
  EXPECT_NE(eight, seven);
  EXPECT_EQ(weights({"--seed", "8"}, {"train", "--config", saved}), eight);
}

}  // namespace
}  // namespace annulus
