// Options that depend on each other.
#include <gtest/gtest.h>

#include "tests/launcher/parsed_options.h"

namespace annulus {
namespace {

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

TEST(Options, OnlyTopKHasARatio) {
  EXPECT_EQ(train({"--compress", "topk"}).ratio, 0.01);
  const TrainConfig given = train({"--compress", "topk", "--ratio", "0.1", "--compress-where", "all"});
  EXPECT_EQ(given.ratio, 0.1);
  EXPECT_TRUE(check_combinations(given, 1).empty());
  const ConfigFile saved(to_yaml(given));
  EXPECT_EQ(to_yaml(train({"--config", saved.path()})), to_yaml(given));
  EXPECT_TRUE(check_combinations(train({"--config", saved.path(), "--compress", "none"}), 1).empty());
  const auto refused = [](const Words& words) {
    return refusal([&] { check_combinations(train(words), 1); });
  };
  EXPECT_EQ(refused({"--ratio", "0.1"}),
            "--ratio 0.1: --compress none has none; leave it out, or give --compress topk");
  EXPECT_EQ(refused({"--compress", "fp16", "--ratio", "0.1"}),
            "--ratio 0.1: --compress fp16 has none; leave it out, or give --compress topk");
  EXPECT_NE(refused({"--compress", "topk", "--compress-where", "all", "--staleness", "1"}), "(accepted)");
}

TEST(Options, OnlyTopKHasAWarmUpOfItsRatioAndMomentumToCorrect) {
  EXPECT_EQ(train({"--compress", "topk"}).ratio_warmup, 1);
  EXPECT_FALSE(train({"--compress", "topk"}).momentum_correction);
  const TrainConfig given = train({"--compress", "topk", "--ratio-warmup", "0.5", "--compress-where", "all",
                                   "--momentum-correction", "on"});
  EXPECT_EQ(given.ratio_warmup, 0.5);
  EXPECT_TRUE(corrects_momentum(given));
  EXPECT_TRUE(check_combinations(given, 1).empty());
  const ConfigFile saved(to_yaml(given));
  EXPECT_EQ(to_yaml(train({"--config", saved.path()})), to_yaml(given));
  // From a file they go with what the command line replaced.
  EXPECT_TRUE(check_combinations(train({"--config", saved.path(), "--compress", "none"}), 1).empty());
  EXPECT_TRUE(check_combinations(train({"--config", saved.path(), "--optimizer", "adam"}), 1).empty());
  const auto refused = [](const Words& words) {
    return refusal([&] { check_combinations(train(words), 1); });
  };
  EXPECT_EQ(refused({"--ratio-warmup", "2"}),
            "--ratio-warmup 2: --compress none has no ratio; leave it out, or give --compress topk");
  const std::string where =
      " it is for what --compress topk sends between hosts; leave it out, or give "
      "--compress topk --compress-where bridge";
  EXPECT_EQ(refused({"--topk-values", "fp8"}), "--topk-values fp8:" + where);
  EXPECT_EQ(refused({"--topk-values", "fp8", "--compress", "topk", "--compress-where", "all"}),
            "--topk-values fp8:" + where);
  EXPECT_EQ(refused({"--topk-values", "fp8", "--compress", "topk"}), "(accepted)");
  EXPECT_EQ(refused({"--compress", "bf16", "--momentum-correction", "on"}),
            "--momentum-correction on: --compress bf16 sends all elements, whose momentum needs no "
            "correction; leave it out, or give --compress topk");
  EXPECT_EQ(refused({"--compress", "topk", "--momentum-correction", "on", "--optimizer", "adam"}),
            "--momentum-correction on: adam has no momentum; leave it out, or give --optimizer momentum or "
            "nesterov");
  const char* const with_clip =
      "--clip 1: with --momentum-correction on the norm would be that of momenta, not of the gradient; leave "
      "it out, or give --momentum-correction off";
  Words clipped = {"--compress", "topk", "--momentum-correction", "on", "--clip", "1"};
  // Between hosts as well, if there are any.
  TrainConfig of_hosts = train(clipped);
  EXPECT_FALSE(corrects_momentum(of_hosts));
  EXPECT_EQ(check_combinations(of_hosts, 1).size(), 1U);  // nothing is compressed
  of_hosts.host_count = 2;
  EXPECT_EQ(refusal([&] { check_combinations(of_hosts, 1); }), with_clip);
  of_hosts.clip = 0;
  EXPECT_TRUE(check_combinations(of_hosts, 1).empty());
  EXPECT_TRUE(corrects_momentum(of_hosts));
  clipped.insert(clipped.end(), {"--compress-where", "all"});
  EXPECT_EQ(refused(clipped), with_clip);
}

TEST(Options, CompressionBetweenHostsSaysThatThereIsOneBox) {
  const std::vector<std::string> notes = check_combinations(train({"--compress", "topk"}), 2);
  ASSERT_EQ(notes.size(), 1U);
  EXPECT_EQ(notes[0].substr(0, 43), "--compress topk: nothing is compressed, sin") << notes[0];
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

}  // namespace
}  // namespace annulus
