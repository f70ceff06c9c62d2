// A run of a network that is tiny and yet has all that a network can be made of: what counts is the number of
// runs, and of steps.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "launcher/job.h"
#include "runtime/synthetic_data.h"

namespace annulus {

// A way to make it: workers, and what else is to be changed.
struct TinyWay {
  const char* name;
  int workers;
  void (*change)(TrainConfig&);
};

inline constexpr TinyWay kTinyWays[] = {
    {"two", 2, [](TrainConfig&) {}},
    {"three", 3, [](TrainConfig&) {}},
    {"four", 4, [](TrainConfig&) {}},
    {"ring", 3, [](TrainConfig& config) { config.algorithm = "ring"; }},
    {"clip", 2, [](TrainConfig& config) { config.clip = 0.1; }},
    {"staleness", 2, [](TrainConfig& config) { config.staleness = 1; }},
    {"staleness_clip", 2,
     [](TrainConfig& config) {
       config.staleness = 1;
       config.clip = 0.1;
     }},
    {"comm_thread", 2, [](TrainConfig& config) { config.comm_thread = "0"; }},
    {"adam", 2,
     [](TrainConfig& config) {
       config.optimizer = "adam";
       config.momentum = 0;
     }},
    {"top_k", 2,
     [](TrainConfig& config) {
       config.compress = "topk";
       config.ratio = 0.1;
       config.compress_where = "all";
       config.momentum_correction = true;
     }},
};

inline std::string name_of_way(const testing::TestParamInfo<TinyWay>& info) { return info.param.name; }

inline TrainConfig tiny_config(const TinyWay& way) {
  TrainConfig config;
  config.dataset = "synthetic";
  config.workers = way.workers;
  config.bind = "none";
  config.batch_size = 16;  // four steps an epoch, which is evaluated
  config.shards = 4;
  config.steps = 6;
  config.bucket_mb = 0.001;  // several
  config.max_restarts = 100;
  config.deadline = 60;
  config.schedule = "constant";
  way.change(config);
  return config;
}

// config.model is set here.
inline Job plan_tiny_run(TrainConfig config, const Machine& machine) {
  config.model = testing::TempDir() + "/tiny_network_" + std::to_string(getpid()) + ".yaml";
  std::ofstream(config.model) << R"(layers:
  - conv: {out: 4, kernel: 3, stride: 2, padding: 1}
  - batch_norm: {relu: true}
  - residual: {relu: true, layers: [conv: {out: 4, kernel: 3, padding: 1}, batch_norm]}
  - linear: {out: classes}
)";
  Job job = plan_job(config, machine, describe_synthetic({1, 8, 8}, 3, 64, 16), false);
  std::filesystem::remove(config.model);
  return job;
}

}  // namespace annulus
