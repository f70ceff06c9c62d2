#include "launcher/options.h"

#include <algorithm>
#include <filesystem>

#include "kernels/adam.h"
#include "launcher/comm_threads.h"
#include "launcher/cpu_list.h"
#include "launcher/host_list.h"
#include "launcher/option_parts.h"
#include "runtime/models.h"
#include "runtime/step_schedule.h"
#include "telemetry/nearest_name.h"

namespace annulus {
namespace {

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

}  // namespace

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
  table.whole_or_auto("workers", "N|auto", config.workers, kMostWorkers,
                      "worker processes (on each host); auto: one per usable physical core");
  table.whole("threads-per-worker", "T", config.threads_per_worker, 1, kMostWorkers, "cores of a worker");
  add_cpus(table, "bind", config.bind, bind_policies(),
           "what a worker is bound to, or the CPUs to use, like 0-3,8");
  table.on_off("smt", config.smt, "use every hardware thread as a core of its own");

  table.section("On which hosts");
  const auto places = [](Option& option) -> Option& {
    option.in_dump = false;  // where, not what
    return option;
  };
  places(table.text("hosts", "FILE", config.hosts,
                    "train on several hosts: one a line, NAME [slots=N] [addr=A], the first one coordinates; "
                    "they are started by ssh, unless --node says that each is started by hand"));
  places(table.whole("node", "K", config.node, 0, kMostHosts - 1,
                     "by hand: this host's line in the file, from 0; the same command on every host"))
      .in_file = false;
  places(table.text("secret-file", "FILE", config.secret_file,
                    "by hand, and in Slurm: 32 random bytes, the same on every host, by which they know each "
                    "other"));
  places(
      table.whole("port", "N", config.port, 1, 65'535,
                  "where the first host listens for the others; left out: by ssh one that is free, else one "
                  "that follows from the secret"));
  places(table.text("remote-path", "PATH", config.remote_path,
                    "by ssh: this program on the other hosts; left out: the same path as here"));

  places(table.number("join-deadline", "SECONDS", config.join_deadline,
                      {.low = 0, .low_included = false, .high = 1e6},
                      "how long hosts wait for each other before the run starts, and workers for a way to "
                      "each other"));

