// Flags and the file of `annulus train`: what they set, and what the saved configuration repeats.
#include "launcher/options.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "tests/launcher/parsed_options.h"

namespace annulus {
namespace {

TEST(Options, WithoutFlagsTheDefaultsHold) {
  const TrainConfig config = train({});
  EXPECT_EQ(to_yaml(config), to_yaml(TrainConfig{}));
  EXPECT_EQ(config.workers, 0);
  EXPECT_EQ(config.optimizer, "momentum");
}

TEST(Options, EveryFlagReachesItsPlace) {
  const TrainConfig c = train({"--model",
                               "mlp",
                               "--dataset",
                               "mnist",
                               "--data",
                               "/d",
                               "--workers",
                               "3",
                               "--threads-per-worker",
                               "2",
                               "--bind",
                               "0-3,8",
                               "--smt",
                               "on",
                               "--batch-size",
                               "96",
                               "--shards",
                               "12",
                               "--epochs",
                               "7",
                               "--optimizer",
                               "nesterov",
                               "--lr",
                               "1e-3",
                               "--momentum",
                               "0.5",
                               "--weight-decay",
                               "5e-4",
                               "--schedule",
                               "constant",
                               "--bucket-mb",
                               "0.5",
                               "--algorithm",
                               "ring",
                               "--staleness",
                               "1",
                               "--comm-thread",
                               "2,3",
                               "--augment",
                               "on",
                               "--last-batch",
                               "drop",
                               "--seed",
                               "18446744073709551615",
                               "--run-dir",
                               "/r",
                               "--deadline",
                               "2.5",
                               "--quiet"});
  EXPECT_EQ(c.model, "mlp");
  EXPECT_EQ(c.dataset, "mnist");
  EXPECT_EQ(c.data, "/d");
  EXPECT_EQ(c.workers, 3);
  EXPECT_EQ(c.threads_per_worker, 2);
  EXPECT_EQ(c.bind, "0-3,8");
  EXPECT_TRUE(c.smt);
  EXPECT_EQ(c.batch_size, 96);
  EXPECT_EQ(c.shards, 12);
  EXPECT_EQ(c.epochs, 7);
  EXPECT_EQ(c.steps, std::nullopt);
  EXPECT_EQ(c.optimizer, "nesterov");
  EXPECT_EQ(c.learning_rate, 1e-3);
  EXPECT_EQ(c.momentum, 0.5);
  EXPECT_EQ(c.weight_decay, 5e-4);
  EXPECT_EQ(c.schedule, "constant");
  EXPECT_EQ(c.bucket_mb, 0.5);
  EXPECT_EQ(c.algorithm, "ring");
  EXPECT_EQ(c.staleness, 1);
  EXPECT_EQ(c.comm_thread, "2,3");
  EXPECT_TRUE(c.augment);
  EXPECT_EQ(c.last_batch, "drop");
  EXPECT_EQ(c.seed, UINT64_MAX);
  EXPECT_EQ(c.run_dir, "/r");
  EXPECT_EQ(c.deadline, 2.5);
  EXPECT_TRUE(c.quiet);
}

TEST(Options, ValuesMayFollowAnEqualsSign) { EXPECT_EQ(train({"--workers=5"}).workers, 5); }

TEST(Options, TheDumpAloneRepeatsTheRun) {
  const TrainConfig config = train({"--model",        "mlp",
                                    "--data",         "/odd: #name \"q\"/\xc3\xa9",
                                    "--workers",      "3",
                                    "--bind",         "1,2",
                                    "--smt",          "on",
                                    "--steps",        "9",
                                    "--optimizer",    "sgd",
                                    "--lr",           "0.1",
                                    "--weight-decay", "1e-17",
                                    "--bucket-mb",    "0.3333333333333333",
                                    "--seed",         "18446744073709551615",
                                    "--run-dir",      "/r",
                                    "--quiet"});
  const ConfigFile file(to_yaml(config));
  const TrainConfig again = train({"--config", file.path()});
  EXPECT_EQ(to_yaml(again), to_yaml(config));
  EXPECT_EQ(again.data, config.data);
  EXPECT_EQ(again.workers, 3);
  EXPECT_EQ(again.steps, 9);
  EXPECT_EQ(again.weight_decay, 1e-17);
  EXPECT_EQ(again.bucket_mb, 0.3333333333333333);
  EXPECT_EQ(again.momentum, 0);
  EXPECT_EQ(again.seed, UINT64_MAX);
  EXPECT_TRUE(again.quiet);
  EXPECT_EQ(again.run_dir, "");
}

TEST(Options, TheDumpHasEveryKeyButTheRunDirectory) {
  const std::string yaml = to_yaml(train({"--run-dir", "/r", "--data", "/d"}));
  for (const char* key : {"model",      "dataset",    "data",       "workers",   "threads-per-worker",
                          "bind",       "smt",        "batch-size", "shards",    "epochs",
                          "last-batch", "optimizer",  "lr",         "momentum",  "weight-decay",
                          "schedule",   "augment",    "seed",       "algorithm", "bucket-mb",
                          "eval-every", "warmup",     "clip",       "deadline",  "quiet",
                          "staleness",  "comm-thread"}) {
    EXPECT_NE(yaml.find(fmt::format("\n{}: ", key)), yaml.npos) << key << " in\n" << yaml;
  }
  EXPECT_EQ(yaml.find("run-dir"), yaml.npos);
  EXPECT_EQ(yaml.find("config:"), yaml.npos);
}

TEST(Options, TheAlgorithmIsAutoOrOneOfThree) {
  EXPECT_EQ(train({}).algorithm, "auto");
  for (const char* name : {"auto", "direct", "ring", "hierarchical"}) {
    EXPECT_EQ(train({"--algorithm", name}).algorithm, name);
  }
  const std::string text = refusal({"--algorithm", "hierachical"});
  EXPECT_NE(text.find("did you mean hierarchical?"), text.npos) << text;
}

TEST(Options, AModelIsANameOrAFile) {
  EXPECT_EQ(train({"--model", "resnet50"}).model, "resnet50");
  // The saved configuration must find the file from any directory.
  const std::string here = std::filesystem::current_path().string();
  EXPECT_EQ(train({"--model", "nets/../mine.yaml"}).model, here + "/mine.yaml");
  EXPECT_EQ(train({"--model", "mine.yml"}).model, here + "/mine.yml");
  EXPECT_EQ(train({"--model", "/dev/fd/63"}).model, "/dev/fd/63");
  EXPECT_EQ(ConfigFile("epochs: 1\nmodel: resnet\n").refusal().substr(0, 21), "FILE:2: model: resnet");
}

TEST(Options, TheCommandLineWinsOverTheFile) {
  const ConfigFile file("lr: 0.5\nquiet: on\nworkers: 7\nseed: 3\n");
  const TrainConfig config =
      train({"--lr", "0.25", "--config", file.path(), "--quiet=off", "--workers", "auto"});
  EXPECT_EQ(config.learning_rate, 0.25);
  EXPECT_FALSE(config.quiet);
  EXPECT_EQ(config.workers, 0);
  EXPECT_EQ(config.seed, 3u);
}

TEST(Options, BindTakesPoliciesAndLists) {
  for (const char* good : {"core", "l3", "numa", "socket", "none", "0", "0-3", "0-3,8", "5,1-1,2"}) {
    EXPECT_EQ(train({"--bind", good}).bind, good);
  }
  for (const char* bad : {"0-", "-1", "1,", ",1", "1,,2", "1--2", "a", "1 ", "0x1", "99999999999", "70000"}) {
    EXPECT_NE(refusal({"--bind", bad}), "(accepted)") << bad;
  }
}

TEST(Options, TheCommunicationThreadTakesKindsAndLists) {
  EXPECT_EQ(train({}).comm_thread, "auto");
  for (const char* good : {"auto", "inline", "sibling", "3", "2,3", "4-7"}) {
    EXPECT_EQ(train({"--comm-thread", good}).comm_thread, good);
  }
  for (const char* bad : {"-1", "3,", "core", "", "0x1"}) {
    EXPECT_NE(refusal({"--comm-thread", bad}), "(accepted)") << bad;
  }
  EXPECT_EQ(refusal({"--comm-thread", "siblin"}),
            "--comm-thread siblin: neither one of auto, inline, sibling nor a list of CPUs like 0-3,8; did "
            "you mean "
            "sibling?");
}

TEST(Options, AnEmptyFileChangesNothing) {
  EXPECT_EQ(ConfigFile("").refusal(), "(accepted)");
  EXPECT_EQ(ConfigFile("# nothing\n").refusal(), "(accepted)");
}

TEST(Options, ClipIsANormOrOff) {
  EXPECT_EQ(train({}).clip, 0);
  EXPECT_EQ(train({"--clip", "0.5"}).clip, 0.5);
  const ConfigFile file("clip: 2\n"), saved(to_yaml(train({"--clip", "0.1"})));
  EXPECT_EQ(train({"--config", file.path()}).clip, 2);
  EXPECT_EQ(train({"--config", file.path(), "--clip", "off"}).clip, 0);
  EXPECT_EQ(train({"--config", saved.path()}).clip, 0.1);
  EXPECT_EQ(refusal({"--clip", "on"}), "--clip on: not a number; give a number above 0, or off");
  EXPECT_EQ(refusal({"--clip", "0"}), "--clip 0: out of range; give a number above 0, or off");
}

TEST(Options, HelpNamesEveryFlagAndFitsTheLine) {
  try {
    train({"--help"});
    FAIL() << "no help";
  } catch (const HelpRequest& request) {
    const std::string text = request.what();
    for (const char* flag : {"--model mlp|simplecnn|resnet18|resnet50|FILE.yaml", "--workers N|auto ",
                             "--config FILE ", "--quiet ", "[0.04]"}) {
      EXPECT_NE(text.find(flag), text.npos) << flag << " in\n" << text;
    }
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find('\n', at), text.size());
      EXPECT_LE(end - at, 110u) << text.substr(at, end - at);
      at = end + 1;
    }
  }
}

}  // namespace
}  // namespace annulus
