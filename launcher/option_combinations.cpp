// Which options go together: what is settled once the command line was read, and what is refused.
#include "kernels/adam.h"
#include "launcher/option_parts.h"
#include "launcher/options.h"

namespace annulus {
namespace {

void check_schedule(const TrainConfig& config) {
  const auto refuse = [&](const char* name, auto value) {
    throw UserError::format("--{} {}: --schedule {} has no drops; leave it out, or give --schedule step",
                            name, value, config.schedule);
  };
  if (config.schedule == "step") return;
  if (config.decay_every) refuse("decay-every", *config.decay_every);
  if (config.decay_factor) refuse("decay-factor", *config.decay_factor);
}

void check_optimizer(const TrainConfig& config) {
  if (!uses_momentum(config) && config.momentum != 0) {
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

void check_compression(const TrainConfig& config) {
  if (config.ratio && config.compress != "topk") {
    throw UserError::format("--ratio {}: --compress {} has none; leave it out, or give --compress topk",
                            *config.ratio, config.compress);
  }
  if (config.ratio_warmup && config.compress != "topk") {
    throw UserError::format(
        "--ratio-warmup {}: --compress {} has no ratio; leave it out, or give --compress "
        "topk",
        *config.ratio_warmup, config.compress);
  }
  if (config.topk_values != "fp16" && (config.compress != "topk" || config.compress_where != "bridge")) {
    throw UserError::format(
        "--topk-values {}: it is for what --compress topk sends between hosts; leave it out, or give "
        "--compress topk --compress-where bridge",
        config.topk_values);
  }
  if (config.momentum_correction && config.compress != "topk") {
    throw UserError::format(
        "--momentum-correction on: --compress {} sends all elements, whose momentum needs no correction; "
        "leave it out, or give --compress topk",
        config.compress);
  }
  if (config.momentum_correction && !uses_momentum(config)) {
    throw UserError::format(
        "--momentum-correction on: {} has no momentum; leave it out, or give --optimizer momentum or "
        "nesterov",
        config.optimizer);
  }
  if (corrects_momentum(config) && config.clip > 0) {
    throw UserError::format(
        "--clip {}: with --momentum-correction on the norm would be that of momenta, not of the gradient; "
        "leave it out, or give --momentum-correction off",
        config.clip);
  }
  if (keeps_residuals(config) && config.staleness != 0) {
    throw UserError(
        "--staleness 1: to repeat one of its steps takes three generations of what --compress topk "
        "--compress-where all has not sent, and there are two; leave one of them out");
  }
}

// What several hosts cannot do. Where there are too few shards, workers per host are what can be changed.
void check_hosts(const TrainConfig& config, int workers_of_host, int64_t shards) {
  if (config.host_count == 1) return;
  const int64_t workers = int64_t{workers_of_host} * config.host_count;
  if (config.staleness != 0) {
    throw UserError::format(
        "--staleness {}: on several hosts the next step begins only once all have this one's weights; leave "
        "it "
        "out, or train on one host",
        config.staleness);
  }
  if (config.checkpoint_minutes > 0) {
    throw UserError::format(
        "--checkpoint-minutes {}: on several hosts checkpoints must be of the same step, and clocks do not "
        "choose one; give --checkpoint-every or --checkpoint-epochs",
        config.checkpoint_minutes);
  }
  if (keeps_residuals(config)) {
    throw UserError(
        "--compress-where all: on several hosts --compress topk works between them alone; give "
        "--compress-where bridge, or train on one host");
  }
  if (shards < workers) {
    throw UserError::format(
        "--shards {}: fewer than the {} workers ({} on each of {} hosts); give at least --shards {}, or "
        "fewer "
        "workers or hosts",
        shards, workers, workers_of_host, config.host_count, workers);
  }
  if (config.batch_size < shards) {
    throw UserError::format(
        "--batch-size {}: smaller than the {} shards of {} workers on each of {} hosts; give at least "
        "--batch-size {}, or fewer of them",
        config.batch_size, shards, workers_of_host, config.host_count, shards);
  }
}

}  // namespace

void settle_optimizer(const OptionTable& table, TrainConfig& config) {
  const OptionLevel named = std::max(table.level("optimizer"), OptionLevel::file);
  if (!uses_momentum(config) && table.level("momentum") < named) config.momentum = 0;
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

void settle_compression(const OptionTable& table, TrainConfig& config) {
  const bool top_k = config.compress == "topk";
  const OptionLevel named = std::max(table.level("compress"), OptionLevel::file);
  if (top_k) {
    config.ratio = config.ratio.value_or(kRatio);
    config.ratio_warmup = config.ratio_warmup.value_or(kRatioWarmup);
  } else {
    if (table.level("ratio") < named) config.ratio.reset();
    if (table.level("ratio-warmup") < named) config.ratio_warmup.reset();
    if (table.level("topk-values") < named) config.topk_values = TrainConfig().topk_values;
  }
  const OptionLevel correction = table.level("momentum-correction");
  if ((!top_k && correction < named) ||
      (!uses_momentum(config) && correction < std::max(table.level("optimizer"), OptionLevel::file))) {
    config.momentum_correction = false;
  }
}

std::vector<std::string> check_combinations(const TrainConfig& config, int workers_of_host) {
  std::vector<std::string> notes;
  const int64_t shards = resolved(config, workers_of_host).shards;
  const int64_t workers = int64_t{workers_of_host} * config.host_count;
  check_hosts(config, workers_of_host, shards);
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
  check_compression(config);
  if (config.compress != "none" && !compresses_shards(config) && config.host_count == 1) {
    notes.push_back(fmt::format(
        "--compress {}: nothing is compressed, since all workers share this box's memory, where it "
        "costs time and saves none; --compress-where all does it all the same",
        config.compress));
  }
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

}  // namespace annulus
