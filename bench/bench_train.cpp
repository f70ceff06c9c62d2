#include "bench/bench_train.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "bench/statistics.h"
#include "launcher/placement_report.h"
#include "launcher/supervisor.h"
#include "launcher/version.h"

namespace annulus {
namespace {

constexpr int64_t kWarmupSteps = 10;

struct Measurement {
  std::vector<double> step_ms;  // from the last rank's end of one step to that of the next
  double compute_ms = 0, comm_ms = 0, sync_ms = 0, hidden_ms = 0;  // means over steps
  double images_per_s = 0;
};

Measurement measure(const std::vector<StepSummary>& steps) {
  Measurement result;
  int64_t images = 0;
  for (std::size_t i = 1; i < steps.size(); ++i) {
    result.step_ms.push_back((steps[i].end_ns - steps[i - 1].end_ns) * 1e-6);
    images += steps[i].images;
    const double share = 1e-6 / static_cast<double>(steps.size() - 1);
    result.compute_ms += steps[i].compute_ns * share;
    result.comm_ms += steps[i].comm_ns * share;
    result.sync_ms += steps[i].sync_ns * share;
    result.hidden_ms += steps[i].hidden_ns * share;
  }
  result.images_per_s = images / ((steps.back().end_ns - steps.front().end_ns) * 1e-9);
  std::sort(result.step_ms.begin(), result.step_ms.end());
  return result;
}

}  // namespace

ImageShape bench_image(const std::string& data_shape, const std::string& model) {
  if (data_shape == "3x224x224") return {3, 224, 224};
  const bool color = data_shape == "3x32x32" || (data_shape == "auto" && model != "mlp");
  return color ? ImageShape{3, 32, 32} : ImageShape{1, 28, 28};
}

Job plan_bench_run(const BenchTrainOptions& options, const Machine& machine, int64_t steps) {
  TrainConfig config = options.config;
  config.workers = count_workers(config, machine);
  config.batch_size = options.batch_per_worker * config.workers;
  config.steps = steps;
  config.schedule = "constant";
  const DatasetInfo dataset = describe_synthetic(bench_image(options.data_shape, config.model), 10,
                                                 std::max<int64_t>(8 * config.batch_size, 1024), 0);
  return plan_job(config, machine, dataset, true);
}

void print_bench_header(const Job& job, int64_t batch_per_worker, const std::string& length) {
  fmt::print("{}\n{}, {}, batch {} x {}, {}, {}, {}\n",
             version_text({}).substr(0, version_text({}).find('\n')), job.run.spec.name,
             job.run.config.precision, job.run.config.workers, batch_per_worker, job.run.network.library,
             job.run.network.isa, length);
  for (const std::string& note : job.notes) fmt::print("note: {}\n", note);
  for (const std::string& warning : job.warnings) fmt::print("warning: {}\n", warning);
}

int bench_train(const BenchTrainOptions& options, int64_t began_ns) {
  const Machine machine = Machine::this_machine();
  const int64_t measured = options.config.steps.value_or(100);
  const Job job = plan_bench_run(options, machine, kWarmupSteps + measured);
  const TrainConfig& config = job.run.config;
  if (!options.json) {
    print_bench_header(job, options.batch_per_worker, fmt::format("{} steps", measured));
  }

  std::vector<StepSummary> steps;
  JobObserver observer;
  observer.step = [&](const StepSummary& step) {
    if (step.step >= static_cast<uint64_t>(kWarmupSteps)) steps.push_back(step);
  };
  const JobOutcome outcome = run_job(job, machine, observer, began_ns);
  if (outcome.exit_code != 0 || steps.size() < 2) {
    std::fprintf(stderr, "annulus: %s\n",
                 outcome.failure.empty() ? "stopped before a step was measured" : outcome.failure.c_str());
    return outcome.exit_code != 0 ? outcome.exit_code : 1;
  }
  const Measurement result = measure(steps);
  const double median = quantile(result.step_ms, 0.5), p99 = quantile(result.step_ms, 0.99);
  const double pss_mib = outcome.pss_bytes / 1048576.0;
  if (options.json) {
    fmt::print("{}\n", nlohmann::ordered_json{{"model", job.run.spec.name},
                                              {"workers", config.workers},
                                              {"threads_per_worker", config.threads_per_worker},
                                              {"batch_per_worker", options.batch_per_worker},
                                              {"precision", config.precision},
                                              {"steps", result.step_ms.size()},
                                              {"images_per_s", result.images_per_s},
                                              {"median_step_ms", median},
                                              {"p99_step_ms", p99},
                                              {"compute_ms", result.compute_ms},
                                              {"comm_ms", result.comm_ms},
                                              {"sync_ms", result.sync_ms},
                                              {"hidden_ms", result.hidden_ms},
                                              {"pss_mib", pss_mib}}
                           .dump());
    return 0;
  }
  fmt::print("{:>12} {:>12} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}\n", "images/s", "median ms", "p99 ms",
             "compute", "comm", "sync", "hidden", "PSS MiB");
  fmt::print("{:>12.0f} {:>12.3f} {:>10.3f} {:>10.3f} {:>10.3f} {:>10.3f} {:>10.3f} {:>10.1f}\n",
             result.images_per_s, median, p99, result.compute_ms, result.comm_ms, result.sync_ms,
             result.hidden_ms, pss_mib);
  return 0;
}

}  // namespace annulus
