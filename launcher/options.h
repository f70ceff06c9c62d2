// The options of every command: which exist, what they mean, which of them go together. Each is described
// once (options.cpp has those of train, of which other commands take some), and that one description serves
// the flag, the key of the YAML file, the saved configuration and the help text.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/network_spec.h"
#include "launcher/option_table.h"
#include "runtime/train_config.h"

namespace annulus {

// `annulus topo`: draws the machine and the plan of the run that these options describe.
struct TopoOptions {
  TrainConfig config;     // the placement, and what decides the segment's size
  std::string synthetic;  // hwloc's description of a machine to plan for; empty: this one
  bool verify = false;    // start the workers and read back where pages and CPUs really are
};

// `annulus bench train`: measures steps on synthetic data.
struct BenchTrainOptions {
  TrainConfig config;  // dataset is synthetic; batch_size is for the caller to set once the workers are known
  int64_t batch_per_worker = 64;
  std::string data_shape = "auto";  // 1x28x28, 3x32x32; auto: by the model
  bool json = false;
};

// `annulus bench layers`: measures the kernels of one worker's step.
struct BenchLayersOptions {
  TrainConfig config;  // one worker; steps is how many are measured
  std::string data_shape = "auto";
  bool json = false;
};

// `annulus bench collectives`: measures all-reduce and its kin.
struct BenchCollectivesOptions {
  TrainConfig config;  // workers, bind and smt
  std::string collective =
      "allreduce";  // or reduce-scatter, allgather, broadcast, gather, scatter, barrier, all
  std::vector<int64_t> bytes{4 << 10, 64 << 10, 1 << 20, 4 << 20, 25 << 20, 100 << 20};
  std::string algorithm = "auto";    // or direct, ring, hierarchical
  std::string dtype = "f32";         // or bf16, f16
  std::string placement = "both";    // shared: buffers in the segment; private: outside
  std::string transport = "memory";  // or tcp: over loopback, private buffers alone
  bool json = false;
};

// `annulus bench update`: measures the fused update.
struct BenchUpdateOptions {
  TrainConfig config;                                        // workers, bind and smt
  std::vector<int64_t> bytes{1 << 20, 25 << 20, 100 << 20};  // of the gradient
  bool json = false;
};

// `annulus bench compression`: measures selection, encoding and conversion of gradients on one core.
struct BenchCompressionOptions {
  std::vector<double> ratios{0.1, 0.01, 0.001};              // shares of the elements that are sent
  std::vector<int64_t> bytes{1 << 20, 25 << 20, 100 << 20};  // of the fp32 gradient
  TrainConfig config;  // model, whose gradient is measured in place of sizes, or empty; stem, bucket_mb
  int64_t batch = 32;  // with a model: images of the step that is measured beside it
  int64_t steps = 5;   // how many of these
  bool json = false;
};

// `annulus bench bridge`: all-reduce between hosts, in network namespaces of this machine.
struct BenchBridgeOptions {
  TrainConfig config;  // workers (of each host), bind and smt; model, if its gradient is measured, and ratio
  int hosts = 2;
  std::vector<int64_t> bytes{4 << 10, 64 << 10, 1 << 20, 25 << 20, 100 << 20};  // of the fp32 gradient
  std::string wire = "fp32";                                                    // fp32, fp16, bf16
  std::string rate;  // of each host's link, as tc takes it; empty: not limited
  bool json = false;
};

// `annulus bench recovery`: kills workers at random, and measures what that costs.
struct BenchRecoveryOptions {
  BenchTrainOptions training;  // its steps are as many as the deaths take
  int64_t kills = 50;
  uint64_t seed = 1;  // of whom dies when
};

// `annulus bench accuracy`: what compressed gradients do to accuracy.
struct BenchAccuracyOptions {
  TrainConfig config;  // compress and ratio are set run by run
  std::vector<double> ratios{0.1, 0.01, 0.001};
  int seeds = 3;  // from config.seed on
  bool json = false;
};

// `annulus check ALGORITHM`: the exchange alone, compared with a serial run.
struct CheckOptions {
  std::string algorithm;  // direct, ring, hierarchical
  int workers = 0;        // 0: auto
  int64_t shards = 0;     // 0: as many as workers
  int64_t steps = 100;
  int64_t dim = 262'144;
  int domains = 0;                   // pretended, for hierarchical; 0: the machine's
  std::string transport = "memory";  // or tcp: over loopback, each worker with weights of its own
  bool json = false;
};

// `annulus model NETWORK`: what a network looks like and costs.
struct ModelOptions {
  std::string model;  // a name or the path of a file
  std::string stem = "cifar";
  std::optional<ImageShape> input;  // nothing: what the file says, or what the stem is made for
  std::optional<int> classes;
  int64_t batch = 1;
  bool json = false;
};

// `annulus checkpoint ACTION`: what a checkpoint holds, whether it is intact, its model alone.
struct CheckpointOptions {
  std::string action;              // show, verify, export
  std::vector<std::string> paths;  // of checkpoints, or directories of them; of export the last one is OUT
  bool json = false;               // of show
};

// What a run goes on from: a checkpoint's configuration, which the file and the command line change.
struct BaseConfig {
  std::string yaml;
  std::string where;  // for messages
};

// Reads the command line of `annulus train` and the YAML file it names with --config. argv[0] is the
// command's own name and is skipped. Throws UserError (with flag or file, line and key; the value; the
// remedy), or HelpRequest. Combinations are left to check_combinations, which needs the number of workers.
TrainConfig parse_train(int argc, const char* const* argv, const BaseConfig* base = nullptr);
// A configuration that was saved, by itself.
TrainConfig parse_saved(const BaseConfig& saved);

// The same for the other commands.
TopoOptions parse_topo(int argc, const char* const* argv);
BenchTrainOptions parse_bench_train(int argc, const char* const* argv);
BenchLayersOptions parse_bench_layers(int argc, const char* const* argv);
BenchCollectivesOptions parse_bench_collectives(int argc, const char* const* argv);
BenchUpdateOptions parse_bench_update(int argc, const char* const* argv);
BenchCompressionOptions parse_bench_compression(int argc, const char* const* argv);
BenchBridgeOptions parse_bench_bridge(int argc, const char* const* argv);
BenchRecoveryOptions parse_bench_recovery(int argc, const char* const* argv);
BenchAccuracyOptions parse_bench_accuracy(int argc, const char* const* argv);

// argv[1] is the algorithm.
CheckOptions parse_check(int argc, const char* const* argv);

// argv[1] is the network.
ModelOptions parse_model(int argc, const char* const* argv);

// argv[1] is the action, then come its paths.
CheckpointOptions parse_checkpoint(int argc, const char* const* argv);

// The configuration as a YAML file that repeats the run when it is given with --config and nothing else.
// Equal configurations give equal text. For a repetition bit by bit `workers` and `shards` must be the
// numbers in force, not auto. The run directory is left out: it says where, not what.
std::string to_yaml(const TrainConfig& config);

// Refuses what cannot work together on `workers` workers (of each host; UserError), and returns notes on what
// can but should be known, one sentence each.
std::vector<std::string> check_combinations(const TrainConfig& config, int workers);

// For a first word that is no command: names the nearest of `commands`, or lists them.
UserError unknown_command(std::string_view word, const std::vector<std::string>& commands);

}  // namespace annulus
