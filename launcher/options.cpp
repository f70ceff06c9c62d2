#include "launcher/options.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstring>
#include <filesystem>

#include "kernels/adam.h"
#include "launcher/comm_threads.h"
#include "launcher/cpu_list.h"
#include "launcher/placement.h"
#include "runtime/models.h"
#include "telemetry/nearest_name.h"

namespace annulus {
namespace {

// Limits that keep products of two of them inside 64 bits.
constexpr int most_workers = kMostWorkers;
constexpr int64_t most_images = 1'000'000'000;
constexpr int64_t most_shards = 1'000'000;  // the plan lists them one by one
constexpr int64_t most_steps = 1'000'000'000'000;

// Usual values of adam and adamw where those of the others would not do.
constexpr double kAdamLearningRate = 0.001;
constexpr double kAdamWWeightDecay = 0.01;

bool has_momentum(const TrainConfig& config) {
  return config.optimizer == "momentum" || config.optimizer == "nesterov";
}

void check_model(const std::string& model, const std::string& where) {
  const std::vector<std::string>& names = model_names();
  if (is_network_file(model) || std::find(names.begin(), names.end(), model) != names.end()) return;
  const std::string near = nearest_name(model, names);
  throw UserError::format(
      "{}: neither one of {} nor the path of a YAML file (with a / or ending in .yaml); {}", where,
      fmt::join(names, ", "), near.empty() ? "give one" : "did you mean " + near + "?");
}

void add_model(OptionTable& table, std::string& target) {
  Option option;
  option.name = "model";
  option.value_name = fmt::format("{}|FILE.yaml", fmt::join(model_names(), "|"));
  option.help = "the network, or a file that describes it; annulus model shows both";
  option.read = [&target](const std::string& text, const std::string& where) {
    check_model(text, where);
    target = text;
  };
  option.write = [&target] { return target; };
  table.add(std::move(option));
}

// Left out of a saved configuration whose model has no stem.
void add_stem(OptionTable& table, const std::string& model, std::string& target) {
  Option& stem = table.choice("stem", target, stem_names(),
                              "what a ResNet begins with: a 3x3 convolution, or a 7x7 one and max pooling");
  stem.write = [&model, &target] { return has_stem(model) ? std::optional(target) : std::nullopt; };
  stem.default_text = target;
}

// A stem from a file whose model the command line replaced was not meant for the new one.
void settle_stem(const OptionTable& table, const std::string& model, std::string& stem) {
  if (has_stem(model) || table.level("stem") == OptionLevel::builtin) return;
  if (table.level("stem") >= table.level("model")) {
    throw UserError::format(
        "--stem {}: {} has none; leave it out, or give a model that has one, like resnet18", stem, model);
  }
  stem = TrainConfig().stem;
}

// "3x32x32".
void add_input(OptionTable& table, std::optional<ImageShape>& target) {
  static constexpr int kLargestSide = 65'536;
  Option option;
  option.name = "input";
  option.value_name = "CxHxW";
  option.help =
      "channels, height and width of the images; left out: what the file says, 3x224x224 with --stem "
      "imagenet, else 3x32x32";
  option.read = [&target](const std::string& text, const std::string& where) {
    int sides[3] = {};
    const char* at = text.data();
    const char* const end = at + text.size();
    for (int i = 0; i < 3; ++i) {
      const auto [stop, error] = std::from_chars(at, end, sides[i]);
      const bool goes_on = i < 2 ? stop < end && *stop == 'x' : stop == end;
      if (error != std::errc() || !goes_on || sides[i] < 1 || sides[i] > kLargestSide) {
        throw UserError::format(
            "{}: not the shape of an image; give channels, height and width like 3x32x32, each "
            "from 1 to {}",
            where, kLargestSide);
      }
      at = stop + 1;
    }
    target = ImageShape{sides[0], sides[1], sides[2]};
  };
  option.write = [] { return std::nullopt; };
  table.add(std::move(option));
}

// One of `policies`, or a list of CPUs.
void add_cpus(OptionTable& table, std::string name, std::string& target,
              const std::vector<std::string>& policies, std::string help) {
  Option option;
  option.name = std::move(name);
  option.value_name = fmt::format("{}|LIST", fmt::join(policies, "|"));
  option.help = std::move(help);
  option.read = [&target, &policies](const std::string& text, const std::string& where) {
    if (is_cpu_list_text(text)) {
      try {
        parse_cpu_list(text);
      } catch (const std::invalid_argument& error) {
        throw UserError::format("{}: {}; give a list of CPUs like 0-3,8", where, error.what());
      }
    } else if (std::find(policies.begin(), policies.end(), text) == policies.end()) {
      const std::string near = nearest_name(text, policies);
      throw UserError::format("{}: neither one of {} nor a list of CPUs like 0-3,8; {}", where,
                              fmt::join(policies, ", "),
                              near.empty() ? "give one" : "did you mean " + near + "?");
    }
    target = text;
  };
  option.write = [&target] { return target; };
  table.add(std::move(option));
}

// What benchmarks of the exchange have in common.
void add_ranks_and_output(OptionTable& table, const OptionTable& train, bool& json) {
  table.section("On which cores");
  table.take(train, {"workers", "bind", "smt"});
  table.section("Output");
  table.bare_switch("json", json, "JSON objects, one a line, in place of text");
}

void add_data_shape(OptionTable& table, std::string& shape) {
  table.choice("data-shape", shape, {"auto", "1x28x28", "3x32x32", "3x224x224"},
               "channels, height and width of an image; auto: 1x28x28 for mlp, 3x32x32 for others");
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
    for (std::size_t begin = 0; begin <= text.size();) {
      const std::size_t end = std::min(text.find(',', begin), text.size());
      const char* const first = text.data() + begin;
      const char* const last = text.data() + end;
      begin = end + 1;
      int64_t size = 0;
      auto [rest, error] = std::from_chars(first, last, size);
      const char* const units = "KMG";
      const char* const unit = rest == last ? nullptr : std::strchr(units, std::toupper(*rest));
      if (unit != nullptr && *rest != '\0') ++rest;
      const int shift = unit == nullptr ? 0 : 10 * static_cast<int>(unit - units + 1);
      if (error != std::errc() || rest != last || size < 0 || size > kMost >> shift) {
        throw UserError::format("{}: {} is not a size; give sizes like 4K,1M,25M, at most 64G", where,
                                first == last ? "an empty word" : std::string(first, last));
      }
      if ((size <<= shift) < 4) {
        throw UserError::format("{}: {} bytes hold no element; give at least 4", where, size);
      }
      sizes.push_back(size);
    }
    target = sizes;
  };
  option.write = [&target] { return fmt::format("{}", fmt::join(target, ",")); };
  table.add(std::move(option));
}

OptionTable train_table(TrainConfig& config, std::string& config_file) {
  OptionTable table(
      "annulus train",
      "Trains a network with one pinned worker process per core. Every flag but --config is also a key "
      "of the YAML file (without the dashes); the command line wins over the file.");
  table.section("What is trained, on what");
  add_model(table, config.model);
  add_stem(table, config.model, config.stem);
  table.choice("dataset", config.dataset, {"fashion-mnist", "mnist", "cifar10", "cifar100", "synthetic"},
               "the images");
  table.text("data", "DIR", config.data,
             "directory of the data files; left out: the data set's usual places");

  table.section("On which cores");
  table.whole_or_auto("workers", "N|auto", config.workers, most_workers,
                      "worker processes; auto: one per usable physical core");
  table.whole("threads-per-worker", "T", config.threads_per_worker, 1, most_workers, "cores of a worker");
  add_cpus(table, "bind", config.bind, bind_policies(),
           "what a worker is bound to, or the CPUs to use, like 0-3,8");
  table.on_off("smt", config.smt, "use every hardware thread as a core of its own");

  table.section("How long, in which portions");
  table.whole("batch-size", "N", config.batch_size, 1, most_images,
              "images of one update, over all workers and shards");
  Option& shards = table.whole_or_auto(
      "shards", "S|auto", config.shards, most_shards,
      "parts of the batch, in which gradients are summed; equal shards give equal bits on any number "
      "of workers; auto: as many as workers");
  // Shards and accumulate say the same in two ways; the one given last (command line over file) counts.
  shards.read = [&config, read = shards.read](const std::string& text, const std::string& where) {
    read(text, where);
    config.accumulate = 1;
  };
  shards.write = [&config, write = shards.write] { return config.accumulate > 1 ? std::nullopt : write(); };
  Option& accumulate = table.whole(
      "accumulate", "K", config.accumulate, 1, most_shards / most_workers,
      "shards that each worker computes one after the other before the update, so that activations "
      "take less memory; the same as --shards of K times the workers");
  accumulate.read = [&config, read = accumulate.read](const std::string& text, const std::string& where) {
    read(text, where);
    config.shards = 0;
  };
  accumulate.write = [&config] {
    return config.accumulate > 1 ? std::optional(std::to_string(config.accumulate)) : std::nullopt;
  };
  table.exclude("shards", "accumulate");
  Option& epochs =
      table.whole("epochs", "E", config.epochs, 1, most_images, "passes over the training images");
  // Either says how long the run is; the one given last (command line over file) counts.
  epochs.read = [&config, read = epochs.read](const std::string& text, const std::string& where) {
    read(text, where);
    config.steps.reset();
  };
  epochs.write = [&config] {
    return config.steps ? std::nullopt : std::optional(std::to_string(config.epochs));
  };
  table.whole("steps", "K", config.steps, 1, most_steps, "number of steps, whatever the epochs");
  table.exclude("epochs", "steps");
  table.choice("last-batch", config.last_batch, {"drop", "keep"},
               "what becomes of an epoch's last, smaller batch");
  table.whole("eval-every", "EPOCHS", config.eval_every, 0, most_images,
              "epochs from one evaluation to the next; 0: only at the end of the run");

  table.section("With which arithmetic");
  table.choice(
      "precision", config.precision, {"fp32", "bf16"},
      "type of activations and of the weights that kernels read; gradients of weights, their sums and "
      "updates are fp32 always");
  // Written only where they say something: --tune ends as a list of convolutions.
  Option& tune = table.bare_switch(
      "tune", config.tune,
      "measure which algorithm is the fastest for each convolution and pass, and note it as convolutions in "
      "the run's configuration; bits depend on it");
  tune.write = [&config] { return config.tune ? std::optional<std::string>("on") : std::nullopt; };
  Option& convolutions = table.text(
      "convolutions", "LAYER=XYZ,...", config.convolutions,
      "algorithms instead of the rule's, a letter each for forward, backward-weights and backward-data: d is "
      "direct, w Winograd");
  convolutions.write = [&config] {
    return config.convolutions.empty() ? std::nullopt : std::optional(config.convolutions);
  };
  table.exclude("tune", "convolutions");
  table.on_off("precision-fallback", config.precision_fallback,
               "train in fp32, with a warning, where the processor has no bf16; off: that is an error");
  table.choice("optimizer", config.optimizer, {"sgd", "momentum", "nesterov", "adam", "adamw"},
               "how gradients change the weights");
  table.number("lr", "RATE", config.learning_rate, {.low = 0, .low_included = false},
               fmt::format("learning rate; adam and adamw: {} unless given", kAdamLearningRate));
  Option& momentum = table.number("momentum", "M", config.momentum, {.high = 1, .high_included = false},
                                  "share of the last update that goes on; momentum and nesterov only");
  // Left out for the others, so that a saved configuration and --optimizer momentum together mean the
  // default.
  momentum.write = [&config] {
    return has_momentum(config) ? std::optional(fmt::format("{}", config.momentum)) : std::nullopt;
  };
  const AdamOptions adam;
  const NumberRange share{.high = 1, .high_included = false};
  table.number("beta1", "B", config.beta1, share, "adam, adamw: share of the mean gradient that is kept",
               fmt::format("{}", adam.beta1));
  table.number("beta2", "B", config.beta2, share, "adam, adamw: share of the mean square that is kept",
               fmt::format("{}", adam.beta2));
  // From here on it is not zero as a float.
  table.number("epsilon", "E", config.epsilon, {.low = 1e-30},
               "adam, adamw: added to the root of the mean square", fmt::format("{}", adam.epsilon));
  table.number("weight-decay", "W", config.weight_decay, {},
               fmt::format("pull of every weight towards zero; adamw: apart from the gradient, and {} unless "
                           "given",
                           kAdamWWeightDecay));
  table.choice("schedule", config.schedule, {"constant", "step", "cosine"}, "the learning rate over the run");
  table.whole("warmup", "N", config.warmup, 0, most_steps,
              "steps over which the learning rate rises from 0, before the schedule takes over");
  table
      .whole("decay-every", "EPOCHS", config.decay_every, 1, most_images,
             "schedule step: epochs between two drops of the learning rate")
      .default_text = std::to_string(kDecayEvery);
  table.number("decay-factor", "F", config.decay_factor, {.low = 0, .low_included = false, .high = 1},
               "schedule step: what the learning rate is multiplied by", fmt::format("{}", kDecayFactor));
  table.number_or_off("clip", "NORM|off", config.clip, {.low = 0, .low_included = false},
                      "largest L2 norm of the gradient; a larger one is scaled down to it");
  table.on_off("augment", config.augment, "vary the training images at random");
  table.whole("seed", "N", config.seed, "decides initial weights, order of the images and augmentation");

  table.section("How gradients travel");
  table.choice(
      "algorithm", config.algorithm, {"auto", "direct", "ring", "hierarchical"},
      "direct, hierarchical: the same bits on any number of workers; ring: the same bits from run to "
      "run; auto: direct or hierarchical, by the machine");
  table.number("bucket-mb", "MB", config.bucket_mb, {.low = 0, .low_included = false, .high = 1e6},
               "parameters whose gradients are handed over together");
  add_cpus(table, "comm-thread", config.comm_thread, comm_thread_kinds(),
           "where sums and updates run: on the compute thread (inline), on its core's other hardware thread "
           "(sibling), or on CPUs, one for each worker or one for all; auto: inline");
  table.whole("staleness", "0|1", config.staleness, 0, 1,
              "1: the update of a step goes on during the next one, which reads the weights before it");

  table.section("Around the run");
  table.config_file("config", config_file, "YAML file with any of these options");
  Option& run_dir =
      table.text("run-dir", "DIR", config.run_dir,
                 "where the run's files go; left out: runs/<date>-<model> in the working directory");
  run_dir.in_dump = false;
  table.number("deadline", "SECONDS", config.deadline, {.low = 0, .low_included = false, .high = 1e6},
               "how long a worker may show no sign of life");
  table.bare_switch("quiet", config.quiet, "no progress lines, only the summary");
  return table;
}

// As settle_optimizer, for what only --schedule step has.
void settle_schedule(const OptionTable& table, TrainConfig& config) {
  if (config.schedule == "step") {
    config.decay_every = config.decay_every.value_or(kDecayEvery);
    config.decay_factor = config.decay_factor.value_or(kDecayFactor);
    return;
  }
  const OptionLevel named = std::max(table.level("schedule"), OptionLevel::file);
  if (table.level("decay-every") < named) config.decay_every.reset();
  if (table.level("decay-factor") < named) config.decay_factor.reset();
}

void check_schedule(const TrainConfig& config) {
  const auto refuse = [&](const char* name, auto value) {
    throw UserError::format("--{} {}: --schedule {} has no drops; leave it out, or give --schedule step",
                            name, value, config.schedule);
  };
  if (config.schedule == "step") return;
  if (config.decay_every) refuse("decay-every", *config.decay_every);
  if (config.decay_factor) refuse("decay-factor", *config.decay_factor);
}

// What an optimizer does not have (sgd and adam: momentum; all but adam and adamw: betas and epsilon) and
// that stems from the defaults, or from a file whose optimizer the command line replaced, was not meant for
// it; one that stands beside the optimizer stays, for check_combinations to refuse. Where adam and adamw have
// usual values of their own, these take the place of defaults, never of what was given.
void settle_optimizer(const OptionTable& table, TrainConfig& config) {
  const OptionLevel named = std::max(table.level("optimizer"), OptionLevel::file);
  if (!has_momentum(config) && table.level("momentum") < named) config.momentum = 0;
  if (!uses_adam(config)) {
    if (table.level("beta1") < named) config.beta1.reset();
    if (table.level("beta2") < named) config.beta2.reset();
    if (table.level("epsilon") < named) config.epsilon.reset();
    return;
  }
  const AdamOptions usual;
  config.beta1 = config.beta1.value_or(usual.beta1);
  config.beta2 = config.beta2.value_or(usual.beta2);
  config.epsilon = config.epsilon.value_or(usual.epsilon);
  if (table.level("lr") == OptionLevel::builtin) config.learning_rate = kAdamLearningRate;
  if (config.optimizer == "adamw" && table.level("weight-decay") == OptionLevel::builtin) {
    config.weight_decay = kAdamWWeightDecay;
  }
}

void check_optimizer(const TrainConfig& config) {
  if (!has_momentum(config) && config.momentum != 0) {
    throw UserError::format(
        "--momentum {}: {} has none; leave it out, or give --optimizer momentum or nesterov", config.momentum,
        config.optimizer);
  }
  const std::pair<const char*, std::optional<double>> of_adam[] = {
      {"beta1", config.beta1}, {"beta2", config.beta2}, {"epsilon", config.epsilon}};
  for (const auto& [name, value] : of_adam) {
    if (!value || uses_adam(config)) continue;
    throw UserError::format("--{} {}: {} has none; leave it out, or give --optimizer adam or adamw", name,
                            *value, config.optimizer);
  }
}

}  // namespace

