#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstring>

#include "launcher/option_parts.h"
#include "launcher/options.h"

namespace annulus {
namespace {

// The end of every benchmark's table; `cores` are options of train.
void add_cores_and_output(OptionTable& table, const OptionTable& train, const std::vector<std::string>& cores,
                          bool& json) {
  table.section("On which cores");
  table.take(train, cores);
  table.section("Output");
  table.bare_switch("json", json, "JSON in place of text, one object a line");
}

// What benchmarks of training have in common.
void add_network(OptionTable& table, const OptionTable& train, std::string& shape) {
  table.section("What is measured");
  table.take(train,
             {"model", "stem", "precision", "precision-fallback", "tune", "convolutions", "optimizer"});
  table.choice("data-shape", shape, {"auto", "1x28x28", "3x32x32", "3x224x224"},
               "channels, height and width of an image; auto: 1x28x28 for mlp, 3x32x32 for others");
}

// Reads the command line of a benchmark of training.
void parse_training(OptionTable& table, int argc, const char* const* argv, TrainConfig& config) {
  table.parse(argc, argv);
  settle_optimizer(table, config);
  settle_stem(table, config.model, config.stem);
  settle_compression(table, config);
}

void add_batch_per_worker(OptionTable& table, int64_t& target) {
  table.whole("batch-per-worker", "B", target, 1, kMostImages / kMostWorkers,
              "images of one step per worker");
}

// Calls take(first, last) for each word of a list like "4K,64K,1M".
template <typename Take>
void for_each_word(const std::string& list, const Take& take) {
  for (std::size_t begin = 0; begin <= list.size();) {
    const std::size_t end = std::min(list.find(',', begin), list.size());
    take(list.data() + begin, list.data() + end);
    begin = end + 1;
  }
}

// A word of a list for a message.
std::string shown(const char* first, const char* last) {
  return first == last ? "an empty word" : std::string(first, last);
}

// Sizes like "4K,64K,1M", in bytes.
void add_sizes(OptionTable& table, std::vector<int64_t>& target, std::string help, std::string fallback) {
  constexpr int64_t kMost = int64_t{64} << 30;
  Option option;
  option.name = "bytes";
  option.value_name = "SIZE,SIZE,...";
  option.help = std::move(help);
  option.default_text = std::move(fallback);
  option.read = [&target](const std::string& text, const std::string& where) {
    std::vector<int64_t> sizes;
    for_each_word(text, [&](const char* first, const char* last) {
      int64_t size = 0;
      auto [rest, error] = std::from_chars(first, last, size);
      const char* const units = "KMG";
      const char* const unit = rest == last ? nullptr : std::strchr(units, std::toupper(*rest));
      if (unit != nullptr && *rest != '\0') ++rest;
      const int shift = unit == nullptr ? 0 : 10 * static_cast<int>(unit - units + 1);
      if (error != std::errc() || rest != last || size < 0 || size > kMost >> shift) {
        throw UserError::format("{}: {} is not a size; give sizes like 4K,1M,25M, at most 64G", where,
                                shown(first, last));
      }
      if ((size <<= shift) < 4) {
        throw UserError::format("{}: {} bytes hold no element; give at least 4", where, size);
      }
      sizes.push_back(size);
    });
    target = sizes;
  };
  option.write = [&target] { return fmt::format("{}", fmt::join(target, ",")); };
  table.add(std::move(option));
}

// Shares like "0.1,0.01", above 0 and at most 1.
void add_ratios(OptionTable& table, std::vector<double>& target, std::string help, std::string fallback) {
  Option option;
  option.name = "ratio";
  option.value_name = "R,R,...";
  option.help = std::move(help);
  option.default_text = std::move(fallback);
  option.read = [&target](const std::string& text, const std::string& where) {
    std::vector<double> ratios;
    for_each_word(text, [&](const char* first, const char* last) {
      double ratio = 0;
      const auto [rest, error] = std::from_chars(first, last, ratio);
      if (error != std::errc() || rest != last || !(ratio > 0 && ratio <= 1)) {
        throw UserError::format("{}: {} is not a ratio; give ratios like 0.1,0.01, above 0 and at most 1",
                                where, shown(first, last));
      }
      ratios.push_back(ratio);
    });
    target = ratios;
  };
  option.write = [&target] { return fmt::format("{}", fmt::join(target, ",")); };
  table.add(std::move(option));
}

// A link's rate as tc takes it, "1gbit". It stands in commands of a shell, so nothing else may.
void add_rate(OptionTable& table, std::string& target) {
  Option option;
  option.name = "rate";
  option.value_name = "RATE";
  option.help = "of each host's link: 1gbit; kbit, mbit and gbit are powers of 1000";
  option.default_text = "not limited";
  option.read = [&target](const std::string& text, const std::string& where) {
    const std::size_t digits = std::min(text.find_first_not_of("0123456789."), text.size());
    const std::string unit = text.substr(digits);
    double number = 0;
    const auto [rest, error] = std::from_chars(text.data(), text.data() + digits, number);
    if (error != std::errc() || rest != text.data() + digits || !(number > 0) ||
        (unit != "kbit" && unit != "mbit" && unit != "gbit")) {
      throw UserError::format(
          "{}: {} is not a rate; give a number above 0 with kbit, mbit or gbit, like 200mbit or 1gbit", where,
          shown(text.data(), text.data() + text.size()));
    }
    target = text;
  };
  option.write = [&target] { return target; };
  table.add(std::move(option));
}

}  // namespace

BenchAccuracyOptions parse_bench_accuracy(int argc, const char* const* argv) {
  BenchAccuracyOptions options;
  options.config.epochs = 5;
  options.config.optimizer = "nesterov";
  options.config.compress = "topk";
  options.config.compress_where = "all";
  options.config.momentum_correction = true;
  std::string config_file;
  const OptionTable train = train_table(options.config, config_file);
  OptionTable table("annulus bench accuracy",
                    "Trains with whole gradients, and with top-k gradients of every shard, each from several "
                    "seeds, and compares the accuracies.");
  table.section("What is compared");
  add_ratios(table, options.ratios, "shares of a weight's gradient that are sent in a step",
             "0.1,0.01,0.001");
  table.take(train, {"ratio-warmup", "momentum-correction"});
  table.whole("seeds", "N", options.seeds, 1, 1000, "runs of each kind, from --seed on");
  table.section("What is trained");
  table.take(train, {"model", "stem", "dataset", "data", "epochs", "steps", "batch-size", "shards",
                     "precision", "precision-fallback", "optimizer", "lr", "momentum", "weight-decay",
                     "schedule", "warmup", "clip", "augment", "seed"});
  table.exclude("steps", "epochs");
  add_cores_and_output(table, train, {"workers", "threads-per-worker", "bind", "smt"}, options.json);
  parse_training(table, argc, argv, options.config);
  return options;
}

BenchTrainOptions parse_bench_train(int argc, const char* const* argv) {
  BenchTrainOptions options;
  options.config.dataset = "synthetic";
  options.config.steps = 100;
  std::string config_file;
  const OptionTable train = train_table(options.config, config_file);
  OptionTable table("annulus bench train",
                    "Measures training steps on synthetic data that is already in memory.");
  add_network(table, train, options.data_shape);
  add_batch_per_worker(table, options.batch_per_worker);
  table.take(train, {"steps", "bucket-mb", "algorithm", "staleness", "comm-thread", "compress", "ratio",
                     "ratio-warmup", "momentum-correction", "compress-where"});
  add_cores_and_output(table, train, {"workers", "threads-per-worker", "bind", "smt"}, options.json);
  parse_training(table, argc, argv, options.config);
  return options;
}

BenchLayersOptions parse_bench_layers(int argc, const char* const* argv) {
  BenchLayersOptions options;
  options.config.dataset = "synthetic";
  options.config.steps = 10;
  options.config.batch_size = 64;
  std::string config_file;
  const OptionTable train = train_table(options.config, config_file);
  OptionTable table("annulus bench layers",
                    "Measures the kernels of one worker's training step, in the step and alone.");
  add_network(table, train, options.data_shape);
  table.whole("batch", "B", options.config.batch_size, 1, kMostImages, "images of one step");
  table.take(train, {"steps"});
  add_cores_and_output(table, train, {"threads-per-worker", "bind", "smt"}, options.json);
  parse_training(table, argc, argv, options.config);
  options.config.workers = 1;
  return options;
}

BenchCollectivesOptions parse_bench_collectives(int argc, const char* const* argv) {
  BenchCollectivesOptions options;
  std::string config_file;
  const OptionTable train = train_table(options.config, config_file);
  OptionTable table(
      "annulus bench collectives",
      "Measures collectives beside the machine's own floor: plain loops over all ranks' buffers.");
  table.section("What is measured");
  table.choice(
      "collective", options.collective,
      {"allreduce", "reduce-scatter", "allgather", "broadcast", "gather", "scatter", "barrier", "all"},
      "the collective");
  add_sizes(table, options.bytes, "sizes of the messages, with K, M or G for powers of 1024",
            "4K,64K,1M,4M,25M,100M");
  table.choice("algorithm", options.algorithm, {"auto", "direct", "ring", "hierarchical"},
               "how; auto: direct, or hierarchical where ranks are in several domains");
  table.choice("dtype", options.dtype, {"f32", "bf16", "f16"}, "element type; sums are made in fp32");
  table.choice("placement", options.placement, {"both", "shared", "private"},
               "buffers in the segment, outside it, or both in turn");
  table.choice("transport", options.transport, {"memory", "tcp"},
               "what carries payloads: the segment, or TCP over loopback, where buffers are private");
  add_cores_and_output(table, train, {"workers", "bind", "smt"}, options.json);
  table.parse(argc, argv);
  if (options.transport == "tcp" && options.placement == "shared") {
    throw UserError(
        "--transport tcp with --placement shared: over TCP ranks share no memory; leave --placement out");
  }
  return options;
}

BenchUpdateOptions parse_bench_update(int argc, const char* const* argv) {
  BenchUpdateOptions options;
  std::string config_file;
  const OptionTable train = train_table(options.config, config_file);
  OptionTable table(
      "annulus bench update",
      "Measures the fused update (sum of all ranks' gradients, momentum, new weights) beside a copy "
      "of as many bytes.");
  table.section("What is measured");
  add_sizes(table, options.bytes, "sizes of the gradient, with K, M or G for powers of 1024", "1M,25M,100M");
  add_cores_and_output(table, train, {"workers", "bind", "smt"}, options.json);
  table.parse(argc, argv);
  return options;
}

BenchCompressionOptions parse_bench_compression(int argc, const char* const* argv) {
  BenchCompressionOptions options;
  std::string config_file;
  const OptionTable train = train_table(options.config, config_file);
  options.config.model.clear();
  OptionTable table("annulus bench compression",
                    "Measures what it costs one core to make a gradient smaller for the wire (the largest "
                    "elements with error feedback, their encodings, 16-bit types), and how much smaller it "
                    "gets.");
  table.section("What is measured");
  add_ratios(table, options.ratios, "shares of the gradient's elements that are sent", "0.1,0.01,0.001");
  add_sizes(table, options.bytes, "sizes of the fp32 gradient, with K, M or G for powers of 1024",
            "1M,25M,100M");
  table.section("In place of sizes, beside forward and backward");
  table.text("model", "NAME", options.config.model,
             "the gradient of this network, as --compress topk makes it smaller between two hosts");
  table.take(train, {"stem", "bucket-mb"});
  table.whole("batch", "B", options.batch, 1, kMostImages, "images of one step");
  table.whole("steps", "K", options.steps, 1, 1'000'000, "steps that are measured");
  table.section("Output");
  table.bare_switch("json", options.json, "JSON in place of text, one object a line");
  table.exclude("model", "bytes");
  table.parse(argc, argv);
  if (!options.config.model.empty()) settle_stem(table, options.config.model, options.config.stem);
  return options;
}

BenchBridgeOptions parse_bench_bridge(int argc, const char* const* argv) {
  constexpr int kMostHosts = 16;  // so that the smallest message has a line for each
  BenchBridgeOptions options;
  options.config.workers = 1;
  std::string config_file;
  const OptionTable train = train_table(options.config, config_file);
  options.config.model.clear();
  OptionTable table("annulus bench bridge",
                    "Measures all-reduce between hosts, which are network namespaces of this machine, beside "
                    "iperf3 over the same link. Takes root.");
  table.section("What is measured");
  table.whole("nodes", "N", options.hosts, 2, kMostHosts, "hosts, joined by veth");
  add_sizes(table, options.bytes, "sizes of the fp32 gradient, with K, M or G for powers of 1024",
            "4K,64K,1M,25M,100M");
  table.choice("wire", options.wire, {"fp32", "fp16", "bf16"}, "what they travel as");
  table.text("model", "NAME", options.config.model,
             "in place of sizes: the gradient of this network, whole, as fp16 and by top-k");
  table.take(train, {"stem", "ratio", "topk-values", "bucket-mb"});
  add_rate(table, options.rate);
  add_cores_and_output(table, train, {"workers", "bind", "smt"}, options.json);
  table.parse(argc, argv);
  options.config.workers = std::max(options.config.workers, 1);  // auto
  if (!options.config.model.empty()) settle_stem(table, options.config.model, options.config.stem);
  return options;
}

BenchRecoveryOptions parse_bench_recovery(int argc, const char* const* argv) {
  constexpr int64_t kMostKills = 100'000;
  BenchRecoveryOptions options;
  BenchTrainOptions& training = options.training;
  training.config.dataset = "synthetic";
  std::string config_file;
  const OptionTable train = train_table(training.config, config_file);
  OptionTable table("annulus bench recovery",
                    "Kills random workers of a run on synthetic data, measures how it recovers, and compares "
                    "its weights with those of an undisturbed run.");
  add_network(table, train, training.data_shape);
  add_batch_per_worker(table, training.batch_per_worker);
  table.take(train, {"bucket-mb", "algorithm", "clip", "staleness", "comm-thread"});
  table.whole("kills", "N", options.kills, 1, kMostKills,
              "workers that are killed, each after the run has recovered from the last death");
  table.whole("seed", "S", options.seed, "of whom is killed when");
  add_cores_and_output(table, train, {"workers", "threads-per-worker", "bind", "smt"}, training.json);
  parse_training(table, argc, argv, training.config);
  return options;
}

}  // namespace annulus
