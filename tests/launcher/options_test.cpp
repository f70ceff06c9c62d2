#include "launcher/options.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>

#include "telemetry/nearest_name.h"

namespace annulus {
namespace {

using Words = std::vector<const char*>;

TrainConfig train(Words words) {
  words.insert(words.begin(), "train");
  return parse_train(static_cast<int>(words.size()), words.data());
}

std::string refusal(const std::function<void()>& action) {
  try {
    action();
  } catch (const UserError& error) {
    return error.what();
  }
  return "(accepted)";
}

std::string refusal(const Words& words) {
  return refusal([&] { train(words); });
}

// A YAML file that lives as long as the test.
class ConfigFile {
 public:
  explicit ConfigFile(const std::string& text) {
    static int number = 0;
    path_ =
        ::testing::TempDir() + "annulus_options_" + std::to_string(getpid()) + "_" + std::to_string(number++);
    std::ofstream(path_) << text;
  }
  ~ConfigFile() { std::filesystem::remove(path_); }
  const char* path() const { return path_.c_str(); }

  // What is refused, without the file's name.
  std::string refusal() const {
    std::string text = annulus::refusal({"--config", path()});
    const size_t at = text.find(path_);
    return at == text.npos ? text : text.replace(at, path_.size(), "FILE");
  }