  table.section("How long, in which portions");
  table.whole("batch-size", "N", config.batch_size, 1, kMostImages,
              "images of one update, over all workers and shards");
  Option& shards = table.whole_or_auto(
      "shards", "S|auto", config.shards, kMostShards,
      "parts of the batch, in which gradients are summed; equal shards give equal bits on any number "
      "of workers; auto: as many as workers");
  // Shards and accumulate say the same in two ways; the one given last (command line over file) counts.
  shards.read = [&config, read = shards.read](const std::string& text, const std::string& where) {
    read(text, where);
    config.accumulate = 1;
  };
  shards.write = [&config, write = shards.write] { return config.accumulate > 1 ? std::nullopt : write(); };
  Option& accumulate = table.whole(
      "accumulate", "K", config.accumulate, 1, kMostShards / kMostWorkers,
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
      table.whole("epochs", "E", config.epochs, 1, kMostImages, "passes over the training images");
  // Either says how long the run is; the one given last (command line over file) counts.
  epochs.read = [&config, read = epochs.read](const std::string& text, const std::string& where) {
    read(text, where);
    config.steps.reset();
  };
  epochs.write = [&config] {
    return config.steps ? std::nullopt : std::optional(std::to_string(config.epochs));
  };
  table.whole("steps", "K", config.steps, 1, kMostSteps, "number of steps, whatever the epochs");
  table.exclude("epochs", "steps");
  table.choice("last-batch", config.last_batch, {"drop", "keep"},
               "what becomes of an epoch's last, smaller batch");
  table.whole("eval-every", "EPOCHS", config.eval_every, 0, kMostImages,
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
    return uses_momentum(config) ? std::optional(fmt::format("{}", config.momentum)) : std::nullopt;
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
  table.whole("warmup", "N", config.warmup, 0, kMostSteps,
              "steps over which the learning rate rises from 0, before the schedule takes over");
  table
      .whole("decay-every", "EPOCHS", config.decay_every, 1, kMostImages,
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

  table.choice("compress", config.compress, {"none", "fp16", "bf16", "topk"},
               "what is sent of gradients: 16 bits of each element, or the largest elements of each weight");
  table.number("ratio", "R", config.ratio, {.low = 0, .low_included = false, .high = 1},
               "compress topk: share of a weight's gradient that is sent in a step; the rest is added to the "
               "next one's",
               fmt::format("{}", kRatio));
  table.number(
      "ratio-warmup", "EPOCHS", config.ratio_warmup, {.high = 1e6},
      fmt::format("compress topk: epochs over which the share falls from {} to --ratio", kFirstRatio),
      fmt::format("{}", kRatioWarmup));
  Option& values =
      table.choice("topk-values", config.topk_values, {"fp16", "fp8"},
                   "compress topk: what the elements that are sent between hosts are rounded to; "
                   "what that takes away is added to the next step's");
  values.write = [&config] {
    return config.compress == "topk" ? std::optional(config.topk_values) : std::nullopt;
  };
  Option& correction = table.on_off(
      "momentum-correction", config.momentum_correction,
      "compress topk: momentum of each host's gradient before the largest elements are chosen, not of what "
      "is sent (compress-where all: of each shard's); momentum and nesterov only");
  // Left out where it has no meaning, as momentum is.
  correction.write = [&config] {
    const bool counts = config.compress == "topk" && uses_momentum(config);
    return counts ? std::optional<std::string>(config.momentum_correction ? "on" : "off") : std::nullopt;
  };
  table.choice("compress-where", config.compress_where, {"bridge", "all"},
               "bridge: between hosts alone; all: of every shard, also inside this box, where it saves "
               "nothing, to see what it does to accuracy");

  table.section("Around the run");
  table.config_file("config", config_file, "YAML file with any of these options");
  Option& run_dir =
      table.text("run-dir", "DIR", config.run_dir,
                 "where the run's files go; left out: runs/<date>-<model> in the working directory");
  run_dir.in_dump = false;
  table.whole("checkpoint-every", "N", config.checkpoint_every, 0, kMostSteps,
              "steps from one checkpoint to the next; 0: none but the last, when the run ends or is stopped");
  table.whole("checkpoint-epochs", "E", config.checkpoint_epochs, 0, kMostImages, "the same in epochs");
  table.number_or_off("checkpoint-minutes", "M", config.checkpoint_minutes,
                      {.low = 0, .low_included = false, .high = 1e6}, "the same in minutes");
  table.whole("keep", "K", config.keep, 1, kMostImages, "how many checkpoints are kept: the latest ones");
  Option& resume =
      table.text("resume", "latest|FILE", config.resume,
                 "go on from a checkpoint, in its run's directory unless --run-dir says another; "
                 "its configuration holds where no other is given");
  resume.in_file = resume.in_dump = false;
  table.number("deadline", "SECONDS", config.deadline, {.low = 0, .low_included = false, .high = 1e6},
               "how long a worker may show no sign of life before it is replaced");
  table.whole("max-restarts", "N", config.max_restarts, 0, kMostImages,
              "processes that may be replaced within 1000 steps; 0: the first death ends the run");
  table.bare_switch("quiet", config.quiet, "no progress lines, only the summary");
  return table;
}

TrainConfig parse_train(int argc, const char* const* argv, const BaseConfig* base) {
  TrainConfig config;
  std::string config_file;
  OptionTable table = train_table(config, config_file);
  if (base != nullptr) table.parse_yaml(base->yaml, base->where);
  table.parse(argc, argv);
  settle_optimizer(table, config);
  settle_schedule(table, config);
  settle_stem(table, config.model, config.stem);
  settle_compression(table, config);
  // The saved configuration must find its files from any working directory.
  if (is_network_file(config.model)) {
    config.model = std::filesystem::absolute(config.model).lexically_normal().string();
  }
  if (!config.data.empty()) config.data = std::filesystem::absolute(config.data).lexically_normal().string();
  return config;
}

TrainConfig parse_saved(const BaseConfig& saved) {
  const char* const command = "train";
  return parse_train(1, &command, &saved);
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
  table.take(train, {"model",
                     "stem",
                     "dataset",
                     "data",
                     "batch-size",
                     "shards",
                     "accumulate",
                     "precision",
                     "precision-fallback",
                     "optimizer",
                     "clip",
                     "algorithm",
                     "bucket-mb",
                     "staleness",
                     "comm-thread",
                     "compress",
                     "compress-where",
                     "momentum-correction",
                     "checkpoint-every",
                     "checkpoint-epochs",
                     "checkpoint-minutes"});
  table.exclude("shards", "accumulate");
  table.parse(argc, argv);
  settle_optimizer(table, options.config);
  settle_stem(table, options.config.model, options.config.stem);
  settle_compression(table, options.config);
  return options;
}

std::string to_yaml(const TrainConfig& config) {
  TrainConfig copy = config;
  std::string config_file;
  return "# annulus train --config FILE repeats this run\n" + train_table(copy, config_file).to_yaml();
}

UserError unknown_command(std::string_view word, const std::vector<std::string>& commands) {
  const std::string near = nearest_name(word, commands);
  if (near.empty())
    return UserError::format("{}: unknown command; there are {}", word, fmt::join(commands, ", "));
  return UserError::format("{}: unknown command; did you mean {}?", word, near);
}

}  // namespace annulus
