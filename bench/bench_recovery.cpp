#include "bench/bench_recovery.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "bench/bench_train.h"
#include "bench/random_killer.h"
#include "bench/statistics.h"
#include "launcher/supervisor.h"
#include "telemetry/progress.h"

namespace annulus {
namespace {

constexpr int64_t kEndless = 1'000'000'000;    // steps, and restarts
constexpr std::size_t kWarmupSteps = 10;       // before the first kill; they also tell how long a step takes
constexpr int64_t kLeastPauseNs = 50'000'000;  // mean; at least one step, to meet all of its parts

// From the last rank's end of one step to that of the next, without the first steps; ascending.
std::vector<double> step_times(const std::vector<int64_t>& ends_ns) {
  std::vector<double> times;
  for (std::size_t i = std::min(kWarmupSteps, ends_ns.size() / 2) + 1; i < ends_ns.size(); ++i) {
    times.push_back((ends_ns[i] - ends_ns[i - 1]) * 1e-6);
  }
  std::sort(times.begin(), times.end());
  return times;
}

struct DisturbedRun {
  JobOutcome outcome;
  std::vector<Kill> kills;
  std::vector<RecoveryReport> recoveries;
  std::vector<int64_t> next_ns;  // by recovery: all ranks had finished the next step

  // Whether each recovery is that of one kill, and the next step was seen.
  bool complete() const {
    if (kills.size() != recoveries.size() || kills.size() != next_ns.size()) return false;
    for (std::size_t i = 0; i < kills.size(); ++i) {
      if (recoveries[i].ranks != std::vector<int>{static_cast<int>(kills[i].rank)}) return false;
    }
    return true;
  }
  // From a kill to a moment of its recovery, in milliseconds; ascending.
  template <typename Moment>
  std::vector<double> after_kills(Moment moment) const {
    std::vector<double> times;
    for (std::size_t i = 0; i < kills.size(); ++i) times.push_back((moment(i) - kills[i].at_ns) * 1e-6);
    std::sort(times.begin(), times.end());
    return times;
  }
};

DisturbedRun run_disturbed(const Job& job, const Machine& machine, const BenchRecoveryOptions& options,
                           int64_t began_ns) {
  DisturbedRun run;
  const Segment* segment = nullptr;
  std::vector<int64_t> ends_ns;  // of the first steps
  std::optional<RandomKiller> killer;
  JobObserver observer;
  observer.started = [&](const Segment& its) { segment = &its; };
  observer.step = [&](const StepSummary& step) {
    if (run.next_ns.size() < run.recoveries.size() && step.end_ns > run.recoveries.back().released_ns) {
      run.next_ns.push_back(step.end_ns);
    }
    if (ends_ns.size() < kWarmupSteps) ends_ns.push_back(step.end_ns);
  };
  observer.recovered = [&](const RecoveryReport& report) { run.recoveries.push_back(report); };
  observer.tick = [&] {
    if (!killer && ends_ns.size() == kWarmupSteps) {
      const double step_ns = 1e6 * quantile(step_times(ends_ns), 0.5);
      killer.emplace(*segment,
                     KillPlan{.seed = options.seed,
                              .kills = options.kills,
                              .mean_pause_ns = std::max(kLeastPauseNs, static_cast<int64_t>(step_ns))});
    }
    if (killer && killer->done() && run.next_ns.size() >= killer->kills().size()) {
      segment->header().stop_requested.store(1, std::memory_order_release);
    }
  };
  run.outcome = run_job(job, machine, observer, began_ns);
  if (killer) {
    killer->done();
    run.kills = killer->kills();
  }
  return run;
}

// One line of the result.
struct Figure {
  const char* name;
  const char* text;
  std::vector<double> ms;  // ascending
};

void print_figure(const Figure& figure, bool json) {
  const double median = quantile(figure.ms, 0.5), p99 = quantile(figure.ms, 0.99), max = figure.ms.back();
  if (json) {
    fmt::print("{}\n", nlohmann::ordered_json{{"figure", figure.name},
                                              {"samples", figure.ms.size()},
                                              {"median_ms", median},
                                              {"p99_ms", p99},
                                              {"max_ms", max}}
                           .dump());
  } else {
    fmt::print("{:<42} {:>12.3f} {:>12.3f} {:>12.3f}\n", figure.text, median, p99, max);
  }
}

int fail(const JobOutcome& outcome, const char* why) {
  std::fprintf(stderr, "annulus: %s\n", outcome.failure.empty() ? why : outcome.failure.c_str());
  return outcome.exit_code != 0 ? outcome.exit_code : 1;
}

}  // namespace

int bench_recovery(const BenchRecoveryOptions& options, int64_t began_ns) {
  const Machine machine = Machine::this_machine();
  BenchTrainOptions training = options.training;
  training.config.max_restarts = kEndless;
  const Job job = plan_bench_run(training, machine, kEndless);
  if (!training.json) {
    print_bench_header(job, training.batch_per_worker,
                       fmt::format("{} kills, seed {}", options.kills, options.seed));
  }

  const DisturbedRun run = run_disturbed(job, machine, options, began_ns);
  if (run.outcome.exit_code != 0 || static_cast<int64_t>(run.kills.size()) < options.kills) {
    return fail(run.outcome, "stopped before all kills were made");
  }
  if (!run.complete()) return fail(run.outcome, "processes died that nobody here has killed; run it again");

  std::vector<int64_t> ends_ns;
  JobObserver observer;
  observer.step = [&](const StepSummary& step) { ends_ns.push_back(step.end_ns); };
  const JobOutcome undisturbed =
      run_job(plan_bench_run(training, machine, run.outcome.committed_step), machine, observer, now_ns());
  if (undisturbed.exit_code != 0) return fail(undisturbed, "stopped in the run without deaths");

  if (!training.json) {
    fmt::print("{:<42} {:>12} {:>12} {:>12}\n", "from the kill until", "median ms", "p99 ms", "max ms");
  }
  const std::vector<RecoveryReport>& recoveries = run.recoveries;
  const Figure figures[] = {
      {"known", "the launcher knows of the death",
       run.after_kills([&](std::size_t i) { return recoveries[i].known_ns; })},
      {"parked", "all others are out of their waits",
       run.after_kills([&](std::size_t i) { return recoveries[i].parked_ns; })},
      {"next_step", "all have finished the next step",
       run.after_kills([&](std::size_t i) { return run.next_ns[i]; })},
      {"undisturbed_step", "beside it: a step of the undisturbed run", step_times(ends_ns)},
  };
  for (const Figure& figure : figures) print_figure(figure, training.json);

  const bool same = undisturbed.committed_step == run.outcome.committed_step &&
                    undisturbed.checksum == run.outcome.checksum;
  if (training.json) {
    fmt::print("{}\n",
               nlohmann::ordered_json{{"model", job.run.spec.name},
                                      {"workers", job.run.config.workers},
                                      {"threads_per_worker", job.run.config.threads_per_worker},
                                      {"batch_per_worker", training.batch_per_worker},
                                      {"precision", job.run.config.precision},
                                      {"kills", run.kills.size()},
                                      {"seed", options.seed},
                                      {"steps", run.outcome.committed_step},
                                      {"checksum", fmt::format("{:016x}", run.outcome.checksum)},
                                      {"undisturbed_checksum", fmt::format("{:016x}", undisturbed.checksum)},
                                      {"same_bits", same}}
                   .dump());
  } else {
    fmt::print("{}: after {} steps the weights' checksum is {:016x}, and {:016x} without deaths\n",
               same ? "same bits" : "OTHER BITS", with_thousands(run.outcome.committed_step),
               run.outcome.checksum, undisturbed.checksum);
  }
  return same ? 0 : 1;
}

}  // namespace annulus