 private:
  std::string path_;
};

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

CheckOptions check(Words words) {
  words.insert(words.begin(), "check");
  return parse_check(static_cast<int>(words.size()), words.data());
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

TEST(Options, AStemIsOfAModelThatHasOne) {
  EXPECT_EQ(train({"--model", "resnet18"}).stem, "cifar");
  EXPECT_EQ(train({"--model", "resnet18", "--stem", "imagenet"}).stem, "imagenet");
  EXPECT_EQ(refusal({"--stem", "cifar"}),
            "--stem cifar: simplecnn has none; leave it out, or give a model that has one, like resnet18");
  EXPECT_NE(refusal({"--model", "mine.yaml", "--stem", "imagenet"}), "(accepted)");
  const ConfigFile resnet("model: resnet18\nstem: imagenet\n"), wrong("model: mlp\nstem: imagenet\n");
  EXPECT_EQ(train({"--config", resnet.path()}).stem, "imagenet");
  EXPECT_NE(wrong.refusal(), "(accepted)");
  // The file's stem was meant for the file's model.
  const TrainConfig replaced = train({"--config", resnet.path(), "--model", "mlp"});
  EXPECT_EQ(to_yaml(replaced).find("stem"), std::string::npos);
  const std::string saved = to_yaml(train({"--config", resnet.path()}));
  EXPECT_NE(saved.find("\nstem: imagenet\n"), std::string::npos) << saved;
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

TEST(Options, TheCommandLineWinsOverTheFile) {
  const ConfigFile file("lr: 0.5\nquiet: on\nworkers: 7\nseed: 3\n");
  const TrainConfig config =
      train({"--lr", "0.25", "--config", file.path(), "--quiet=off", "--workers", "auto"});
  EXPECT_EQ(config.learning_rate, 0.25);
  EXPECT_FALSE(config.quiet);
  EXPECT_EQ(config.workers, 0);
  EXPECT_EQ(config.seed, 3u);
}

TEST(Options, StepsAndEpochsReplaceEachOtherAcrossLevelsOnly) {
  const ConfigFile epochs("epochs: 3\n"), steps("steps: 30\n"), both("epochs: 3\nsteps: 30\n");
  EXPECT_EQ(train({"--config", epochs.path(), "--steps", "5"}).steps, 5);
  const TrainConfig config = train({"--config", steps.path(), "--epochs", "5"});
  EXPECT_EQ(config.steps, std::nullopt);
  EXPECT_EQ(config.epochs, 5);
  EXPECT_EQ(refusal({"--steps", "5", "--epochs", "2"}),
            "--epochs 2 and --steps 5: they exclude each other; leave one out");
  const std::string refused = both.refusal();
  EXPECT_EQ(refused.substr(0, 23), "FILE:1: epochs: 3 and /") << refused;
  EXPECT_NE(refused.find(":2: steps: 30: they exclude each other; leave one out"), refused.npos) << refused;
}

TEST(Options, UnknownFlagsNameTheNearest) {
  EXPECT_EQ(refusal({"--batchsize", "3"}),
            "--batchsize: unknown flag of annulus train; did you mean --batch-size?");
  EXPECT_EQ(refusal({"--wokers=3"}), "--wokers: unknown flag of annulus train; did you mean --workers?");
  EXPECT_EQ(refusal({"--thread", "3"}),
            "--thread: unknown flag of annulus train; did you mean --threads-per-worker?");
  EXPECT_EQ(refusal({"-lr", "3"}), "-lr: unknown flag of annulus train; did you mean --lr?");
  EXPECT_EQ(refusal({"--zzzzzz"}), "--zzzzzz: unknown flag of annulus train; see annulus train --help");
  EXPECT_EQ(refusal({"workers", "3"}), "workers: annulus train takes flags only; did you mean --workers?");
}

TEST(Options, WrongTypesAreRefused) {
  EXPECT_EQ(refusal({"--lr", "fast"}), "--lr fast: not a number; give a number above 0");
  EXPECT_EQ(refusal({"--lr", "0.1x"}), "--lr 0.1x: not a number; give a number above 0");
  EXPECT_EQ(refusal({"--lr", "nan"}), "--lr nan: not a number; give a number above 0");
  EXPECT_EQ(refusal({"--batch-size", "1e3"}),
            "--batch-size 1e3: not a whole number; give a whole number from 1 to 1000000000");
  EXPECT_EQ(refusal({"--workers", "many"}),
            "--workers many: not a whole number; give a whole number from 1 to 256, or auto");
  EXPECT_EQ(refusal({"--smt", "1"}), "--smt 1: neither on nor off; give one of them");
  EXPECT_EQ(refusal({"--quiet=perhaps"}), "--quiet perhaps: neither on nor off; give one of them");
  EXPECT_EQ(refusal({"--model", "simplecn"}),
            "--model simplecn: neither one of mlp, simplecnn, resnet18, resnet50 nor the path of a YAML file "
            "(with a / or ending in .yaml); did you mean simplecnn?");
  EXPECT_EQ(refusal({"--bind", "3-1"}),
            "--bind 3-1: the range '3-1' runs backwards; give a list of CPUs like 0-3,8");
  EXPECT_EQ(refusal({"--bind", "cores"}).substr(70), "f CPUs like 0-3,8; did you mean core?");
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

TEST(Options, NumbersOutOfRangeAreRefused) {
  const std::vector<std::pair<const char*, const char*>> bad = {{"--lr", "0"},
                                                                {"--lr", "-1"},
                                                                {"--lr", "inf"},
                                                                {"--lr", "1e999"},
                                                                {"--epochs", "0"},
                                                                {"--steps", "0"},
                                                                {"--batch-size", "0"},
                                                                {"--batch-size", "-3"},
                                                                {"--shards", "0"},
                                                                {"--workers", "0"},
                                                                {"--workers", "-1"},
                                                                {"--workers", "99999999999999999999"},
                                                                {"--momentum", "1"},
                                                                {"--momentum", "-0.1"},
                                                                {"--weight-decay", "-1"},
                                                                {"--accumulate", "0"},
                                                                {"--eval-every", "-1"},
                                                                {"--warmup", "-1"},
                                                                {"--decay-every", "0"},
                                                                {"--decay-factor", "0"},
                                                                {"--decay-factor", "1.1"},
                                                                {"--beta1", "1"},
                                                                {"--beta2", "-0.1"},
                                                                {"--epsilon", "0"},
                                                                {"--bucket-mb", "0"},
                                                                {"--staleness", "2"},
                                                                {"--staleness", "-1"},
                                                                {"--deadline", "0"},
                                                                {"--deadline", "-inf"},
                                                                {"--seed", "-1"},
                                                                {"--seed", "18446744073709551616"},
                                                                {"--threads-per-worker", "0"}};
  for (const auto& [flag, value] : bad) {
    const std::string text = refusal({flag, value});
    EXPECT_EQ(text.find(std::string(flag) + " " + value + ": out of range; give a"), 0u)
        << flag << ": " << text;
  }
  EXPECT_EQ(refusal({"--momentum", "1"}),
            "--momentum 1: out of range; give a number of at least 0 and below 1");
  EXPECT_EQ(train({"--momentum", "0", "--weight-decay", "0"}).momentum, 0);
}

TEST(Options, MissingAndRepeatedValuesAreRefused) {
  EXPECT_EQ(refusal({"--seed", "1", "--lr"}), "--lr: no value; give RATE");
  EXPECT_EQ(refusal({"--data", "--quiet"}), "--data: no value before --quiet; give DIR");
  EXPECT_EQ(refusal({"--data=", "x"}),
            "--data=: no value after the equals sign; give one or leave the flag out");
  EXPECT_EQ(refusal({"--data", ""}), "--data : empty; give a value or leave the option out");
  EXPECT_EQ(refusal({"--lr", "1", "--lr", "2"}), "--lr: given 2 times (1, 2); give it once");
}

TEST(Options, FilesAreRefusedWithLineAndKey) {
  EXPECT_EQ(ConfigFile("# note\nlr: fast\n").refusal(),
            "FILE:2: lr: fast: not a number; give a number above 0");
  EXPECT_EQ(ConfigFile("lr: .inf\n").refusal(), "FILE:1: lr: .inf: not a number; give a number above 0");
  EXPECT_EQ(ConfigFile("seed: 1\nbatch_size: 3\n").refusal(),
            "FILE:2: batch_size: unknown key; did you mean batch-size?");
  EXPECT_EQ(ConfigFile("config: x\n").refusal(),
            "FILE:1: config: a flag, but no key of the file; leave it out");
  EXPECT_EQ(ConfigFile("lr: 1\nseed: 2\nlr: 1\n").refusal(),
            "FILE:3: lr: given before, in line 1; keep one of them");
  EXPECT_EQ(ConfigFile("- lr\n").refusal(),
            "FILE:1: not a map of keys and values; write one `key: value` a line");
  EXPECT_EQ(ConfigFile("just words").refusal(),
            "FILE:1: not a map of keys and values; write one `key: value` a line");
  EXPECT_EQ(ConfigFile("seed: 1\nlr: [1, 2]\n").refusal(),
            "FILE:2: lr: a list or a map; give a single value");
  EXPECT_EQ(ConfigFile("seed: 1\nlr:\n").refusal(), "FILE:2: lr: no value; give one or leave the key out");
  EXPECT_EQ(ConfigFile("[a, b]: 1\n").refusal(),
            "FILE:1: a key that is no word; write one `key: value` a line");
  EXPECT_EQ(ConfigFile("lr: 1\n---\nlr: 2\n").refusal().substr(0, 30), "FILE:3: a second YAML document");
  EXPECT_EQ(ConfigFile("seed: 1\nlr: \"1").refusal(),
            "FILE:2:7: does not parse as YAML (illegal EOF in scalar); write one `key: value` a line");
  EXPECT_EQ(ConfigFile("lr: 1\n  seed: 2\n").refusal().substr(0, 33), "FILE:2:7: does not parse as YAML ");
}

TEST(Options, AnEmptyFileChangesNothing) {
  EXPECT_EQ(ConfigFile("").refusal(), "(accepted)");
  EXPECT_EQ(ConfigFile("# nothing\n").refusal(), "(accepted)");
}

TEST(Options, FilesThatCannotBeReadAreNamed) {
  EXPECT_EQ(
      refusal({"--config", "/no/such.yaml"}),
      "--config /no/such.yaml: cannot be read (No such file or directory); give the path of a YAML file");
  EXPECT_EQ(refusal({"--config", "/"}),
            "--config /: cannot be read (Is a directory); give the path of a YAML file");
  EXPECT_EQ(refusal({"--config", "/dev/zero"}),
            "--config /dev/zero: larger than 1048576 bytes; give the path of a YAML file");
}

TEST(Options, SgdTakesNoMomentumAlongUnlessItIsGiven) {
  const ConfigFile momentum("optimizer: momentum\nmomentum: 0.8\n"), sgd("optimizer: sgd\n");
  EXPECT_EQ(train({"--optimizer", "sgd"}).momentum, 0);
  EXPECT_EQ(train({"--config", momentum.path(), "--optimizer", "sgd"}).momentum, 0);
  EXPECT_EQ(train({"--config", sgd.path()}).momentum, 0);
  EXPECT_EQ(train({"--config", sgd.path(), "--optimizer", "nesterov"}).momentum, 0.9);
  const TrainConfig config = train({"--config", sgd.path(), "--momentum", "0.5"});
  EXPECT_EQ(refusal([&] { check_combinations(config, 1); }),
            "--momentum 0.5: sgd has none; leave it out, or give --optimizer momentum or nesterov");
  EXPECT_TRUE(check_combinations(train({"--optimizer", "sgd", "--momentum", "0"}), 1).empty());
}

TEST(Options, AdamHasOptionsAndUsualValuesOfItsOwn) {
  const TrainConfig adam = train({"--optimizer", "adam"});
  EXPECT_EQ(adam.learning_rate, 0.001);
  EXPECT_EQ(adam.weight_decay, 0);
  EXPECT_EQ(adam.momentum, 0);
  EXPECT_EQ(adam.beta1, 0.9);
  EXPECT_EQ(adam.beta2, 0.999);
  EXPECT_EQ(adam.epsilon, 1e-8);
  EXPECT_EQ(train({"--optimizer", "adamw"}).weight_decay, 0.01);
  const TrainConfig given = train({"--optimizer", "adamw", "--lr", "0.04", "--weight-decay", "0", "--beta1",
                                   "0.8", "--beta2", "0.95", "--epsilon", "1e-6"});
  EXPECT_EQ(given.learning_rate, 0.04);
  EXPECT_EQ(given.weight_decay, 0);
  EXPECT_EQ(given.beta1, 0.8);
  EXPECT_EQ(given.beta2, 0.95);
  EXPECT_EQ(given.epsilon, 1e-6);
  EXPECT_TRUE(check_combinations(given, 1).empty());

  const ConfigFile saved(to_yaml(given));
  EXPECT_EQ(to_yaml(train({"--config", saved.path()})), to_yaml(given));
  const TrainConfig replaced = train({"--config", saved.path(), "--optimizer", "nesterov"});
  EXPECT_EQ(replaced.beta1, std::nullopt);
  EXPECT_EQ(replaced.epsilon, std::nullopt);
  EXPECT_EQ(replaced.momentum, 0.9);
  EXPECT_TRUE(check_combinations(replaced, 1).empty());
  EXPECT_EQ(to_yaml(train({"--optimizer", "adam"})).find("momentum:"), std::string::npos);
}

TEST(Options, WhatTheOptimizerDoesNotHaveIsRefused) {
  const auto refused = [](const Words& words) {
    return refusal([&] { check_combinations(train(words), 1); });
  };
  EXPECT_EQ(refused({"--optimizer", "adam", "--momentum", "0.9"}),
            "--momentum 0.9: adam has none; leave it out, or give --optimizer momentum or nesterov");
  EXPECT_EQ(refused({"--optimizer", "sgd", "--beta1", "0.9"}),
            "--beta1 0.9: sgd has none; leave it out, or give --optimizer adam or adamw");
  EXPECT_EQ(refused({"--beta2", "0.99"}),
            "--beta2 0.99: momentum has none; leave it out, or give --optimizer adam or adamw");
  EXPECT_EQ(refused({"--optimizer", "nesterov", "--epsilon", "0.1"}),
            "--epsilon 0.1: nesterov has none; leave it out, or give --optimizer adam or adamw");
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

TEST(Options, OnlyTheScheduleStepHasDrops) {
  const TrainConfig step = train({"--schedule", "step", "--warmup", "50"});
  EXPECT_EQ(step.decay_every, 30);
  EXPECT_EQ(step.decay_factor, 0.1);
  EXPECT_EQ(step.warmup, 50);
  const TrainConfig given =
      train({"--schedule", "step", "--decay-every", "10", "--decay-factor", "0.5", "--warmup", "7"});
  EXPECT_EQ(given.decay_every, 10);
  EXPECT_EQ(given.decay_factor, 0.5);
  const ConfigFile saved(to_yaml(given));
  EXPECT_EQ(to_yaml(train({"--config", saved.path()})), to_yaml(given));
  EXPECT_TRUE(check_combinations(train({"--config", saved.path(), "--schedule", "cosine"}), 1).empty());
  const auto refused = [](const Words& words) {
    return refusal([&] { check_combinations(train(words), 1); });
  };
  EXPECT_EQ(refused({"--decay-every", "10"}),
            "--decay-every 10: --schedule cosine has no drops; leave it out, or give --schedule step");
  EXPECT_EQ(refused({"--schedule", "constant", "--decay-factor", "0.5"}),
            "--decay-factor 0.5: --schedule constant has no drops; leave it out, or give --schedule step");
}

TEST(Options, AccumulateIsAnotherWayToSayShards) {
  const TrainConfig config = train({"--accumulate", "4"});
  EXPECT_EQ(config.accumulate, 4);
  EXPECT_EQ(resolved(config, 3).shards, 12);
  EXPECT_EQ(resolved(config, 3).accumulate, 1);
  EXPECT_EQ(resolved(train({"--shards", "5"}), 3).shards, 5);
  EXPECT_EQ(resolved(train({}), 3).shards, 3);
  const ConfigFile saved(to_yaml(config)), in_force(to_yaml(resolved(config, 3)));
  EXPECT_EQ(train({"--config", saved.path()}).accumulate, 4);
  EXPECT_EQ(train({"--config", in_force.path()}).shards, 12);

  EXPECT_EQ(refusal({"--shards", "8", "--accumulate", "4"}),
            "--shards 8 and --accumulate 4: they exclude each other; leave one out");
  const TrainConfig flag_over_file = train({"--config", saved.path(), "--shards", "8"});
  EXPECT_EQ(resolved(flag_over_file, 2).shards, 8);
  EXPECT_EQ(resolved(train({"--config", in_force.path(), "--accumulate", "2"}), 2).shards, 4);
  EXPECT_EQ(
      refusal([] {
        check_combinations(train({"--batch-size", "10", "--accumulate", "4"}), 3);
      }),
      "--batch-size 10: smaller than the 12 shards (4 for each of 3 workers); give at least --batch-size "
      "12, or at most --accumulate 3");
  EXPECT_EQ(
      refusal([] {
        check_combinations(train({"--batch-size", "2", "--accumulate", "4"}), 3);
      }),
      "--batch-size 2: smaller than the 12 shards (4 for each of 3 workers); give at least --batch-size "
      "12, or at most --workers 2");
  EXPECT_TRUE(check_combinations(train({"--accumulate", "4"}), 3).empty());
  const Words topo = {"topo", "--shards", "8", "--accumulate", "4"};
  EXPECT_NE(refusal([&] { parse_topo(5, topo.data()); }).find("exclude each other"), std::string::npos);
}

TEST(Options, ImpossibleCombinationsAreRefused) {
  EXPECT_EQ(refusal([] {
              check_combinations(train({"--shards", "2"}), 3);
            }),
            "--shards 2: fewer than the 3 workers; give at least --shards 3, or --workers 2");
  EXPECT_EQ(refusal([] {
              check_combinations(train({"--batch-size", "4", "--shards", "8"}), 1);
            }),
            "--batch-size 4: smaller than the 8 shards; give at least --batch-size 8, or --shards 4");
  EXPECT_EQ(refusal([] {
              check_combinations(train({"--batch-size", "4"}), 8);
            }),
            "--batch-size 4: smaller than the 8 shards (one per worker); give at least --batch-size 8, or "
            "--workers "
            "4");
}

TEST(Options, UnevenShardsAreAllowedWithANote) {
  EXPECT_TRUE(check_combinations(train({}), 5).empty());
  EXPECT_TRUE(check_combinations(train({"--shards", "12"}), 4).empty());
  const std::vector<std::string> notes = check_combinations(train({"--shards", "12"}), 5);
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_EQ(
      notes[0],
      "--shards 12: 5 workers do not divide them evenly; the busiest computes 3 of them, 25.0 % more than an "
      "even share; a multiple of 5 has no imbalance");
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

TEST(Options, UnknownCommandsNameTheNearest) {
  const std::vector<std::string> commands = {"train", "topo", "bench"};
  EXPECT_STREQ(unknown_command("trian", commands).what(), "trian: unknown command; did you mean train?");
  EXPECT_STREQ(unknown_command("fly", commands).what(), "fly: unknown command; there are train, topo, bench");
}

TEST(NearestName, CountsSlips) {
  EXPECT_EQ(edit_distance("", "abc"), 3);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
  EXPECT_EQ(edit_distance("trian", "train"), 1);
  EXPECT_EQ(nearest_name("x", {"lr"}), "");
  EXPECT_EQ(nearest_name(std::string(100000, 'a'), {"lr"}), "");
}

}  // namespace
}  // namespace annulus