TrainConfig parse_train(int argc, const char* const* argv) {
  TrainConfig config;
  std::string config_file;
  OptionTable table = train_table(config, config_file);
  table.parse(argc, argv);
  settle_optimizer(table, config);
  settle_schedule(table, config);
  settle_stem(table, config.model, config.stem);
  // The saved configuration must find its files from any working directory.
  if (is_network_file(config.model)) {
    config.model = std::filesystem::absolute(config.model).lexically_normal().string();
  }
  if (!config.data.empty()) config.data = std::filesystem::absolute(config.data).lexically_normal().string();
  return config;
}

TopoOptions parse_topo(int argc, const char* const* argv) {
  TopoOptions options;
  std::string config_file;
  const OptionTable train = train_table(options.config, config_file);
  OptionTable table("annulus topo",
                    "Draws the machine, the plan (worker -> cores, NUMA node, memory) and the "
                    "segment's parts, without running anything.");
  table.section("The machine");
  table.text("synthetic", "TEXT", options.synthetic,
             "plan for a machine that is not there, like \"pack:2 numa:2 l3:4 core:8 pu:2\"");
  table.bare_switch("verify", options.verify,
                    "start the workers and read back where their pages and CPUs are");
  table.section("The plan");
  table.take(train, {"workers", "threads-per-worker", "bind", "smt"});
  table.section("What decides the segment's size");
  table.take(train, {"model", "stem", "dataset", "data", "batch-size", "shards", "accumulate", "precision",
                     "optimizer", "clip", "algorithm", "bucket-mb", "staleness", "comm-thread"});
  table.exclude("shards", "accumulate");
  table.parse(argc, argv);
  settle_optimizer(table, options.config);
  settle_stem(table, options.config.model, options.config.stem);
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
  table.section("What is measured");
  table.take(train, {"model", "stem", "precision", "tune", "convolutions", "optimizer"});
  add_data_shape(table, options.data_shape);
  table.whole("batch-per-worker", "B", options.batch_per_worker, 1, most_images / most_workers,
              "images of one step per worker");
  table.take(train, {"steps", "bucket-mb", "algorithm", "staleness", "comm-thread"});
  table.section("On which cores");
  table.take(train, {"workers", "threads-per-worker", "bind", "smt"});
  table.section("Output");
  table.bare_switch("json", options.json, "one JSON object in place of text");
  table.parse(argc, argv);
  settle_stem(table, options.config.model, options.config.stem);
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
  table.section("What is measured");
  table.take(train, {"model", "stem", "precision", "tune", "convolutions", "optimizer"});
  add_data_shape(table, options.data_shape);
  table.whole("batch", "B", options.config.batch_size, 1, most_images, "images of one step");
  table.take(train, {"steps"});
  table.section("On which cores");
  table.take(train, {"threads-per-worker", "bind", "smt"});
  table.section("Output");
  table.bare_switch("json", options.json, "JSON objects, one a line, in place of text");
  table.parse(argc, argv);
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
  add_ranks_and_output(table, train, options.json);
  table.parse(argc, argv);
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
  add_ranks_and_output(table, train, options.json);
  table.parse(argc, argv);
  return options;
}

