// TrainConfig: one training run, as flags and the YAML file describe it. Which flags exist, their help and
// how text becomes a value is the option table's affair (launcher/options.cpp).
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace annulus {

struct TrainConfig {
  // What is trained, on what.
  std::string model = "simplecnn";        // a name, or the path of a network's YAML file (runtime/models.h)
  std::string stem = "cifar";             // of a model that has one: cifar, imagenet
  std::string dataset = "fashion-mnist";  // fashion-mnist, mnist, cifar10, cifar100, synthetic
  std::string data;                       // directory of the data files; empty: the data set's usual places

  // On which cores.
  int workers = 0;  // 0: auto
  int threads_per_worker = 1;
  std::string bind = "core";  // core, l3, numa, socket, none, or a list of CPUs like "0-3,8"
  bool smt = false;           // use every hardware thread as a core of its own

  // On which hosts. Where, not what, save for their number.
  std::string hosts;  // a file; empty: this box, or what Slurm says; "-": what the first host writes to stdin
  std::optional<int64_t>
      node;                 // this one, where each is started by hand; absent: the first starts the others
  std::string secret_file;  // what all of them know
  std::optional<int64_t> port;  // where the first one listens for the others
  double join_deadline = 60;    // seconds that hosts, and then their workers, wait for each other
  std::string remote_path;      // of this program on the others; empty: as here
  int host_count = 1;           // how many there are, once that is known

  // How long, in which portions.
  int64_t batch_size = 128;         // global
  int64_t shards = 0;               // of the global batch; 0: `accumulate` for each worker of each host
  int64_t accumulate = 1;           // counts when shards is 0
  int64_t epochs = 6;               // counts when steps is absent
  std::optional<int64_t> steps;     // overrides epochs
  std::string last_batch = "keep";  // keep, drop
  int64_t eval_every = 1;           // epochs between evaluations; 0: only at the end

  // With which arithmetic.
  std::string precision = "fp32";      // fp32, bf16
  std::string convolutions;            // algorithms instead of the rule's, "conv1=wdw,..."
  bool tune = false;                   // measure, and fill convolutions
  bool precision_fallback = false;     // fp32 where the processor has no bf16
  std::string optimizer = "momentum";  // sgd, momentum, nesterov, adam, adamw
  double learning_rate = 0.04;
  double momentum = 0.9;
  double weight_decay = 0;
  std::optional<double> beta1, beta2, epsilon;  // of adam and adamw; absent: AdamOptions' (kernels/adam.h)
  std::string schedule = "cosine";              // constant, step, cosine
  int64_t warmup = 0;                           // steps over which the rate rises to learning_rate
  std::optional<int64_t> decay_every;           // epochs; of schedule step; absent: kDecayEvery
  std::optional<double> decay_factor;           // of schedule step; absent: kDecayFactor
  double clip = 0;                              // largest L2 norm of the gradient; 0: not clipped
  bool augment = false;
  uint64_t seed = 1;

  // How gradients travel.
  std::string algorithm = "auto";  // auto, direct, ring, hierarchical
  double bucket_mb = 25;
  std::string comm_thread = "auto";    // auto, inline, sibling, or a list of CPUs like "2,3"
  int staleness = 0;                   // 1: gradients are those of the weights one update back
  std::string compress = "none";       // none, fp16, bf16, topk
  std::optional<double> ratio;         // of topk: share of a weight's gradient that is sent; absent: kRatio
  std::optional<double> ratio_warmup;  // epochs over which it falls to that; absent: kRatioWarmup
  std::string topk_values = "fp16";    // fp16, fp8: what they are between hosts
  bool momentum_correction = false;    // with topk and an optimizer that has momentum
  std::string compress_where = "bridge";  // between hosts alone; all: of every shard

  // Around the run.
  std::string run_dir;            // empty: runs/<date>-<model> below the working directory
  std::string resume;             // latest, or a checkpoint's path; empty: begin anew
  int64_t checkpoint_every = 0;   // steps from one checkpoint to the next; 0: none but the last
  int64_t checkpoint_epochs = 0;  // epochs likewise
  double checkpoint_minutes = 0;  // minutes likewise
  int64_t keep = 3;               // checkpoints that are kept, the latest ones
  double deadline = 10;           // seconds without a heartbeat after which a worker counts as hung
  int64_t max_restarts = 3;       // processes replaced in 1,000 steps
  bool quiet = false;
};

// Usual values of --schedule step.
inline constexpr int64_t kDecayEvery = 30;
inline constexpr double kDecayFactor = 0.1;

// Usual values of --ratio and --ratio-warmup.
inline constexpr double kRatio = 0.01;
inline constexpr double kRatioWarmup = 1;

// With workers (of each host) and shards (of all) as numbers.
inline TrainConfig resolved(TrainConfig config, int workers) {
  config.workers = workers;
  if (config.shards == 0) config.shards = int64_t{config.host_count} * workers * config.accumulate;
  config.accumulate = 1;
  return config;
}

// Whether checkpoints are made while the run goes on, not only when it ends.
inline bool makes_checkpoints(const TrainConfig& config) {
  return config.checkpoint_every > 0 || config.checkpoint_epochs > 0 || config.checkpoint_minutes > 0;
}

// Whether gradients are compressed inside the box, as if each shard were a host of its own.
inline bool compresses_shards(const TrainConfig& config) {
  return config.compress != "none" && config.compress_where == "all";
}

// Whether what top-k has not sent of a shard's gradient is kept for the next step.
inline bool keeps_residuals(const TrainConfig& config) {
  return compresses_shards(config) && config.compress == "topk";
}

// Whether top-k leaves of each host's gradient what it does not send to the others.
inline bool keeps_host_residual(const TrainConfig& config) {
  return config.host_count > 1 && config.compress == "topk" && config.compress_where == "bridge";
}

inline bool uses_momentum(const TrainConfig& config) {
  return config.optimizer == "momentum" || config.optimizer == "nesterov";
}

// Whether momentum is that of each shard's, or host's, gradient before top-k, not that of what was sent.
inline bool corrects_momentum(const TrainConfig& config) {
  const bool selects = keeps_residuals(config) || keeps_host_residual(config);
  return selects && uses_momentum(config) && config.momentum_correction;
}

inline bool uses_adam(const TrainConfig& config) {
  return config.optimizer == "adam" || config.optimizer == "adamw";
}

}  // namespace annulus
