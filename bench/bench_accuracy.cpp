#include "bench/bench_accuracy.h"

#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <vector>

#include "launcher/job.h"
#include "launcher/supervisor.h"
#include "launcher/version.h"
#include "runtime/checksum.h"

namespace annulus {
namespace {

struct Run {
  JobOutcome outcome;
  std::optional<EvalSummary> evaluation;  // the last one
};

Run train(const TrainConfig& config, const Machine& machine, const DatasetInfo& dataset) {
  Run run;
  JobObserver observer;
  observer.evaluation = [&](const EvalSummary& evaluation) { run.evaluation = evaluation; };
  observer.warning = [](const std::string& text) { std::fprintf(stderr, "warning: %s\n", text.c_str()); };
  run.outcome = run_job(plan_job(config, machine, dataset, true), machine, observer, now_ns());
  return run;
}

// Of a run that sends this share of a weight's gradient, or without one all of it.
TrainConfig configuration(TrainConfig config, std::optional<double> ratio) {
  config.eval_every = 0;  // at the end
  config.ratio = ratio;
  if (!ratio) {
    config.compress = "none";
    config.ratio_warmup.reset();
    config.momentum_correction = false;
  }
  return config;
}

double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

}  // namespace

int bench_accuracy(const BenchAccuracyOptions& options) {
  const Machine machine = Machine::this_machine();
  TrainConfig config = options.config;
  const DatasetInfo dataset = describe_dataset(config.dataset, config.data);
  if (!options.json) {
    fmt::print("annulus {}, commit {}\n{} on {}, batch {}, shards: {}; test accuracy in %, seeds {} to {}\n",
               program_version(), program_commit(), config.model, config.dataset, config.batch_size,
               resolved(config, count_workers(config, machine)).shards, config.seed,
               config.seed + options.seeds - 1);
    fmt::print("{:<14} {:>8} {:>12}  {}\n", "gradients", "mean", "to whole", "by seed");
  }
  std::vector<std::optional<double>> ratios{std::nullopt};  // whole gradients first
  ratios.insert(ratios.end(), options.ratios.begin(), options.ratios.end());
  double whole = 0;
  for (const std::optional<double>& ratio : ratios) {
    config = configuration(options.config, ratio);
    std::vector<double> accuracies;
    for (int i = 0; i < options.seeds; ++i) {
      config.seed = options.config.seed + i;
      const Run run = train(config, machine, dataset);
      if (run.outcome.exit_code != 0 || !run.evaluation) {
        std::fprintf(stderr, "annulus: %s\n",
                     run.outcome.failure.empty() ? "stopped before the end" : run.outcome.failure.c_str());
        return run.outcome.exit_code != 0 ? run.outcome.exit_code : 1;
      }
      accuracies.push_back(100 * run.evaluation->accuracy);
      if (!options.json) continue;
      fmt::print("{}\n", nlohmann::ordered_json{{"model", config.model},
                                                {"dataset", config.dataset},
                                                {"compress", config.compress},
                                                {"ratio", ratio.value_or(1)},
                                                {"seed", config.seed},
                                                {"steps", run.outcome.committed_step},
                                                {"test_accuracy", run.evaluation->accuracy},
                                                {"weights", format_checksum(run.outcome.checksum)}}
                             .dump());
      std::fflush(stdout);
    }
    if (!ratio) whole = mean(accuracies);
    if (options.json) continue;
    fmt::print("{:<14} {:>8.2f} {:>+12.2f}  {:.2f}\n",
               ratio ? fmt::format("top {:g} %", 100 * *ratio) : "whole", mean(accuracies),
               mean(accuracies) - whole, fmt::join(accuracies, " "));
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace annulus