CheckOptions parse_check(int argc, const char* const* argv) {
  const std::vector<std::string> algorithms = {"direct", "ring", "hierarchical"};
  CheckOptions options;
  OptionTable table(
      "annulus check direct|ring|hierarchical",
      "Trains a synthetic objective whose optimum is known through the exchange alone, with real "
      "worker processes, and compares the weights with those of a serial run, bit by bit. Reads "
      "no data.");
  table.section("What is exchanged");
  table.whole("dim", "D", options.dim, 1, most_images, "parameters");
  table.whole("steps", "K", options.steps, 1, most_images, "number of steps");
  table.section("Among whom");
  table.whole_or_auto("workers", "N|auto", options.workers, most_workers,
                      "worker processes; auto: one per usable physical core");
  table.whole_or_auto("shards", "S|auto", options.shards, most_shards,
                      "parts in which gradients are summed; auto: as many as workers");
  table.whole_or_auto("domains", "N|auto", options.domains, most_workers,
                      "pretended domains of neighbouring workers, for hierarchical; auto: the machine's");
  table.section("Output");
  table.bare_switch("json", options.json, "one JSON object in place of text");

  const std::string word = argc > 1 ? argv[1] : "";
  if (word.empty() || word.starts_with("-")) {
    table.parse(argc, argv);  // --help
    throw UserError("check: no algorithm; give annulus check direct, ring or hierarchical");
  }
  if (std::find(algorithms.begin(), algorithms.end(), word) == algorithms.end()) {
    const std::string near = nearest_name(word, algorithms);
    throw UserError::format("check {}: unknown algorithm; {}", word,
                            near.empty() ? fmt::format("there are {}", fmt::join(algorithms, ", "))
                                         : "did you mean " + near + "?");
  }
  table.parse(argc - 1, argv + 1);
  options.algorithm = word;
  if (options.domains > 0 && word != "hierarchical") {
    throw UserError::format("--domains {}: {} knows no domains; leave it out, or check hierarchical",
                            options.domains, word);
  }
  return options;
}

