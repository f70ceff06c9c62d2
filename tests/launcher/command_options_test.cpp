// Options of the other commands.
#include <gtest/gtest.h>

#include "tests/launcher/parsed_options.h"

namespace annulus {
namespace {

CheckOptions check(Words words) {
  words.insert(words.begin(), "check");
  return parse_check(static_cast<int>(words.size()), words.data());
}

ModelOptions model(Words words) {
  words.insert(words.begin(), "model");
  return parse_model(static_cast<int>(words.size()), words.data());
}

TEST(ModelOptions, TakeTheNetworkFirst) {
  const ModelOptions plain = model({"mlp"});
  EXPECT_EQ(plain.model, "mlp");
  EXPECT_FALSE(plain.input);
  EXPECT_FALSE(plain.classes);
  EXPECT_EQ(plain.batch, 1);
  EXPECT_FALSE(plain.json);
  const ModelOptions full = model({"resnet18", "--input", "1x28x30", "--classes", "47", "--stem", "imagenet",
                                   "--batch", "128", "--json"});
  EXPECT_EQ(full.input, (ImageShape{1, 28, 30}));
  EXPECT_EQ(full.classes, 47);
  EXPECT_EQ(full.stem, "imagenet");
  EXPECT_EQ(full.batch, 128);
  EXPECT_TRUE(full.json);
  EXPECT_EQ(model({"mine.yaml"}).model, "mine.yaml");
}

TEST(ModelOptions, WrongOnesAreRefused) {
  const auto refused = [](const Words& words) { return refusal([&] { model(words); }); };
  for (const char* shape : {"3x32", "3x32x32x3", "0x1x1", "3x32x-1", "3x32x32 ", "x", "", "70000x1x1"}) {
    EXPECT_NE(refused({"mlp", "--input", shape}).find("3x32x32, each from 1"), std::string::npos) << shape;
  }
  EXPECT_NE(refused({"mlp", "--classes", "1"}).find("out of range"), std::string::npos);
  EXPECT_NE(refused({"mlp", "--stem", "cifar"}).find("mlp has none"), std::string::npos);
  EXPECT_NE(refused({}).find("no network"), std::string::npos);
  EXPECT_NE(refused({"resnet81"}).find("did you mean resnet18?"), std::string::npos);
  EXPECT_THROW(model({"--help"}), HelpRequest);
}

TEST(CheckOptions, TakeTheAlgorithmFirst) {
  const CheckOptions plain = check({"direct"});
  EXPECT_EQ(plain.algorithm, "direct");
  EXPECT_EQ(plain.workers, 0);
  EXPECT_EQ(plain.domains, 0);
  const CheckOptions full = check({"hierarchical", "--workers", "8", "--steps", "3", "--dim", "77",
                                   "--domains", "4", "--shards", "16", "--json"});
  EXPECT_EQ(full.algorithm, "hierarchical");
  EXPECT_EQ(full.workers, 8);
  EXPECT_EQ(full.steps, 3);
  EXPECT_EQ(full.dim, 77);
  EXPECT_EQ(full.domains, 4);
  EXPECT_EQ(full.shards, 16);
  EXPECT_TRUE(full.json);
}

TEST(CheckOptions, RefuseOtherWordsAndExplainThemselves) {
  const auto refused = [](const Words& words) { return refusal([&] { check(words); }); };
  EXPECT_EQ(refused({}), "check: no algorithm; give annulus check direct, ring or hierarchical");
  EXPECT_EQ(refused({"--workers", "2"}), refused({}));
  EXPECT_EQ(refused({"rnig"}), "check rnig: unknown algorithm; did you mean ring?");
  EXPECT_EQ(refused({"gossip"}), "check gossip: unknown algorithm; there are direct, ring, hierarchical");
  EXPECT_EQ(refused({"ring", "--domains", "2"}),
            "--domains 2: ring knows no domains; leave it out, or check hierarchical");
  EXPECT_THROW(check({"--help"}), HelpRequest);
  EXPECT_THROW(check({"ring", "--help"}), HelpRequest);
}

TEST(Options, OtherCommandsTakeTheirShare) {
  const Words topo = {"topo",        "--workers",          "3",       "--bind", "numa",
                      "--synthetic", "pack:2 core:4 pu:2", "--verify"};
  const TopoOptions t = parse_topo(static_cast<int>(topo.size()), topo.data());
  EXPECT_EQ(t.config.workers, 3);
  EXPECT_EQ(t.config.bind, "numa");
  EXPECT_EQ(t.synthetic, "pack:2 core:4 pu:2");
  EXPECT_TRUE(t.verify);

  const Words bench = {"train",  "--model",      "mlp",     "--batch-per-worker", "32",
                       "--json", "--data-shape", "3x32x32", "--staleness",        "1"};
  const BenchTrainOptions b = parse_bench_train(static_cast<int>(bench.size()), bench.data());
  EXPECT_EQ(b.config.model, "mlp");
  EXPECT_EQ(b.config.dataset, "synthetic");
  EXPECT_EQ(b.config.steps, 100);
  EXPECT_EQ(b.config.staleness, 1);
  EXPECT_EQ(b.batch_per_worker, 32);
  EXPECT_EQ(b.data_shape, "3x32x32");
  EXPECT_TRUE(b.json);

  // Other optimizers bring their own defaults, and none of those that they do not have.
  const Words adam = {"train", "--optimizer", "adam", "--precision", "bf16", "--precision-fallback", "on"};
  const TrainConfig in_train = parse_bench_train(static_cast<int>(adam.size()), adam.data()).config;
  const TrainConfig in_layers = parse_bench_layers(static_cast<int>(adam.size()), adam.data()).config;
  for (const TrainConfig& config : {in_train, in_layers}) {
    EXPECT_EQ(config.momentum, 0);
    EXPECT_EQ(config.beta1, 0.9);
    EXPECT_EQ(config.precision, "bf16");
    EXPECT_TRUE(config.precision_fallback);
    EXPECT_TRUE(check_combinations(config, 1).empty());
  }
  const Words stem = {"layers", "--model", "mlp", "--stem", "imagenet"};
  EXPECT_EQ(refusal([&] { parse_bench_layers(static_cast<int>(stem.size()), stem.data()); }),
            "--stem imagenet: mlp has none; leave it out, or give a model that has one, like resnet18");

  const Words slip = {"topo", "--wokers", "3"}, foreign = {"topo", "--lr", "3"};
  EXPECT_EQ(refusal([&] { parse_topo(3, slip.data()); }),
            "--wokers: unknown flag of annulus topo; did you mean --workers?");
  EXPECT_EQ(refusal([&] { parse_topo(3, foreign.data()); }),
            "--lr: unknown flag of annulus topo; see annulus topo --help");
}

TEST(BenchCompressionOptions, AreListsOfRatiosAndSizes) {
  const auto compression = [](Words words) {
    words.insert(words.begin(), "compression");
    return parse_bench_compression(static_cast<int>(words.size()), words.data());
  };
  const auto refused = [&](const Words& words) { return refusal([&] { compression(words); }); };
  const BenchCompressionOptions plain = compression({});
  EXPECT_EQ(plain.ratios, (std::vector<double>{0.1, 0.01, 0.001}));
  EXPECT_EQ(plain.bytes, (std::vector<int64_t>{1 << 20, 25 << 20, 100 << 20}));
  EXPECT_FALSE(plain.json);
  const BenchCompressionOptions full = compression({"--ratio", "1,5e-4", "--bytes", "4,64k,2M", "--json"});
  EXPECT_EQ(full.ratios, (std::vector<double>{1, 5e-4}));
  EXPECT_EQ(full.bytes, (std::vector<int64_t>{4, 64 << 10, 2 << 20}));
  EXPECT_TRUE(full.json);

  for (const char* word : {"0", "1.5", "-0.1", "nan", "inf", "0.1x", "much", "1e-999"}) {
    EXPECT_EQ(refused({"--ratio", word}),
              fmt::format("--ratio {0}: {0} is not a ratio; give ratios like 0.1,0.01, above 0 and at most 1",
                          word));
  }
  EXPECT_NE(refused({"--ratio", "0.1,"}).find("an empty word is not a ratio"), std::string::npos);
  EXPECT_EQ(refused({"--bytes", "0"}), "--bytes 0: 0 bytes hold no element; give at least 4");
  EXPECT_NE(refused({"--bytes", "1M,few"}).find("few is not a size"), std::string::npos);
  EXPECT_NE(refused({"--workers", "2"}).find("unknown flag of annulus bench compression"), std::string::npos);
  EXPECT_THROW(compression({"--help"}), HelpRequest);

  EXPECT_EQ(plain.config.model, "") << "sizes";
  const BenchCompressionOptions model = compression(
      {"--model", "resnet50", "--stem", "imagenet", "--ratio", "0.01", "--batch", "8", "--steps", "3"});
  EXPECT_EQ(model.config.model, "resnet50");
  EXPECT_EQ(model.config.stem, "imagenet");
  EXPECT_EQ(model.batch, 8);
  EXPECT_EQ(model.steps, 3);
  EXPECT_NE(refused({"--model", "mlp", "--stem", "imagenet"}).find("--stem"), std::string::npos);
  EXPECT_NE(refused({"--model", "mlp", "--bytes", "1M"}).find("--bytes"), std::string::npos);
}

// It becomes part of a shell's commands.
TEST(BenchBridgeOptions, ARateIsANumberWithAUnitAndNothingElse) {
  const auto rate = [](const std::string& text) {
    const Words words = {"bridge", "--rate", text.c_str()};
    return parse_bench_bridge(3, words.data()).rate;
  };
  const Words none = {"bridge"};
  EXPECT_EQ(parse_bench_bridge(1, none.data()).rate, "");
  for (const std::string good : {"1gbit", "2.5gbit", "200mbit", "64kbit", ".5gbit"})
    EXPECT_EQ(rate(good), good);
  for (const std::string bad :
       {"fast",   "",          "gbit",          "1",         "0gbit",     "0.0mbit", "-1gbit",
        "+1gbit", "1.2.3gbit", "1e3mbit",       "infgbit",   "1 gbit",    " 1gbit",  "1gbit ",
        "1Gbit",  "1gbps",     "1gbit; reboot", "1gbit\nid", "$(id)gbit", "`id`"}) {
    const std::string text = refusal([&] { rate(bad); });
    EXPECT_EQ(text.find("--rate"), 0u) << bad << ": " << text;
    EXPECT_NE(text.find("give a number above 0 with kbit, mbit or gbit"), std::string::npos)
        << bad << ": " << text;
  }
}

TEST(BenchAccuracyOptions, AreThoseOfTrainingAndListsOfWhatIsCompared) {
  const auto accuracy = [](Words words) {
    words.insert(words.begin(), "accuracy");
    return parse_bench_accuracy(static_cast<int>(words.size()), words.data());
  };
  const BenchAccuracyOptions plain = accuracy({});
  EXPECT_EQ(plain.ratios, (std::vector{0.1, 0.01, 0.001}));
  EXPECT_EQ(plain.seeds, 3);
  EXPECT_EQ(plain.config.epochs, 5);
  EXPECT_EQ(plain.config.optimizer, "nesterov");
  EXPECT_EQ(plain.config.ratio_warmup, 1);
  EXPECT_TRUE(corrects_momentum(plain.config));
  EXPECT_TRUE(check_combinations(plain.config, 2).empty());
  EXPECT_FALSE(corrects_momentum(accuracy({"--momentum-correction", "off"}).config));
  // Adam has no momentum to correct.
  EXPECT_TRUE(check_combinations(accuracy({"--optimizer", "adam"}).config, 2).empty());
  const BenchAccuracyOptions full =
      accuracy({"--ratio", "0.5", "--seeds", "1", "--model", "mlp", "--steps", "7"});
  EXPECT_EQ(full.ratios, (std::vector{0.5}));
  EXPECT_EQ(full.seeds, 1);
  EXPECT_EQ(full.config.model, "mlp");
  EXPECT_EQ(full.config.steps, 7);
  EXPECT_NE(refusal([&] { accuracy({"--seeds", "0"}); }), "(accepted)");
  EXPECT_NE(refusal([&] { accuracy({"--ratio", "0.1,2"}); }), "(accepted)");
}

TEST(BenchRecoveryOptions, AreThoseOfTrainingAndOfTheKiller) {
  const auto recovery = [](Words words) {
    words.insert(words.begin(), "recovery");
    return parse_bench_recovery(static_cast<int>(words.size()), words.data());
  };
  const auto refused = [&](const Words& words) { return refusal([&] { recovery(words); }); };
  const BenchRecoveryOptions plain = recovery({});
  EXPECT_EQ(plain.training.config.dataset, "synthetic");
  EXPECT_EQ(plain.training.batch_per_worker, 64);
  EXPECT_EQ(plain.kills, 50);
  EXPECT_EQ(plain.seed, 1u);
  EXPECT_FALSE(plain.training.json);
  const BenchRecoveryOptions full =
      recovery({"--model", "mlp", "--batch-per-worker", "32", "--clip", "0.5", "--staleness", "1",
                "--algorithm", "ring", "--kills", "7", "--seed", "18446744073709551615", "--workers", "3",
                "--data-shape", "3x32x32", "--json"});
  EXPECT_EQ(full.training.config.model, "mlp");
  EXPECT_EQ(full.training.config.clip, 0.5);
  EXPECT_EQ(full.training.config.staleness, 1);
  EXPECT_EQ(full.training.config.algorithm, "ring");
  EXPECT_EQ(full.training.config.workers, 3);
  EXPECT_EQ(full.training.batch_per_worker, 32);
  EXPECT_EQ(full.training.data_shape, "3x32x32");
  EXPECT_EQ(full.kills, 7);
  EXPECT_EQ(full.seed, ~uint64_t{0});
  EXPECT_EQ(full.training.config.seed, 1u);  // of the weights: another one
  EXPECT_TRUE(full.training.json);
  EXPECT_EQ(recovery({"--optimizer", "adam"}).training.config.momentum, 0);

  EXPECT_NE(refused({"--kills", "0"}).find("out of range"), std::string::npos);
  EXPECT_NE(refused({"--kills", "100001"}).find("out of range"), std::string::npos);
  EXPECT_NE(refused({"--steps", "3"}).find("unknown flag of annulus bench recovery"), std::string::npos);
  EXPECT_NE(refused({"--model", "mlp", "--stem", "cifar"}).find("mlp has none"), std::string::npos);
  EXPECT_THROW(recovery({"--help"}), HelpRequest);
}

TEST(Options, UnknownCommandsNameTheNearest) {
  const std::vector<std::string> commands = {"train", "topo", "bench"};
  EXPECT_STREQ(unknown_command("trian", commands).what(), "trian: unknown command; did you mean train?");
  EXPECT_STREQ(unknown_command("fly", commands).what(), "fly: unknown command; there are train, topo, bench");
}

CheckpointOptions checkpoint(Words words) {
  words.insert(words.begin(), "checkpoint");
  return parse_checkpoint(static_cast<int>(words.size()), words.data());
}

TEST(CheckpointOptions, TakeTheActionThenPaths) {
  EXPECT_EQ(checkpoint({"show", "a"}).action, "show");
  using Paths = std::vector<std::string>;
  EXPECT_EQ(checkpoint({"show", "a"}).paths, Paths{"a"});
  EXPECT_FALSE(checkpoint({"show", "a"}).json);
  EXPECT_TRUE(checkpoint({"show", "--json", "a"}).json);
  EXPECT_TRUE(checkpoint({"--json", "show", "a"}).json);
  EXPECT_TRUE(checkpoint({"show", "a", "--json"}).json);
  EXPECT_EQ(checkpoint({"verify", "a", "b", "c"}).paths, (Paths{"a", "b", "c"}));
  EXPECT_EQ(checkpoint({"export", "a", "out"}).paths, (Paths{"a", "out"}));
}

TEST(CheckpointOptions, RefuseOtherWordsAndExplainThemselves) {
  const auto refused = [](const Words& words) { return refusal([&] { checkpoint(words); }); };
  EXPECT_EQ(refused({}), "checkpoint: no action; give annulus checkpoint show, verify or export");
  EXPECT_EQ(refused({"--json"}), refused({}));
  EXPECT_EQ(refused({"exprot", "a", "b"}), "checkpoint exprot: unknown action; did you mean export?");
  EXPECT_EQ(refused({"a.safetensors"}),
            "checkpoint a.safetensors: unknown action; there are show, verify, export");
  EXPECT_EQ(refused({"show"}),
            "checkpoint show: 0 paths given; give annulus checkpoint show FILE|DIRECTORY [--json]");
  EXPECT_EQ(refused({"show", "a", "b"}),
            "checkpoint show: 2 paths given; give annulus checkpoint show FILE|DIRECTORY [--json]");
  EXPECT_EQ(refused({"verify"}),
            "checkpoint verify: 0 paths given; give annulus checkpoint verify FILE|DIRECTORY ...");
  EXPECT_EQ(refused({"export", "a"}),
            "checkpoint export: 1 path given; give annulus checkpoint export FILE|DIRECTORY OUT");
  EXPECT_EQ(refused({"verify", "a", "--json"}),
            "--json: checkpoint verify has no such output; leave it out, or take checkpoint show");
  EXPECT_EQ(refused({"show", "a", "--jsn"}),
            "--jsn: unknown flag of annulus checkpoint ACTION; did you mean --json?");
  EXPECT_THROW(checkpoint({"--help"}), HelpRequest);
  EXPECT_THROW(checkpoint({"verify", "--help"}), HelpRequest);
}

}  // namespace
}  // namespace annulus
