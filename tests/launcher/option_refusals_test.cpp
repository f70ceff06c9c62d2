// What is wrong with a flag, a value or a file is said with its place and a remedy.
#include <gtest/gtest.h>

#include "telemetry/nearest_name.h"
#include "tests/launcher/parsed_options.h"

namespace annulus {
namespace {

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

TEST(Options, FilesThatCannotBeReadAreNamed) {
  EXPECT_EQ(
      refusal({"--config", "/no/such.yaml"}),
      "--config /no/such.yaml: cannot be read (No such file or directory); give the path of a YAML file");
  EXPECT_EQ(refusal({"--config", "/"}),
            "--config /: cannot be read (Is a directory); give the path of a YAML file");
  EXPECT_EQ(refusal({"--config", "/dev/zero"}),
            "--config /dev/zero: larger than 1048576 bytes; give the path of a YAML file");
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