ModelOptions parse_model(int argc, const char* const* argv) {
  ModelOptions options;
  std::optional<int64_t> classes;
  OptionTable table(
      "annulus model NETWORK",
      fmt::format(
          "Prints a network (one of {}, or a YAML file's) in the form that --model reads, and a table of its "
          "layers: shapes, parameters, operations, memory.",
          fmt::join(model_names(), ", ")));
  table.section("For which images");
  add_input(table, options.input);
  table.whole("classes", "N", classes, 2, 65'536,
              "classes; left out: what the file says, 1000 with --stem imagenet, else 10");
  table.whole("batch", "N", options.batch, 1, most_images,
              "images that operations and memory are counted for");
  table.section("The network");
  add_stem(table, options.model, options.stem);
  table.section("Output");
  table.bare_switch("json", options.json, "one JSON object in place of text");

  const std::string word = argc > 1 ? argv[1] : "";
  if (word.empty() || word.starts_with("-")) {
    table.parse(argc, argv);  // --help
    throw UserError::format("model: no network; give annulus model {}, or a YAML file",
                            fmt::join(model_names(), ", "));
  }
  check_model(word, "model " + word);
  table.parse(argc - 1, argv + 1);
  options.model = word;
  if (classes) options.classes = static_cast<int>(*classes);
  settle_stem(table, options.model, options.stem);
  return options;
}

std::string to_yaml(const TrainConfig& config) {
  TrainConfig copy = config;
  std::string config_file;
  return "# annulus train --config FILE repeats this run\n" + train_table(copy, config_file).to_yaml();
}

std::vector<std::string> check_combinations(const TrainConfig& config, int workers) {
  std::vector<std::string> notes;
  const int64_t shards = resolved(config, workers).shards;
  if (shards < workers) {
    throw UserError::format(
        "--shards {}: fewer than the {} workers; give at least --shards {}, or --workers {}", shards, workers,
        workers, shards);
  }
  if (config.batch_size < shards && config.accumulate > 1) {
    throw UserError::format(
        "--batch-size {}: smaller than the {} shards ({} for each of {} workers); give at least --batch-size "
        "{}, "
        "or at most --{} {}",
        config.batch_size, shards, config.accumulate, workers, shards,
        config.batch_size < workers ? "workers" : "accumulate",
        config.batch_size < workers ? config.batch_size : config.batch_size / workers);
  }
  if (config.batch_size < shards) {
    throw UserError::format(
        "--batch-size {}: smaller than the {} shards{}; give at least --batch-size {}, or {} {}",
        config.batch_size, shards, config.shards == 0 ? " (one per worker)" : "", shards,
        config.shards == 0 ? "--workers" : "--shards", config.batch_size);
  }
  check_optimizer(config);
  check_schedule(config);
  if (shards % workers != 0) {
    const int64_t most = (shards + workers - 1) / workers;
    const double even = static_cast<double>(shards) / workers;
    notes.push_back(
        fmt::format("--shards {}: {} workers do not divide them evenly; the busiest computes {} of them, "
                    "{:.1f} % more than an even share; a multiple of {} has no imbalance",
                    shards, workers, most, (static_cast<double>(most) / even - 1) * 100, workers));
  }
  if (config.dataset == "synthetic" && !config.data.empty()) {
    notes.push_back(fmt::format("--data {}: not used with --dataset synthetic", config.data));
  }
  return notes;
}

UserError unknown_command(std::string_view word, const std::vector<std::string>& commands) {
  const std::string near = nearest_name(word, commands);
  if (near.empty())
    return UserError::format("{}: unknown command; there are {}", word, fmt::join(commands, ", "));
  return UserError::format("{}: unknown command; did you mean {}?", word, near);
}

}  // namespace annulus
